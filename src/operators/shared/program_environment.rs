//! [`ProgramEnvironment`]: the variables of the key `environment`, with their values.

use std::ffi::OsString;
use std::process::Command;

use crate::engine::remote::transport::Secret;
use crate::error::{Error, Result};
use crate::pipeline::{EnvironmentValue, EnvironmentVariable};

/// Variables for a program outside, beside reflux's own. It has no `Debug`: some values are secrets.
#[derive(Clone, Default)]
pub(crate) struct ProgramEnvironment {
    variables: Vec<(String, OsString)>,
    secrets: Vec<Secret>,
}

impl ProgramEnvironment {
    /// Looks up the values of the variables that reflux's own environment has.
    ///
    /// # Errors
    /// One is not there.
    pub fn new(variables: &[EnvironmentVariable]) -> Result<Self> {
        let mut environment = Self::default();
        for EnvironmentVariable { name, value } in variables {
            let value = match value {
                EnvironmentValue::Text(text) => text.into(),
                EnvironmentValue::From(from) => {
                    let value =
                        std::env::var_os(from).filter(|value| !value.is_empty()).ok_or_else(|| unset(name, from))?;
                    environment.secrets.push(Secret::new(value.to_string_lossy()));
                    value
                }
            };
            environment.variables.push((name.clone(), value));
        }
        Ok(environment)
    }

    /// Gives the variables to a program.
    pub fn set(&self, command: &mut Command) {
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
    }

    /// The same text with `***` for every secret.
    pub fn scrub(&self, text: &str) -> String {
        self.secrets.iter().fold(text.to_owned(), |text, secret| secret.scrub(&text).into_owned())
    }
}

fn unset(name: &str, from: &str) -> Error {
    Error::user(format!("the environment variable {from} is not set; it has the value of `environment.{name}`"))
        .help(format!("export {from}=…, in the shell that starts reflux"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_and_secrets_are_not_shown() {
        let variable = |name: &str, value| EnvironmentVariable { name: name.to_owned(), value };
        let path = std::env::var("PATH").unwrap();
        let text = variable("A", EnvironmentValue::Text("plain".into()));
        let environment =
            ProgramEnvironment::new(&[text, variable("B", EnvironmentValue::From("PATH".into()))]).unwrap();
        let mut command = Command::new("true");
        environment.set(&mut command);
        let given: Vec<_> =
            command.get_envs().map(|(name, value)| (name.to_str(), value.and_then(|v| v.to_str()))).collect();
        assert_eq!(given, [(Some("A"), Some("plain")), (Some("B"), Some(path.as_str()))]);
        assert_eq!(environment.scrub(&format!("plain {path}.")), "plain ***.");
        let absent = variable("C", EnvironmentValue::From("REFLUX_NO_SUCH_VARIABLE".into()));
        let error = ProgramEnvironment::new(&[absent]).err().unwrap();
        assert!(error.to_string().contains("REFLUX_NO_SUCH_VARIABLE is not set"), "{error}");
    }
}
