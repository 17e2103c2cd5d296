//! `reflux schema`, `reflux operators` and `reflux keys` print the valid contents of a pipeline file, from
//! the tables that check it.

use std::fmt::Write as _;

use super::session::Session;
use crate::data::{SCHEMAS, Schema, did_you_mean};
use crate::error::{Error, Result};
use crate::operators;
use crate::pipeline::{SECTION_DOCS, keys_markdown, keys_table};

#[derive(clap::Args)]
pub struct SchemaArgs {
    /// One schema; all schemas if absent
    name: Option<String>,
}

#[derive(clap::Args)]
pub struct OperatorsArgs {
    /// One operator; all operators if absent
    name: Option<String>,
}

#[derive(clap::Args)]
pub struct KeysArgs {
    /// One section: pipeline, engine, health, model, loop or study; all sections if absent
    section: Option<String>,
    /// Prints the whole reference, including operators and columns, as a Markdown page (docs/reference.md)
    #[arg(long, conflicts_with = "section")]
    markdown: bool,
}

fn no_such(what: &str, name: &str, there_are: &[&str]) -> Error {
    Error::user(format!("{what} `{name}` not found")).help(did_you_mean(name, "available", there_are))
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

pub fn schema(args: &SchemaArgs, _: &Session) -> Result<()> {
    let names: Vec<&str> = SCHEMAS.iter().map(|s| s.name).collect();
    match &args.name {
        Some(name) => {
            let found = SCHEMAS.iter().find(|s| s.name == name).ok_or_else(|| no_such("schema", name, &names))?;
            super::terminal::print(&columns(found))
        }
        None => super::terminal::print(&SCHEMAS.iter().map(|s| columns(s)).collect::<Vec<_>>().join("\n")),
    }
}

pub fn operators(args: &OperatorsArgs, _: &Session) -> Result<()> {
    let names: Vec<&str> = operators::ALL.iter().map(|k| k.name).collect();
    let Some(name) = &args.name else {
        let width = names.iter().map(|n| n.len()).max().unwrap_or(0);
        let lines: Vec<String> = operators::ALL.iter().map(|k| format!("{:width$}  {}", k.name, k.about)).collect();
        return super::terminal::print(&lines.join("\n"));
    };
    let kind = operators::ALL.iter().find(|k| k.name == name).ok_or_else(|| no_such("operator", name, &names))?;
    super::terminal::print(&format!("{}: {}\n\n{}\n{}", kind.name, kind.about, keys_table(&kind.keys()), kind.example))
}

pub fn keys(args: &KeysArgs, _: &Session) -> Result<()> {
    if args.markdown {
        return super::terminal::print(&reference_page());
    }
    let names: Vec<&str> = SECTION_DOCS.iter().map(|s| s.name).collect();
    let found = match &args.section {
        // The keys of a step depend on its operator, so `reflux operators` lists them.
        Some(name) if name == "step" => {
            return Err(Error::user("the keys of a step depend on its operator")
                .help("`reflux operators` lists the operators, and `reflux operators dpo` the keys of one"));
        }
        Some(name) => {
            let found = SECTION_DOCS.iter().find(|s| s.name == name);
            vec![found.ok_or_else(|| no_such("section", name, &names))?]
        }
        None => SECTION_DOCS.iter().collect(),
    };
    let sections: Vec<String> =
        found.iter().map(|s| format!("{}: {}\n\n{}", s.header, s.about, keys_table(&(s.keys)()))).collect();
    super::terminal::print(&sections.join("\n"))
}

/// Builds the page `docs/reference.md`: every key of every section and operator, and every column of every
/// schema.
fn reference_page() -> String {
    let mut page = String::from(
        "# Reference\n\nEvery key of a pipeline file and every column of a dataset. `reflux keys --markdown` prints this page; \
         `reflux keys`, `reflux operators NAME` and `reflux schema NAME` print parts of it.\n\n## Sections\n",
    );
    for section in &SECTION_DOCS {
        let keys = keys_markdown(&(section.keys)());
        // Writing to a String cannot fail.
        let _ = write!(page, "\n### `{}`\n\n{}.\n\n{keys}", section.header, capitalized(section.about));
    }
    page.push_str("\n## Operators\n\nThe keys of `[step.NAME]`, by the operator that `op` names.\n");
    for kind in operators::ALL {
        let (about, keys) = (capitalized(kind.about), keys_markdown(&kind.keys()));
        let example = kind.example.trim();
        let _ = write!(page, "\n### `{}`\n\n{about}.\n\n{keys}\n```toml\n{example}\n```\n", kind.name);
    }
    page.push_str("\n## Columns\n\nThe schemas of datasets; `?` marks a column that may be null.\n");
    for schema in SCHEMAS {
        let _ = write!(page, "\n### `{}`\n\n{}.\n\n", schema.name, capitalized(schema.about));
        page.push_str("| column | type | meaning |\n|---|---|---|\n");
        for column in schema.columns {
            let nullable = if column.nullable { "?" } else { "" };
            let about = column.about.replace('|', "\\|");
            let _ = writeln!(page, "| `{}` | {:?}{nullable} | {about} |", column.name, column.kind);
        }
    }
    page
}

/// Returns the text with its first letter in upper case.
fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}
