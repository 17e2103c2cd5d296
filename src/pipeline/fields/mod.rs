//! Reads the keys of one table.
//!
//! Each read states the key, its meaning and its default, so the docs, suggestions for misspelt keys,
//! errors about unknown keys and the resolved file all have the same source. A bad value is reported and
//! replaced by the default (or the least allowed value), so that all errors of a table are found at once;
//! nothing runs while an error exists.

mod ask;
pub(super) mod external;
mod variables;

use std::cell::RefCell;
use std::path::Path;

use super::syntax::codes;
use super::syntax::diagnostic::{Diagnostic, Span};
use super::syntax::suggest::{self, show};
use super::syntax::tree::{self, EMPTY, Node, Table, TomlValue};
use super::syntax::values::{ValueFault, list, name_value, sibling, texts_value, wrong_type};
use external::External;

/// Documentation of a key.
#[derive(Clone, PartialEq, Debug)]
pub struct KeyDoc {
    /// The key.
    pub key: &'static str,
    /// Its meaning, with its unit.
    pub about: &'static str,
    /// The values it accepts, in words.
    pub kind: String,
    /// The default as TOML.
    pub default: Option<String>,
    /// Whether the key is required.
    pub required: bool,
    /// Choices with their meanings.
    pub options: Vec<(&'static str, &'static str)>,
    /// The keys of a sub-table.
    pub nested: Vec<KeyDoc>,
}

/// A step or model named by a key.
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub key: &'static str,
    pub name: String,
    pub span: Span,
    pub how: How,
}

/// A key that matters only if a step runs in several iterations.
#[derive(Clone, Copy, Debug)]
pub(super) struct ByIteration {
    pub key: &'static str,
    pub span: Span,
    /// Number of values, if the key is a list with a value for each iteration.
    pub values: Option<usize>,
}

/// What a name refers to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum How {
    /// A step or model. A step that is not in `from` is read whole.
    Plain,
    /// A step whose rows are joined to those of the first input.
    Joined,
    /// A model, or a word or path that stands for one: [`Fields::reference`].
    Reference,
}

/// Collects problems. Silent if only the docs are needed.
#[derive(Default)]
pub(super) struct Problems {
    pub list: RefCell<Vec<Diagnostic>>,
    pub silent: bool,
    /// Whether missing files are only warnings.
    pub without_data: bool,
}

impl Problems {
    pub fn report(&self, diagnostic: Diagnostic) {
        if !self.silent {
            self.list.borrow_mut().push(diagnostic);
        }
    }
}

/// The words that stand for a reference, with their meanings. A model or step of that name takes
/// precedence.
pub const REFERENCES: [(&str, &str); 3] = [
    ("policy-start", "the model that this training starts from: the frozen policy of the iteration"),
    ("m1", "the loop's first policy, in every iteration"),
    ("base", "the [model.NAME] that the loop's first policy was trained from; without a loop, that `model` was"),
];

/// A table while its keys are read; see the module.
pub struct Fields<'a> {
    problems: &'a Problems,
    table: &'a Table,
    /// The place where a missing key is reported.
    place: Span,
    /// The owner of the table, for messages: "step `dpo`".
    owner: String,
    /// `sampling.` inside a sub-table.
    prefix: String,
    pub(super) docs: Vec<KeyDoc>,
    /// Sub-tables in which every key has its default.
    default_tables: Vec<&'static str>,
    /// Key and TOML literal of every value, including defaults.
    pub(super) values: Vec<(&'static str, String)>,
    pub(super) steps: Vec<Named>,
    pub(super) models: Vec<Named>,
    pub(super) by_iteration: Vec<ByIteration>,
    /// Full name of the table, such as `step.dpo`.
    pub(super) full_name: String,
    pub(super) externals: Vec<External>,
}

/// The value of [`Fields::choice_or_count`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChoiceOrCount {
    /// One of the words.
    Choice(&'static str),
    /// The number in the table.
    Count(i64),
}

enum KeyRead<T> {
    Given(T),
    Absent,
    Bad,
}

impl<'a> Fields<'a> {
    pub(super) fn new(problems: &'a Problems, table: &'a Table, place: Span, owner: String) -> Self {
        Self {
            problems,
            table,
            place,
            owner,
            prefix: String::new(),
            docs: Vec::new(),
            default_tables: Vec::new(),
            values: Vec::new(),
            steps: Vec::new(),
            models: Vec::new(),
            by_iteration: Vec::new(),
            full_name: String::new(),
            externals: Vec::new(),
        }
    }

    // ---- for the sections ----

    /// Sets the table's full name, such as `step.dpo`, by which the manifest names external inputs.
    pub(super) fn at(mut self, full_name: String) -> Self {
        self.full_name = full_name;
        self
    }

    /// Returns the place of a key's value, or of the table if the key is not given.
    pub(super) fn span(&self, key: &str) -> Span {
        self.table.get(key).map_or(self.place, |e| e.node.span)
    }
    /// Reads a required name; it is empty only if that was reported.
    pub(super) fn name(&mut self, key: &'static str, about: &'static str) -> String {
        self.give(doc(key, about, "a name"), None, String::new(), |s| tree::quote(s), name_value)
    }
    /// Reads a name like [`Fields::name`]; `None` if it is not given.
    pub(super) fn optional_name(&mut self, key: &'static str, about: &'static str) -> Option<String> {
        self.maybe(doc(key, about, "a name"), |s: &String| tree::quote(s), name_value)
    }
    /// `from`: one name or a list.
    pub(super) fn inputs(&mut self, about: &'static str) -> Vec<Named> {
        let literal = |v: &Vec<(String, Span)>| list(v.iter().map(|(s, _)| tree::quote(s)));
        let names = self.maybe(doc("from", about, "the name of a step, or a list of names"), literal, texts_value);
        names
            .unwrap_or_default()
            .into_iter()
            .map(|(name, span)| Named { key: "from", name, span, how: How::Plain })
            .collect()
    }
    pub(super) fn report(&self, diagnostic: Diagnostic) {
        self.problems.report(diagnostic);
    }
    /// Marks a key as known without reading it.
    pub(super) fn known(&mut self, key: &'static str, about: &'static str) {
        self.docs.push(doc(key, about, "text"));
    }
    /// Reports every key of the table that was not read.
    pub(super) fn finish(&self) {
        for (key, entry) in &self.table.entries {
            if self.docs.iter().any(|d| d.key == key) {
                continue;
            }
            let known: Vec<&str> = self.docs.iter().map(|d| d.key).collect();
            let inside = self.docs.iter().find(|d| d.nested.iter().any(|n| n.key == key));
            let help = match inside {
                Some(table) => Some(format!("it goes into the table `{0}`: {0} = {{ {key} = .. }}", table.key)),
                None => suggest::help(key, "its keys", known.iter().copied()),
            };
            let message = format!("{} has no key `{}{}`", self.owner, self.prefix, show(key));
            self.report(Diagnostic::new(&codes::UNKNOWN_KEY, message, entry.key, "unknown key").help(help));
        }
    }

    // ---- how ----

    fn sub_table(&mut self, key: &'static str) -> Option<&'a Table> {
        let table = self.table;
        let entry = table.get(key)?;
        match &entry.node.value {
            TomlValue::Table(t) => Some(t),
            _ => {
                self.fault(key, &entry.node, wrong_type(&entry.node, "a table, e.g. { key = value }"));
                None
            }
        }
    }
    fn sub(&self, key: &'static str, table: Option<&'a Table>) -> Fields<'a> {
        let mut sub = Fields::new(self.problems, table.unwrap_or(&EMPTY), self.span(key), self.owner.clone());
        sub.prefix = format!("{}{key}.", self.prefix);
        sub.full_name.clone_from(&self.full_name);
        sub
    }
    fn absorb(&mut self, key: &'static str, about: &'static str, sub: Fields<'_>, even_if_empty: bool) {
        sub.finish();
        if !even_if_empty && !sub.docs.iter().any(|doc| sub.given(doc.key)) {
            self.default_tables.push(key);
        }
        let pairs: Vec<String> = sub.values.iter().map(|(k, v)| format!("{k} = {v}")).collect();
        if even_if_empty || !pairs.is_empty() {
            let inner = pairs.join(", ");
            self.value(key, if inner.is_empty() { "{}".to_owned() } else { format!("{{ {inner} }}") });
        }
        self.steps.extend(sub.steps);
        self.models.extend(sub.models);
        self.by_iteration.extend(sub.by_iteration);
        self.externals.extend(sub.externals);
        self.docs.push(KeyDoc { nested: sub.docs, ..doc(key, about, "a table") });
    }
    fn set_kind(&mut self, key: &str, kind: &str) {
        if let Some(doc) = self.docs.last_mut().filter(|d| d.key == key) {
            doc.kind = kind.to_owned();
        }
    }
    fn value(&mut self, key: &'static str, literal: String) {
        self.values.retain(|(k, _)| *k != key);
        self.values.push((key, literal));
    }
    fn fault(&self, key: &str, node: &Node, fault: ValueFault) {
        let message = format!("{}: `{}{key}` {}", self.owner, self.prefix, fault.message);
        self.report(Diagnostic::new(fault.code, message, node.span, fault.label).help(fault.help));
    }
    fn read<T>(&mut self, doc: KeyDoc, get: impl Fn(&Node) -> Result<T, ValueFault>) -> KeyRead<T> {
        let key = doc.key;
        self.docs.push(doc);
        match self.table.get(key) {
            None => KeyRead::Absent,
            Some(entry) => match get(&entry.node) {
                Ok(value) => KeyRead::Given(value),
                Err(fault) => {
                    self.fault(key, &entry.node, fault);
                    KeyRead::Bad
                }
            },
        }
    }
    fn give<T>(
        &mut self,
        mut doc: KeyDoc,
        default: Option<T>,
        fallback: T,
        literal: impl Fn(&T) -> String,
        get: impl Fn(&Node) -> Result<T, ValueFault>,
    ) -> T {
        let key = doc.key;
        doc.default = default.as_ref().map(&literal);
        doc.required = default.is_none();
        let value = match (self.read(doc, get), default) {
            (KeyRead::Given(value), _) => value,
            (_, Some(default)) => default,
            (KeyRead::Bad, None) => fallback,
            (KeyRead::Absent, None) => {
                let message = format!("{} needs the key `{}{key}`", self.owner, self.prefix);
                let about = self.docs.last().map(|d| format!("{key}: {}", d.about));
                self.report(Diagnostic::new(&codes::MISSING_KEY, message, self.place, "missing here").help(about));
                fallback
            }
        };
        self.value(key, literal(&value));
        value
    }
    fn maybe<T>(
        &mut self,
        doc: KeyDoc,
        literal: impl Fn(&T) -> String,
        get: impl Fn(&Node) -> Result<T, ValueFault>,
    ) -> Option<T> {
        let key = doc.key;
        let KeyRead::Given(value) = self.read(doc, get) else { return None };
        self.value(key, literal(&value));
        Some(value)
    }
    fn must_exist(&self, key: &str, path: &str) {
        if self.problems.silent || Path::new(path).exists() {
            return;
        }
        let message = format!("{}: `{}{key}` names `{}`, which does not exist", self.owner, self.prefix, show(path));
        let help = sibling(path).unwrap_or_else(|| "relative paths start from the directory reflux is run in".into());
        let code = if self.problems.without_data { &codes::ABSENT_DATA } else { &codes::MISSING_FILE };
        self.report(Diagnostic::new(code, message, self.span(key), "no such file").help(help));
    }
}

fn doc(key: &'static str, about: &'static str, kind: impl Into<String>) -> KeyDoc {
    let (options, nested) = (Vec::new(), Vec::new());
    KeyDoc { key, about, kind: kind.into(), default: None, required: false, options, nested }
}
