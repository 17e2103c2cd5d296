//! A row of an imported file. Values can only be taken out of it, and those that remain are reported as
//! unread.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::store::datasets::context::{is_context, is_empty, is_encoded_messages};
use crate::store::files::jsonl::{list, spell, text};

/// A row as it was read.
pub(super) type Object = Map<String, Value>;

/// Maximum number of unread keys that one row reports, which bounds the memory for a row of very many keys.
const MAX_UNREAD: usize = 256;

/// A row, or an object within a row.
///
/// The values are private. A converter takes them by key, and [`Record::into_unread`] lists the remaining
/// keys, including those of nested objects. A converter that does not know a key can therefore not ignore it
/// silently.
pub(super) struct Record {
    values: Object,
    /// The keys that the format declares. Of Parquet, only these columns and those of a context are decoded.
    keys: &'static [&'static str],
    /// Prefix of keys in reports, such as `completions[].`; empty for the row itself.
    prefix: String,
    /// Unread keys of nested objects.
    nested: BTreeSet<String>,
}

impl Record {
    /// A row with all keys unread. `keys` are the keys that its format declares.
    pub fn new(values: Object, keys: &'static [&'static str]) -> Self {
        Self { values, keys, prefix: String::new(), nested: BTreeSet::new() }
    }

    /// Checks that the format declares the key, because rows of JSON have it anyway.
    fn check_declared(&self, key: &str) {
        let declared = !self.prefix.is_empty() || self.keys.contains(&key) || is_context(key);
        debug_assert!(declared, "`{key}` is read of JSON and not of Parquet: list it in `keys` of the format");
    }

    /// Whether the key exists, null or not.
    pub fn contains(&self, key: &str) -> bool {
        self.check_declared(key);
        self.values.contains_key(key)
    }

    /// Whether the key exists with a value other than null.
    pub fn has(&self, key: &str) -> bool {
        self.peek(key).is_some()
    }

    /// The value, which stays unread; `None` if it is absent or null.
    pub fn peek(&self, key: &str) -> Option<&Value> {
        self.check_declared(key);
        self.values.get(key).filter(|value| !value.is_null())
    }

    /// Takes a value; `None` if it is absent or null.
    pub fn take(&mut self, key: &str) -> Option<Value> {
        self.check_declared(key);
        self.values.get_mut(key).map(Value::take).filter(|value| !value.is_null())
    }

    /// Sets a value that follows from the row's place in the file.
    pub fn put(&mut self, key: &str, value: &str) {
        self.values.insert(key.to_owned(), value.into());
    }

    /// Takes a required value.
    pub fn required<T>(&mut self, key: &str, read: impl FnOnce(Value) -> Result<T, String>) -> Result<T, String> {
        if !self.contains(key) {
            return Err(format!("lacks `{key}`"));
        }
        let value = self.take(key).unwrap_or(Value::Null);
        read(value).map_err(|what| format!("`{key}` {what}"))
    }

    /// Takes an optional value.
    pub fn optional<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(Value) -> Result<T, String>,
    ) -> Result<Option<T>, String> {
        let value = self.take(key);
        value.map(read).transpose().map_err(|what| format!("`{key}` {what}"))
    }

    /// Takes a required text.
    pub fn text(&mut self, key: &str) -> Result<String, String> {
        self.required(key, text)
    }

    /// Takes a required text that is not an encoded list of messages.
    pub fn plain_text(&mut self, key: &str) -> Result<String, String> {
        let text = self.text(key)?;
        if is_encoded_messages(&text) {
            return Err(format!("`{key}` holds messages that are written as text; make it a list of objects"));
        }
        Ok(text)
    }

    /// Takes an optional text.
    pub fn optional_text(&mut self, key: &str) -> Result<Option<String>, String> {
        self.optional(key, text)
    }

    /// Takes a number, which may be written as text. A value that is not a finite number is reported as
    /// unread.
    pub fn number(&mut self, key: &str) -> Option<f64> {
        let number = match self.peek(key)? {
            Value::String(written) => written.trim().parse().ok(),
            value => value.as_f64(),
        };
        let number = number.filter(|number: &f64| (*number as f32).is_finite());
        self.take(key);
        if number.is_none() {
            self.report(format!("{}{key} (not a number)", self.prefix));
        }
        number
    }

    /// Takes a required list of objects and reads each with `read`.
    pub fn records<T>(
        &mut self,
        key: &str,
        read: impl FnMut(&mut Record) -> Result<T, String>,
    ) -> Result<Vec<T>, String> {
        let value = self.required(key, Ok)?;
        self.records_in(key, value, read)
    }

    /// Reads a list of objects that was taken from `key`.
    pub fn records_in<T>(
        &mut self,
        key: &str,
        value: Value,
        mut read: impl FnMut(&mut Record) -> Result<T, String>,
    ) -> Result<Vec<T>, String> {
        let items = list(value, Ok).map_err(|what| format!("`{key}` {what}"))?;
        let mut all = Vec::with_capacity(items.len());
        for (at, item) in items.into_iter().enumerate() {
            let read = self.nested(&format!("{key}[]."), item, &mut read);
            all.push(read.map_err(|what| format!("`{key}` item {at} {what}"))?);
        }
        Ok(all)
    }

    /// Takes a required object and reads it with `read`.
    pub fn record<T>(
        &mut self,
        key: &str,
        mut read: impl FnMut(&mut Record) -> Result<T, String>,
    ) -> Result<T, String> {
        let value = self.required(key, Ok)?;
        self.nested(&format!("{key}."), value, &mut read).map_err(|what| format!("`{key}` {what}"))
    }

    fn nested<T>(
        &mut self,
        path: &str,
        value: Value,
        read: &mut impl FnMut(&mut Record) -> Result<T, String>,
    ) -> Result<T, String> {
        let Value::Object(values) = value else { return Err(format!("is {}, expected an object", spell(&value))) };
        // Nested replies of a tree share one path.
        let again = self.prefix.ends_with(path);
        let prefix = if again { self.prefix.clone() } else { format!("{}{path}", self.prefix) };
        let mut record = Record { values, keys: &[], prefix, nested: BTreeSet::new() };
        let result = read(&mut record)?;
        for key in record.into_unread() {
            self.report(key);
        }
        Ok(result)
    }

    /// Reports an unused part of a taken value.
    pub fn report(&mut self, path: String) {
        if self.nested.len() < MAX_UNREAD {
            self.nested.insert(path);
        }
    }

    /// Paths of all remaining values that are not empty.
    pub fn into_unread(self) -> BTreeSet<String> {
        let mut unread = self.nested;
        for (key, _) in self.values.iter().filter(|(_, value)| !is_empty(value)).take(MAX_UNREAD) {
            unread.insert(format!("{}{key}", self.prefix));
        }
        unread
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn record(value: Value) -> Record {
        let Value::Object(values) = value else { panic!("an object") };
        const KEYS: &[&str] = &["instruction", "output", "score_chosen", "score_rejected", "completions"];
        Record::new(values, KEYS)
    }

    #[test]
    fn what_nobody_takes_is_reported() {
        let mut row = record(json!({
            "instruction": "a", "output": null, "score_chosen": "8.5", "score_rejected": "high", "source": "s",
            "completions": [{"response": "b", "model": "m"}, {"response": "c", "stars": {"x": 1}}],
        }));
        assert_eq!(row.text("instruction"), Ok("a".into()));
        assert_eq!(row.optional_text("output"), Ok(None));
        assert_eq!((row.number("score_chosen"), row.number("score_rejected")), (Some(8.5), None));
        assert_eq!(row.records("completions", |item| item.text("response")), Ok(vec!["b".into(), "c".into()]));
        let unread: Vec<String> = row.into_unread().into_iter().collect();
        assert_eq!(unread, ["completions[].model", "completions[].stars", "score_rejected (not a number)", "source"]);
    }

    #[test]
    fn a_row_of_very_many_keys_reports_some() {
        let row = Record::new((0..10_000).map(|i| (format!("k{i}"), json!(1))).collect(), &[]);
        assert_eq!(row.into_unread().len(), MAX_UNREAD);
    }
}
