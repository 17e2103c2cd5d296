//! The key `environment` of whatever starts a program.

use super::{Fields, doc};
use crate::pipeline::environment::{EnvironmentValue, EnvironmentVariable, is_variable};
use crate::pipeline::syntax::tree::{self, Node, TomlValue};
use crate::pipeline::syntax::values::{ValueFault, text_value, wrong_type};

/// Marks the processes that reflux starts.
const RESERVED: &str = "REFLUX_PROGRAM";

impl Fields<'_> {
    /// Reads `environment = { NAME = "value", TOKEN = { env = "X" } }`; empty if it is not given.
    pub fn environment(&mut self) -> Vec<EnvironmentVariable> {
        let about = "variables for the program, beside reflux's own: texts, or { env = \"X\" } for the value of the variable X, \
                     which is a secret and is written nowhere";
        let variables = self.optional_variables("environment", about).unwrap_or_default();
        for variable in &variables {
            if variable.name == RESERVED {
                let message = format!("`{RESERVED}` marks the processes that reflux starts, and cannot be set");
                self.problem("environment", message, "take it out");
            } else if !is_variable(&variable.name) {
                let message = format!("{:?} cannot be the name of a variable", variable.name);
                self.problem("environment", message, "a name has letters, digits and _, and begins with no digit");
            }
        }
        variables
    }

    /// Reads a table of variables: texts, or `{ env = "X" }` for the value of another variable; `None` if it is not
    /// given.
    fn optional_variables(&mut self, key: &'static str, about: &'static str) -> Option<Vec<EnvironmentVariable>> {
        let literal = |variables: &Vec<EnvironmentVariable>| {
            let pairs = variables.iter().map(|variable| {
                let value = match &variable.value {
                    EnvironmentValue::Text(text) => tree::quote(text),
                    EnvironmentValue::From(name) => format!("{{ env = {} }}", tree::quote(name)),
                };
                format!("{} = {value}", tree::key(&variable.name))
            });
            let pairs: Vec<String> = pairs.collect();
            if pairs.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", pairs.join(", ")) }
        };
        self.maybe(doc(key, about, "a table of texts"), literal, |n| match &n.value {
            TomlValue::Table(t) => t.entries.iter().map(|(name, e)| variable_value(name, &e.node)).collect(),
            _ => Err(wrong_type(
                n,
                "a table of texts, e.g. { CUDA_VISIBLE_DEVICES = \"0\", HF_TOKEN = { env = \"HF_TOKEN\" } }",
            )),
        })
    }
}

/// Reads a variable of a program's environment.
fn variable_value(name: &str, node: &Node) -> Result<EnvironmentVariable, ValueFault> {
    let from = match &node.value {
        TomlValue::Table(table) if table.entries.len() == 1 => table.get("env").map(|entry| &entry.node.value),
        _ => None,
    };
    let value = match from {
        Some(TomlValue::Text(from)) if is_variable(from) => EnvironmentValue::From(from.clone()),
        Some(_) => return Err(wrong_type(node, "a text, or { env = \"X\" } with the name of a variable")),
        None => match &node.value {
            TomlValue::Table(_) => return Err(wrong_type(node, "a text, or { env = \"X\" }")),
            _ => EnvironmentValue::Text(text_value(node)?),
        },
    };
    Ok(EnvironmentVariable { name: name.to_owned(), value })
}
