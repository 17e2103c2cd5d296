//! TOML text as a tree in which every key and value knows its place, so that overrides can be merged into
//! it.

use std::collections::BTreeMap;

use toml::de::{DeTable, DeValue};

use super::codes;
use super::diagnostic::{Diagnostic, Span};
use crate::threads;

/// Maximum nesting of tables and arrays: no key is nested deeper.
const MAX_DEPTH: usize = 24;
/// Stack of the TOML parser, which recurses on nesting (its own limits allow several thousand levels by
/// dotted keys).
const STACK: usize = 64 << 20;

/// A value with its place.
#[derive(Clone, Debug)]
pub struct Node {
    pub value: TomlValue,
    pub span: Span,
}

/// The types of TOML.
#[derive(Clone, Debug)]
pub enum TomlValue {
    Text(String),
    /// An integer; `None` if it does not fit into 64 bits.
    Int(Option<i64>),
    Float(f64),
    Bool(bool),
    Date,
    Array(Vec<Node>),
    Table(Table),
}

impl TomlValue {
    /// Returns the type in words, with its article.
    pub fn kind(&self) -> &'static str {
        match self {
            TomlValue::Text(_) => "text",
            TomlValue::Int(_) => "an integer",
            TomlValue::Float(_) => "a number",
            TomlValue::Bool(_) => "true or false",
            TomlValue::Date => "a date",
            TomlValue::Array(_) => "a list",
            TomlValue::Table(_) => "a table",
        }
    }
}

/// A table by key, in key order.
#[derive(Clone, Debug, Default)]
pub struct Table {
    pub entries: BTreeMap<String, TableEntry>,
    /// Whether it was written `{ .. }`, so that an override replaces the table as a whole.
    pub inline: bool,
}

/// The place of a key, and its value.
#[derive(Clone, Debug)]
pub struct TableEntry {
    pub key: Span,
    pub node: Node,
}

/// An empty table.
pub static EMPTY: Table = Table { entries: BTreeMap::new(), inline: false };

impl Table {
    pub fn get(&self, key: &str) -> Option<&TableEntry> {
        self.entries.get(key)
    }
    pub fn table(&self, key: &str) -> Option<&Table> {
        match self.get(key).map(|e| &e.node.value) {
            Some(TomlValue::Table(t)) => Some(t),
            _ => None,
        }
    }
}

/// Parses a TOML document. After any syntax error no tree is reliable, so `Err` holds all of them.
pub fn parse(text: &str, source: usize) -> Result<Table, Vec<Diagnostic>> {
    let read = || {
        let (table, errors) = DeTable::parse_recoverable(text);
        let mut problems: Vec<Diagnostic> = errors
            .iter()
            .map(|e| {
                let span = e.span().unwrap_or(0..0);
                let span = Span { source, start: span.start, end: span.end };
                Diagnostic::new(&codes::SYNTAX, format!("this is not TOML: {}", e.message()), span, "here")
            })
            .collect();
        if !problems.is_empty() {
            return Err(problems);
        }
        let tree = convert_table(table.get_ref(), text, source, 0, &mut problems);
        if problems.is_empty() { Ok(tree) } else { Err(problems) }
    };
    let gave_up = || {
        let why = "the TOML parser gave up on this text";
        vec![Diagnostic::new(&codes::SYNTAX, why, Span { source, ..Span::default() }, "")]
    };
    std::thread::scope(|scope| {
        let start = || std::thread::Builder::new().name("toml".into()).stack_size(STACK).spawn_scoped(scope, read);
        match threads::check_memory(1, STACK).and_then(|()| start()) {
            Ok(handle) => handle.join().unwrap_or_else(|_| Err(gave_up())),
            Err(e) => {
                let why = format!("the file cannot be read: the system gives no thread for it: {e}");
                let help = "raise the limits of threads and memory (`ulimit -u`, `ulimit -v`), or end other programs";
                Err(vec![Diagnostic::nowhere(&codes::NO_THREAD, why).help(help.to_owned())])
            }
        }
    })
}

fn convert_table(
    table: &DeTable<'_>,
    text: &str,
    source: usize,
    depth: usize,
    problems: &mut Vec<Diagnostic>,
) -> Table {
    let mut out = Table::default();
    for (key, value) in table.iter() {
        let place = key.span();
        let key_span = Span { source, start: place.start, end: place.end };
        let place = value.span();
        let span = Span { source, start: place.start, end: place.end };
        let value = convert(value.get_ref(), span, text, depth + 1, problems);
        out.entries.insert(key.get_ref().to_string(), TableEntry { key: key_span, node: Node { value, span } });
    }
    out
}

fn convert(value: &DeValue<'_>, span: Span, text: &str, depth: usize, problems: &mut Vec<Diagnostic>) -> TomlValue {
    if depth > MAX_DEPTH {
        if problems.is_empty() {
            let message = format!("tables and lists are nested more than {MAX_DEPTH} deep");
            problems.push(Diagnostic::new(&codes::SYNTAX, message, span, "here"));
        }
        return TomlValue::Bool(false);
    }
    match value {
        DeValue::String(s) => TomlValue::Text(s.to_string()),
        DeValue::Integer(i) => TomlValue::Int(i64::from_str_radix(i.as_str(), i.radix()).ok()),
        DeValue::Float(f) => TomlValue::Float(f.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(b) => TomlValue::Bool(*b),
        DeValue::Datetime(_) => TomlValue::Date,
        DeValue::Array(items) => TomlValue::Array(
            items
                .iter()
                .map(|item| {
                    let place = item.span();
                    let span = Span { source: span.source, start: place.start, end: place.end };
                    Node { value: convert(item.get_ref(), span, text, depth + 1, problems), span }
                })
                .collect(),
        ),
        DeValue::Table(table) => {
            let mut out = convert_table(table, text, span.source, depth, problems);
            out.inline = text.as_bytes().get(span.start) == Some(&b'{');
            TomlValue::Table(out)
        }
    }
}

/// Quotes a text as a TOML basic string.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Quotes a key, bare if TOML allows it.
pub fn key(text: &str) -> String {
    let bare = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if bare { text.to_owned() } else { quote(text) }
}
