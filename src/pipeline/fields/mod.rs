//! The keys of one table, asked for one by one.
//!
//! Each ask states key, meaning and default, so the docs, the did-you-mean over known keys, the unknown-key errors and
//! the resolved file all come from the same place. A bad value is reported and the default (or the least allowed value)
//! returned, so that all errors of a table are found at once; nothing runs while there is an error.

mod ask;
pub(super) mod external;

use std::cell::RefCell;
use std::path::Path;

use super::syntax::codes;
use super::syntax::diagnostic::{Diagnostic, Span};
use super::syntax::suggest::{self, show};
use super::syntax::tree::{self, EMPTY, Node, Table, Value};
use super::syntax::values::{Fault, list, name_value, sibling, texts_value, wrong_type};
use external::External;

/// A key as the docs show it.
#[derive(Clone, PartialEq, Debug)]
pub struct KeyDoc {
    /// The key.
    pub key: &'static str,
    /// What it means, with its unit.
    pub about: &'static str,
    /// What values it takes, in words.
    pub kind: String,
    /// The default as TOML.
    pub default: Option<String>,
    /// Whether it must be given.
    pub required: bool,
    /// Choices with their meanings.
    pub options: Vec<(&'static str, &'static str)>,
    /// The keys of a sub-table.
    pub nested: Vec<KeyDoc>,
}

/// Another step, or a model, that a key names.
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub key: &'static str,
    pub name: String,
    pub span: Span,
    pub how: How,
}

/// A key that means something only where a step runs in several iterations.
#[derive(Clone, Copy, Debug)]
pub(super) struct ByIteration {
    pub key: &'static str,
    pub span: Span,
    /// How many iterations it distinguishes, where it is a list with a value for each.
    pub values: Option<usize>,
}

/// How a name is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum How {
    /// As the name of a step or model; a step that is not in `from` is read whole.
    Plain,
    /// A step whose rows are joined to those of the first input.
    Joined,
    /// A model, or a word or path that stands for one: [`Fields::reference`].
    Reference,
}

/// Where problems go. Silent when only the docs are wanted.
#[derive(Default)]
pub(super) struct Problems {
    pub list: RefCell<Vec<Diagnostic>>,
    pub silent: bool,
    /// Files that are not there are warned of only.
    pub without_data: bool,
}

impl Problems {
    pub fn report(&self, diagnostic: Diagnostic) {
        if !self.silent {
            self.list.borrow_mut().push(diagnostic);
        }
    }
}

/// The words that stand for a reference, with their meanings. A model or step that is called so goes before.
pub const REFERENCES: [(&str, &str); 3] = [
    ("policy-start", "the model that this training starts from: the frozen policy of the iteration"),
    ("m1", "the loop's first policy, in every iteration"),
    ("base", "the [model.NAME] that the loop's first policy was trained from; without a loop, that `model` was"),
];

/// A table whose keys are being asked for. See the module.
pub struct Fields<'a> {
    problems: &'a Problems,
    table: &'a Table,
    /// Where a missing key is reported.
    place: Span,
    /// Whose table it is, for messages: "step `dpo`".
    owner: String,
    /// `sampling.` inside a sub-table.
    prefix: String,
    pub(super) docs: Vec<KeyDoc>,
    /// Sub-tables in which no key has another value than its default.
    default_tables: Vec<&'static str>,
    /// Key and TOML literal of every value, defaults too.
    pub(super) values: Vec<(&'static str, String)>,
    pub(super) steps: Vec<Named>,
    pub(super) models: Vec<Named>,
    pub(super) by_iteration: Vec<ByIteration>,
    /// The table's full name, e.g. `step.dpo`.
    pub(super) full_name: String,
    pub(super) externals: Vec<External>,
}

/// What [`Fields::choice_or_count`] gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChoiceOrCount {
    /// One of the words.
    Choice(&'static str),
    /// The number of the table.
    Count(i64),
}

enum Read<T> {
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

    /// Says which table of the file it is, e.g. `step.dpo`: the manifest names external inputs by it.
    pub(super) fn at(mut self, full_name: String) -> Self {
        self.full_name = full_name;
        self
    }

    /// The place of a key's value; of the table if it is not given.
    pub(super) fn span(&self, key: &str) -> Span {
        self.table.get(key).map_or(self.place, |e| e.node.span)
    }
    /// A name that must be given; empty only if that was reported.
    pub(super) fn name(&mut self, key: &'static str, about: &'static str) -> String {
        self.give(doc(key, about, "a name"), None, String::new(), |s| tree::quote(s), name_value)
    }
    /// As [`Fields::name`], or nothing if not given.
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
    /// Reports every key of the table that was not asked for.
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
            Value::Table(t) => Some(t),
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
    fn fault(&self, key: &str, node: &Node, fault: Fault) {
        let message = format!("{}: `{}{key}` {}", self.owner, self.prefix, fault.message);
        self.report(Diagnostic::new(fault.code, message, node.span, fault.label).help(fault.help));
    }
    fn read<T>(&mut self, doc: KeyDoc, get: impl Fn(&Node) -> Result<T, Fault>) -> Read<T> {
        let key = doc.key;
        self.docs.push(doc);
        match self.table.get(key) {
            None => Read::Absent,
            Some(entry) => match get(&entry.node) {
                Ok(value) => Read::Given(value),
                Err(fault) => {
                    self.fault(key, &entry.node, fault);
                    Read::Bad
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
        get: impl Fn(&Node) -> Result<T, Fault>,
    ) -> T {
        let key = doc.key;
        doc.default = default.as_ref().map(&literal);
        doc.required = default.is_none();
        let value = match (self.read(doc, get), default) {
            (Read::Given(value), _) => value,
            (_, Some(default)) => default,
            (Read::Bad, None) => fallback,
            (Read::Absent, None) => {
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
        get: impl Fn(&Node) -> Result<T, Fault>,
    ) -> Option<T> {
        let key = doc.key;
        let Read::Given(value) = self.read(doc, get) else { return None };
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
