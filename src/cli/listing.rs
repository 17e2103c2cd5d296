//! `reflux schema` and `reflux operators`: what there is, from the same tables that check it.

use crate::data::{SCHEMAS, Schema};
use crate::error::{Error, Result};
use crate::operators;
use crate::pipeline::{keys_table, nearest};

#[derive(clap::Args)]
pub struct SchemaArgs {
    /// One schema; all of them if absent
    name: Option<String>,
}

#[derive(clap::Args)]
pub struct OperatorsArgs {
    /// One operator; all of them if absent
    name: Option<String>,
}

fn no_such(what: &str, name: &str, there_are: &[&str]) -> Error {
    let near = nearest(name, there_are.iter().copied()).map(|n| format!("did you mean `{n}`? ")).unwrap_or_default();
    Error::user(format!("there is no {what} `{name}`")).help(format!("{near}there are: {}", there_are.join(", ")))
}

fn columns(schema: &Schema) -> String {
    let name = |c: &crate::data::Column| c.name.len();
    let width = schema.columns.iter().map(name).max().unwrap_or(0);
    let kinds: Vec<String> =
        schema.columns.iter().map(|c| format!("{:?}{}", c.kind, if c.nullable { "?" } else { "" })).collect();
    let kind_width = kinds.iter().map(String::len).max().unwrap_or(0);
    let line =
        |(c, kind): (&crate::data::Column, &String)| format!("  {:width$}  {kind:kind_width$}  {}", c.name, c.about);
    let lines: Vec<String> = schema.columns.iter().zip(&kinds).map(line).collect();
    format!("{}: {}\n{}\n", schema.name, schema.about, lines.join("\n"))
}

pub fn schema(args: &SchemaArgs) -> Result<()> {
    let names: Vec<&str> = SCHEMAS.iter().map(|s| s.name).collect();
    match &args.name {
        Some(name) => {
            let found = SCHEMAS.iter().find(|s| s.name == name).ok_or_else(|| no_such("schema", name, &names))?;
            super::print(&columns(found))
        }
        None => super::print(&SCHEMAS.iter().map(|s| columns(s)).collect::<Vec<_>>().join("\n")),
    }
}

pub fn operators(args: &OperatorsArgs) -> Result<()> {
    let names: Vec<&str> = operators::ALL.iter().map(|k| k.name).collect();
    let Some(name) = &args.name else {
        let width = names.iter().map(|n| n.len()).max().unwrap_or(0);
        let lines: Vec<String> = operators::ALL.iter().map(|k| format!("{:width$}  {}", k.name, k.about)).collect();
        return super::print(&lines.join("\n"));
    };
    let kind = operators::ALL.iter().find(|k| k.name == name).ok_or_else(|| no_such("operator", name, &names))?;
    super::print(&format!("{}: {}\n\n{}\n{}", kind.name, kind.about, keys_table(&kind.keys()), kind.example))
}
