//! Methods of [`Fields`] with which sections and operators read their keys.

use std::ops::{RangeBounds, RangeInclusive};
use std::path::Path;
use std::time::Duration;

use super::external::External;
use super::{ByIteration, ChoiceOrCount, Fields, How, KeyDoc, Named, Problems, REFERENCES, doc};
use crate::error::{Error, Result};
use crate::pipeline::environment::is_variable;
use crate::pipeline::syntax::codes::{self, Code};
use crate::pipeline::syntax::diagnostic::Diagnostic;
use crate::pipeline::syntax::tree::{self, EMPTY, TomlValue};
use crate::pipeline::syntax::values::{
    bytes_value, bytes_words, choice_value, duration_value, duration_words, float_literal, float_value, float_words,
    int_value, int_words, least_float, list, name_value, text_value, texts_value, wrong_type,
};
use crate::store::{InputForm, Lines, hash_file};

impl Fields<'_> {
    /// Reads an integer within `range`. Without a default the key is required.
    pub fn int(
        &mut self,
        key: &'static str,
        about: &'static str,
        default: Option<i64>,
        range: RangeInclusive<i64>,
    ) -> i64 {
        let least = *range.start();
        self.give(doc(key, about, int_words(&range)), default, least, i64::to_string, |n| int_value(n, &range))
    }
    /// Reads an integer like [`Fields::int`]; `None` if it is not given.
    pub fn optional_int(&mut self, key: &'static str, about: &'static str, range: RangeInclusive<i64>) -> Option<i64> {
        self.maybe(doc(key, about, int_words(&range)), i64::to_string, |n| int_value(n, &range))
    }
    /// Reads a count: an integer within `range`.
    pub fn count(
        &mut self,
        key: &'static str,
        about: &'static str,
        default: Option<usize>,
        range: RangeInclusive<usize>,
    ) -> usize {
        let wide = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let n = self.int(key, about, default.map(wide), wide(*range.start())..=wide(*range.end()));
        usize::try_from(n).unwrap_or(*range.start())
    }
    /// Reads a number within `range`, whose ends may be open as in `0.0..1.0`. Integers are accepted.
    pub fn float(
        &mut self,
        key: &'static str,
        about: &'static str,
        default: Option<f64>,
        range: impl RangeBounds<f64>,
    ) -> f64 {
        let least = least_float(&range);
        self.give(doc(key, about, float_words(&range)), default, least, float_literal, |n| float_value(n, &range))
    }
    /// Reads a number like [`Fields::float`]; `None` if it is not given.
    pub fn optional_float(
        &mut self,
        key: &'static str,
        about: &'static str,
        range: impl RangeBounds<f64>,
    ) -> Option<f64> {
        self.maybe(doc(key, about, float_words(&range)), float_literal, |n| float_value(n, &range))
    }
    /// Reads a text.
    pub fn text(&mut self, key: &'static str, about: &'static str, default: Option<&str>) -> String {
        let default = default.map(str::to_owned);
        self.give(doc(key, about, "text"), default, String::new(), |s| tree::quote(s), text_value)
    }
    /// Reads a text; `None` if it is not given.
    pub fn optional_text(&mut self, key: &'static str, about: &'static str) -> Option<String> {
        self.maybe(doc(key, about, "text"), |s: &String| tree::quote(s), text_value)
    }
    /// Reads a boolean.
    pub fn bool(&mut self, key: &'static str, about: &'static str, default: Option<bool>) -> bool {
        self.give(doc(key, about, "true or false"), default, false, bool::to_string, |n| match n.value {
            TomlValue::Bool(b) => Ok(b),
            _ => Err(wrong_type(n, "true or false")),
        })
    }
    /// Reads one of several words, each with its meaning, and returns the word.
    pub fn choice(
        &mut self,
        key: &'static str,
        about: &'static str,
        options: &[(&'static str, &'static str)],
        default: Option<&'static str>,
    ) -> &'static str {
        let first = options.first().map_or("", |o| o.0);
        let doc = KeyDoc { options: options.to_vec(), ..doc(key, about, "one of the words below") };
        self.give(doc, default, first, |s| tree::quote(s), |n| choice_value(n, options))
    }
    /// Reads one of several words, each with its meaning, or `{ count = N }` with an integer within
    /// `range`. The first word is the default.
    pub fn choice_or_count(
        &mut self,
        key: &'static str,
        about: &'static str,
        options: &[(&'static str, &'static str)],
        count: (&'static str, &'static str),
        range: RangeInclusive<i64>,
    ) -> ChoiceOrCount {
        let mut words = options.to_vec();
        words.push(count);
        let doc = KeyDoc { options: words, ..doc(key, about, "one of the words below, or a table") };
        let first = ChoiceOrCount::Choice(options.first().map_or("", |o| o.0));
        let name = count.0.trim_matches(|c: char| !c.is_ascii_alphabetic()).split(' ').next().unwrap_or_default();
        let literal = |v: &ChoiceOrCount| match v {
            ChoiceOrCount::Choice(word) => tree::quote(word),
            ChoiceOrCount::Count(n) => format!("{{ {name} = {n} }}"),
        };
        self.give(doc, Some(first), first, literal, |n| match &n.value {
            TomlValue::Table(t) => match t.entries.iter().next() {
                Some((key, entry)) if t.entries.len() == 1 && key == name => {
                    int_value(&entry.node, &range).map(ChoiceOrCount::Count)
                }
                _ => Err(wrong_type(n, count.0)),
            },
            TomlValue::Text(_) => choice_value(n, options).map(ChoiceOrCount::Choice),
            _ => Err(wrong_type(n, &format!("a word or {}", count.0))),
        })
    }
    /// Reads a list of texts; a single text stands for a list of one.
    pub fn texts(&mut self, key: &'static str, about: &'static str, default: Option<&[&str]>) -> Vec<String> {
        let default = default.map(|d| d.iter().map(|s| (*s).to_owned()).collect());
        let literal = |v: &Vec<String>| list(v.iter().map(|s| tree::quote(s)));
        self.give(doc(key, about, "a list of texts"), default, Vec::new(), literal, |n| {
            Ok(texts_value(n)?.into_iter().map(|(text, _)| text).collect())
        })
    }
    /// Reads a list of texts like [`Fields::texts`]; `None` if it is not given.
    pub fn optional_texts(&mut self, key: &'static str, about: &'static str) -> Option<Vec<String>> {
        let literal = |v: &Vec<String>| list(v.iter().map(|s| tree::quote(s)));
        self.maybe(doc(key, about, "a list of texts"), literal, |n| {
            Ok(texts_value(n)?.into_iter().map(|(text, _)| text).collect())
        })
    }
    /// Reads a list of numbers, each within `range`; a single number stands for a list of one.
    pub fn floats(
        &mut self,
        key: &'static str,
        about: &'static str,
        default: Option<&[f64]>,
        range: impl RangeBounds<f64>,
    ) -> Vec<f64> {
        let words = float_words(&range).replacen("a number", "a list of numbers", 1);
        let literal = |v: &Vec<f64>| list(v.iter().map(float_literal));
        self.give(doc(key, about, words), default.map(<[f64]>::to_vec), Vec::new(), literal, |n| match &n.value {
            TomlValue::Array(items) => items.iter().map(|n| float_value(n, &range)).collect(),
            _ => Ok(vec![float_value(n, &range)?]),
        })
    }
    /// Reads a list of integers, each within `range`; a single number stands for a list of one.
    pub fn ints(
        &mut self,
        key: &'static str,
        about: &'static str,
        default: Option<&[i64]>,
        range: RangeInclusive<i64>,
    ) -> Vec<i64> {
        let literal = |v: &Vec<i64>| list(v.iter().map(i64::to_string));
        let words = "a list of whole numbers";
        self.give(doc(key, about, words), default.map(<[i64]>::to_vec), Vec::new(), literal, |n| match &n.value {
            TomlValue::Array(items) => items.iter().map(|n| int_value(n, &range)).collect(),
            TomlValue::Int(_) => Ok(vec![int_value(n, &range)?]),
            _ => Err(wrong_type(n, words)),
        })
    }
    /// Reads a table of texts, such as new column names by old: pairs of key and text, by key. Empty if it
    /// is not given.
    pub fn mapping(&mut self, key: &'static str, about: &'static str) -> Vec<(String, String)> {
        let literal = |v: &Vec<(String, String)>| {
            let pairs: Vec<String> = v.iter().map(|(k, v)| format!("{} = {}", tree::key(k), tree::quote(v))).collect();
            if pairs.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", pairs.join(", ")) }
        };
        self.give(doc(key, about, "a table of texts"), Some(Vec::new()), Vec::new(), literal, |n| match &n.value {
            TomlValue::Table(t) => t.entries.iter().map(|(k, e)| Ok((k.clone(), text_value(&e.node)?))).collect(),
            _ => Err(wrong_type(n, "a table of texts, e.g. { prompt = \"instruction\" }")),
        })
    }
    /// Reads a size in bytes within `range`: an integer, or text such as "512 MiB" or "2GB".
    pub fn optional_bytes(
        &mut self,
        key: &'static str,
        about: &'static str,
        range: RangeInclusive<u64>,
    ) -> Option<u64> {
        let words = format!("a size such as \"2 GiB\", at least {}", bytes_words(*range.start()));
        self.maybe(doc(key, about, words), |b| tree::quote(&bytes_words(*b)), |n| bytes_value(n, &range))
    }
    /// Reads a length of time such as "6h"; `None` if it is not given.
    pub fn optional_duration(&mut self, key: &'static str, about: &'static str) -> Option<Duration> {
        let words = "a length of time such as \"6h\": a number with s, m, h or d";
        let seconds = self.maybe(doc(key, about, words), |s| tree::quote(&duration_words(*s)), duration_value);
        seconds.map(Duration::from_secs)
    }
    /// Reads a length of time such as "6h".
    pub fn duration(&mut self, key: &'static str, about: &'static str, default: Duration) -> Duration {
        let words = "a length of time such as \"6h\": a number with s, m, h or d";
        let literal = |s: &u64| tree::quote(&duration_words(*s));
        let seconds = self.give(doc(key, about, words), Some(default.as_secs()), 1, literal, duration_value);
        Duration::from_secs(seconds)
    }
    /// Reads the path of a file or directory that must exist; relative paths start from the working
    /// directory. `form` selects which files of a directory are read.
    pub fn path(&mut self, key: &'static str, about: &'static str, form: InputForm) -> External {
        let path = self.text(key, about, None);
        self.set_kind(key, "a path");
        // An empty path that was not written was reported as missing or of the wrong type.
        if !path.is_empty() || matches!(self.table.get(key).map(|e| &e.node.value), Some(TomlValue::Text(_))) {
            self.must_exist(key, &path);
        }
        self.external(key, &path, form)
    }
    /// Reads a path like [`Fields::path`]; `None` if it is not given.
    pub fn optional_path(&mut self, key: &'static str, about: &'static str, form: InputForm) -> Option<External> {
        let path = self.optional_text(key, about);
        self.set_kind(key, "a path");
        let path = path?;
        self.must_exist(key, &path);
        Some(self.external(key, &path, form))
    }
    /// Reads the text of the file that a key names by `path`. The text is read now, and a run of the plan
    /// records its hash.
    ///
    /// # Errors
    /// The file cannot be read, is not text, or changes while it is read.
    pub fn read_text(&mut self, key: &str, path: &str) -> Result<String> {
        let external = self.external(key, path, InputForm::Text);
        let place = external.outside_of_runs();
        // The reader bounds the length. A device has no hash to compare with.
        let text = Lines::open(place)?.rest()?;
        let (hash, _) = hash_file(place)?;
        if Lines::open(place)?.rest()? != text {
            return Err(Error::user(format!("`{path}` is being changed")).help("give the command again"));
        }
        self.externals.retain(|known| known.key() != external.key());
        self.externals.push(external.with_content(hash));
        Ok(text)
    }
    /// Notes that the step depends on a file that a list of texts names at `index`, such as a script.
    pub fn depends_on(&mut self, key: &str, index: usize, path: &str) -> External {
        self.external(&format!("{key}[{index}]"), path, InputForm::Text)
    }
    /// Returns the path of an external input, to check its form while the pipeline file is read.
    pub fn inspect<'e>(&self, external: &'e External) -> &'e Path {
        external.outside_of_runs()
    }
    fn external(&mut self, key: &str, path: &str, form: InputForm) -> External {
        let external = External::new(&self.full_name, &format!("{}{key}", self.prefix), path, form);
        self.externals.push(external.clone());
        external
    }
    /// Reads a sub-table such as `sampling = { .. }`; missing keys have their defaults.
    pub fn table<T>(&mut self, key: &'static str, about: &'static str, parse: impl FnOnce(&mut Fields<'_>) -> T) -> T {
        let table = self.sub_table(key);
        let mut sub = self.sub(key, table);
        let out = parse(&mut sub);
        self.absorb(key, about, sub, false);
        out
    }
    /// Reads a table like [`Fields::table`]; `None` if it is not given. Its required keys are required only
    /// within it.
    pub fn optional_table<T>(
        &mut self,
        key: &'static str,
        about: &'static str,
        parse: impl FnOnce(&mut Fields<'_>) -> T,
    ) -> Option<T> {
        if let Some(table) = self.sub_table(key) {
            let mut sub = self.sub(key, Some(table));
            let out = parse(&mut sub);
            self.absorb(key, about, sub, true);
            return Some(out);
        }
        // The keys are read silently so that they are known.
        let silent = Problems { silent: true, ..Problems::default() };
        let mut sub = Fields::new(&silent, &EMPTY, self.place, self.owner.clone());
        parse(&mut sub);
        self.docs.push(KeyDoc { nested: sub.docs, ..doc(key, about, "a table") });
        None
    }
    /// Reads the name of the environment variable that has a secret, as `{ env = "NAME" }`. A secret in the file itself is
    /// refused, and its line is not shown.
    pub fn optional_secret(&mut self, key: &'static str, about: &'static str) -> Option<String> {
        let wrong = match self.table.get(key).map(|entry| &entry.node.value) {
            None => false,
            Some(TomlValue::Table(table)) => match table.get("env").map(|entry| &entry.node.value) {
                Some(TomlValue::Text(name)) => !name.is_empty() && !is_variable(name),
                _ => false,
            },
            Some(_) => true,
        };
        if wrong {
            let message = format!("{}: `{key}` does not name an environment variable", self.owner);
            let help = format!(
                "the secret itself must not be in the file: write {key} = {{ env = \"NAME\" }}, and in the \
                                shell, export NAME=..."
            );
            self.problems.report(Diagnostic::new(&codes::WRONG_TYPE, message, self.place, "in this table").help(help));
            self.docs.push(doc(key, about, "a table"));
            return None;
        }
        self.optional_table(key, about, |f| f.text("env", "the environment variable that has the key", None))
    }
    /// Reads the name of another step: a further input, read whole.
    pub fn step(&mut self, key: &'static str, about: &'static str) -> Option<String> {
        let name = self.optional_text(key, about);
        self.set_kind(key, "the name of a step");
        if let Some(name) = &name {
            self.steps.push(Named { key, name: name.clone(), span: self.span(key), how: How::Plain });
        }
        name
    }
    /// Reads a step like [`Fields::step`], but its rows are joined to those of the first input, as the
    /// operator's `join` states.
    pub fn step_joined(&mut self, key: &'static str, about: &'static str) -> Option<String> {
        let name = self.step(key, about);
        if let Some(named) = self.steps.last_mut().filter(|_| name.is_some()) {
            named.how = How::Joined;
        }
        name
    }
    /// Reads the reference model of a training: a `[model.NAME]`, a training step that runs once, one of
    /// [`REFERENCES`], or the path of a model. The plan resolves it into [`crate::pipeline::Step::models`].
    pub fn reference(&mut self, key: &'static str, about: &'static str) -> String {
        let default = Some(REFERENCES[0].0.to_owned());
        let name = self.give(doc(key, about, ""), default, String::new(), |s| tree::quote(s), name_value);
        self.set_kind(key, "a word below, the name of a model, or the path of one");
        if let Some(doc) = self.docs.last_mut() {
            doc.options = REFERENCES.to_vec();
        }
        self.models.push(Named { key, name: name.clone(), span: self.span(key), how: How::Reference });
        name
    }
    /// Reports a problem at the key's place.
    pub fn problem(&mut self, key: &str, message: impl Into<String>, help: impl Into<String>) {
        let (message, help) = (format!("{}: {}", self.owner, message.into()), help.into());
        let help = (!help.is_empty()).then_some(help);
        self.problems.report(Diagnostic::new(&codes::CONFLICT, message, self.span(key), "here").help(help));
    }
    /// Reports a warning at the key's place.
    pub fn warn(&mut self, code: &'static Code, key: &str, message: impl Into<String>, help: impl Into<String>) {
        let (message, help) = (format!("{}: {}", self.owner, message.into()), help.into());
        let help = (!help.is_empty()).then_some(help);
        self.problems.report(Diagnostic::new(code, message, self.span(key), "here").help(help));
    }
    /// Marks a list as having a value for each iteration, where the last one applies to all further ones.
    /// The list must not be empty or longer than the step's number of iterations.
    pub fn list_by_iteration(&mut self, key: &'static str, values: usize) {
        if values == 0 {
            self.problem(key, "the list is empty", "leave the key out, or give a value");
        }
        self.by_iteration.push(ByIteration { key, span: self.span(key), values: Some(values) });
    }
    /// Marks a key as having an effect only in a step of the loop.
    pub fn only_in_loop(&mut self, key: &'static str) {
        if self.given(key) {
            self.by_iteration.push(ByIteration { key, span: self.span(key), values: None });
        }
    }
    /// Reports an error for each of these keys that is given although nothing reads it. `setting` names the setting
    /// that disables it, such as `with schedule = "constant"`; `help` names an alternative to removing the
    /// key.
    pub fn without_effect(&mut self, keys: &[&str], setting: &str, help: &str) {
        for key in keys {
            if self.given(key) {
                let or = if help.is_empty() { String::new() } else { format!(", or {help}") };
                self.problem(key, format!("`{key}` has no effect {setting}"), format!("take the key out{or}"));
            }
        }
    }
    /// Whether the table sets the key to a value other than its default, if the default is known. So a file
    /// with all defaults written out, as a run stores it, is treated like one without them.
    pub fn given(&self, key: &str) -> bool {
        let default = self.docs.iter().find(|d| d.key == key).and_then(|d| d.default.as_ref());
        let value = self.values.iter().find(|(k, _)| *k == key).map(|(_, literal)| literal);
        if self.default_tables.contains(&key) {
            return false;
        }
        self.table.get(key).is_some() && (default.is_none() || value != default)
    }
}
