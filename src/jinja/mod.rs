//! Jinja templates, rendered as transformers renders chat templates: the language of Jinja2 in its sandbox, with
//! Python's values, operators, string methods and text forms of values.
//!
//! Templates come from untrusted models, so everything is bounded. The parser bounds length and nesting, and the syntax
//! tree has a list for everything that can be chained without brackets. During rendering, every operation and every
//! byte is paid from a budget in advance ([`RenderOptions::work`]), nested evaluations are counted, lists and
//! dicts are nested at most about 60 deep, and no value can contain itself. So a template cannot overflow the stack,
//! and its time and memory are proportional to its budget.
//!
//! Not supported, and refused by name: templates of several files (`include`, `import`, `extends`, `block`),
//! `autoescape`, filters that write HTML, whole numbers beyond 64 bits, and the text of a generator or function, which
//! in Python is an address.

mod arguments;
mod ast;
mod budget;
mod chars;
mod checks;
mod date;
mod error;
mod evaluate;
mod expressions;
mod filters;
mod format;
mod interpreter;
mod lexer;
mod lookup;
mod loops;
mod methods;
mod numbers;
mod operators;
mod parser;
mod print;
mod runtime;
mod sort;
mod statements;
mod strings;
mod text_filters;
mod value;

use std::collections::BTreeSet;

pub use date::DateTime;
pub use error::{TemplateError, TemplateErrorKind};
pub use interpreter::RenderOptions;
pub use lexer::Whitespace;
pub use value::{Dict, Function, ListKind, Value, ValueList};

/// Names that every template has.
const GLOBALS: [&str; 6] = ["range", "dict", "namespace", "raise_exception", "strftime_now", "loop"];

/// A parsed template. The default one writes nothing.
#[derive(Default)]
pub struct Template {
    parsed: parser::Parsed,
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// The source is not in the language, is longer than 512 KiB, or is nested more than 100 deep.
    pub fn parse(source: &str, whitespace: Whitespace) -> Result<Self, TemplateError> {
        Ok(Self { parsed: parser::parse(source, whitespace)? })
    }

    /// Renders it with these variables.
    ///
    /// # Errors
    /// An operation fails, the template raises an exception, or a limit is reached.
    ///
    /// ```
    /// use reflux::jinja::{RenderOptions, Template, Value, Whitespace};
    ///
    /// let template = Template::parse("{% for c in name %}{{ c | upper }}.{% endfor %}", Whitespace::Trimmed)?;
    /// let options = || RenderOptions { work: 1_000, output: 1_000, strict: true, now: None };
    /// assert_eq!(template.render(&[("name", Value::text("dpo"))], options())?, "D.P.O.");
    /// assert!(template.render(&[("name", Value::text(&"x".repeat(10_000)))], options()).is_err());
    /// # Ok::<(), reflux::jinja::TemplateError>(())
    /// ```
    pub fn render(&self, variables: &[(&str, Value)], options: RenderOptions) -> Result<String, TemplateError> {
        interpreter::Interpreter::new(options, variables).render(&self.parsed.body)
    }

    /// The names that the template reads and never assigns: the variables that it needs.
    pub fn free_names(&self) -> BTreeSet<&str> {
        let special = ["caller", "varargs", "kwargs"];
        let known = |name: &&str| !GLOBALS.contains(name) && !special.contains(name);
        self.parsed.free_names.iter().map(String::as_str).filter(known).collect()
    }
}
