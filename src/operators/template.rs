//! Prompt templates: Jinja text, built in or from a file. They see only the variables they are given.

use std::path::Path;

use crate::error::{Error, Result};
use crate::jinja::{self, Settings, Value, Whitespace};
use crate::pipeline::Fields;
use crate::store::Lines;

/// Work that a template may do, beside two units for each byte that it is given; see [`Settings::work`].
const WORK: u64 = 1_000_000;
/// Bytes that a template may write, beside four for each byte that it is given.
const LONGEST: usize = 4 << 20;

const BUILT_IN: &[(&str, &str)] = &[
    ("additive-5", include_str!("templates/additive-5.jinja")),
    ("instruct", include_str!("templates/instruct.jinja")),
    ("meta-judge", include_str!("templates/meta-judge.jinja")),
    ("pairwise", include_str!("templates/pairwise.jinja")),
];

fn built_in(name: &str) -> Option<&'static str> {
    BUILT_IN.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

fn unreadable(name: &str, why: &Error) -> Error {
    let names: Vec<_> = BUILT_IN.iter().map(|(n, _)| *n).collect();
    Error::user(format!("template `{name}`: {why}"))
        .help(format!("name a file, or one of the built-in templates: {}", names.join(", ")))
}

/// A template that parses.
pub struct Template {
    name: String,
    template: jinja::Template,
}

impl Template {
    /// The template that `key` names: a built-in one, or a file.
    pub fn field(fields: &mut Fields<'_>, key: &'static str, about: &'static str, default: &'static str) -> Self {
        let name = fields.text(key, about, Some(default));
        let loaded = match built_in(&name) {
            Some(text) => Self::parse(&name, text),
            None => {
                fields.read_text(key, &name).map_err(|e| unreadable(&name, &e)).and_then(|t| Self::parse(&name, &t))
            }
        };
        loaded.unwrap_or_else(|e| {
            fields.problem(key, e.to_string(), e.help_text().unwrap_or_default());
            Self::empty()
        })
    }

    /// As [`Template::field`], for a template that is given just these variables: one that asks for others is a fault of the file.
    pub fn field_of(
        fields: &mut Fields<'_>,
        key: &'static str,
        about: &'static str,
        default: &'static str,
        variables: &[&str],
    ) -> Self {
        let template = Self::field(fields, key, about, default);
        let unknown: Vec<&str> =
            template.template.free_names().into_iter().filter(|name| !variables.contains(name)).collect();
        if !unknown.is_empty() {
            let message = format!("template `{}` asks for {}", template.name, unknown.join(", "));
            fields.problem(key, message, format!("what it is given is {}", variables.join(", ")));
        }
        template
    }

    fn empty() -> Self {
        Self { name: String::new(), template: jinja::Template::default() }
    }

    /// Loads a built-in template or a file, for commands that make no run. Operators ask for it with [`Template::field`], so
    /// that their run knows the file.
    ///
    /// # Errors
    /// There is no such file, or it is no template.
    pub fn load(name: &str) -> Result<Self> {
        match built_in(name) {
            Some(text) => Self::parse(name, text),
            None => {
                let text = Lines::open(Path::new(name)).and_then(|mut file| file.rest());
                Self::parse(name, &text.map_err(|e| unreadable(name, &e))?)
            }
        }
    }

    fn parse(name: &str, text: &str) -> Result<Self> {
        // A file ends with a newline; a prompt does not.
        let template = jinja::Template::parse(text.trim_end(), Whitespace::Kept)
            .map_err(|e| Error::user(format!("template `{name}`: {e}")))?;
        Ok(Self { name: name.to_string(), template })
    }

    /// The name it was loaded by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Fills it in.
    ///
    /// # Errors
    /// It uses a variable that it is not given, an operation fails, or it reaches a limit on work or output.
    pub fn render(&self, variables: &[(&str, Value)]) -> Result<String> {
        let bytes: usize = variables.iter().map(|(_, value)| value.text_bytes()).sum();
        let settings = Settings { work: WORK + 2 * bytes as u64, output: LONGEST + 4 * bytes, strict: true, now: None };
        let rendered = self.template.render(variables, settings);
        rendered.map_err(|e| Error::user(format!("template `{}`: {e}", self.name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_templates_take_their_variables() {
        let judge = Template::load("additive-5").unwrap();
        let text = judge.render(&[("prompt", "P {{ x }}".into()), ("response", "Score: 5".into())]).unwrap();
        assert!(text.contains("P {{ x }}") && text.contains("Score: 5") && text.trim_end().ends_with("Score: N"));
        let write = Template::load("instruct").unwrap();
        let text = write.render(&[("examples", Value::list(vec!["one".into(), "two".into()]).unwrap())]).unwrap();
        assert!(text.contains("Task 2: two"));
    }

    #[test]
    fn faults_are_told() {
        assert!(Template::load("no/such").err().unwrap().help_text().unwrap().contains("additive-5"));
        assert!(Template::load("additive-5").unwrap().render(&[]).is_err());
        assert!(Template::load("src").err().unwrap().to_string().contains("is a directory"));
    }

    #[test]
    #[cfg(unix)]
    fn a_file_without_end_is_refused() {
        let refused = Template::load("/dev/zero").err().unwrap();
        assert!(refused.to_string().contains("not a regular file"), "{refused}");
    }
}
