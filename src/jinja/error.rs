//! Errors of templates.

use std::fmt;

/// Why a template could not be parsed or rendered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateError {
    /// What kind of error it is.
    pub kind: TemplateErrorKind,
    /// The error in words, as Jinja2 or Python words it where they have it.
    pub message: String,
    /// Line of the template, from 1; 0 if it is not known.
    pub line: u32,
}

/// The kinds of template errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TemplateErrorKind {
    /// The template cannot be parsed.
    Syntax,
    /// An operation failed while the template was rendered.
    Runtime,
    /// The template itself refused its input (`raise_exception`).
    Raised,
    /// A limit on nesting, work or output was reached.
    Limit,
}

pub(super) type Result<T> = std::result::Result<T, TemplateError>;

impl TemplateError {
    pub(super) fn new(kind: TemplateErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), line: 0 }
    }

    /// Sets the line unless an inner construct has set it.
    pub(super) fn at(mut self, line: u32) -> Self {
        if self.line == 0 {
            self.line = line;
        }
        self
    }
}

/// A failed operation.
pub(super) fn fail<T>(message: impl Into<String>) -> Result<T> {
    Err(TemplateError::new(TemplateErrorKind::Runtime, message))
}

/// The first 40 characters of a text, for an error message.
pub(super) fn excerpt(text: &str) -> String {
    text.chars().take(40).collect()
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        if self.line > 0 { write!(f, " (line {})", self.line) } else { Ok(()) }
    }
}

impl std::error::Error for TemplateError {}
