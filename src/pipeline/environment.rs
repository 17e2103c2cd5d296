//! Variables for a program that reflux starts: the key `environment`.

/// A variable of a program's environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvironmentVariable {
    /// Its name.
    pub name: String,
    /// Its value, or where the value is.
    pub value: EnvironmentValue,
}

/// The value of a variable of a program's environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnvironmentValue {
    /// The text itself.
    Text(String),
    /// The name of a variable of reflux's own environment. Its value is a secret.
    From(String),
}

/// Whether a text can name a variable.
pub(crate) fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}
