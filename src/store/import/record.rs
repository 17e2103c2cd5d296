//! A row of somebody else's file. Values can only be taken out of it, and what nobody took is reported.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::store::datasets::context::{is_empty, is_encoded_messages};
use crate::store::files::jsonl::{list, spell, text};

/// A row as it came.
pub(super) type Object = Map<String, Value>;

/// Every key that some format reads at the top of a row. Only these columns are read of a Parquet file.
pub(super) const KEYS: &[&str] = &[
    "answer",
    "audio",
    "audios",
    "category",
    "chosen",
    "chosen-rating",
    "chosen_rating",
    "chosen_score",
    "completion",
    "completions",
    "context",
    "conversations",
    "deleted",
    "function_call",
    "functions",
    "history",
    "image",
    "images",
    "input",
    "instances",
    "instruction",
    "label",
    "lang",
    "message_id",
    "message_tree_id",
    "messages",
    "output",
    "output_1",
    "output_2",
    "parent_id",
    "prompt",
    "prompt_id",
    "prompt_messages",
    "query",
    "question",
    "question_id",
    "rank",
    "reference",
    "rejected",
    "rejected-rating",
    "rejected_rating",
    "rejected_score",
    "response",
    "review_result",
    "role",
    "score_chosen",
    "score_rejected",
    "system",
    "system_message",
    "system_prompt",
    "text",
    "tool_calls",
    "tools",
    "turns",
    "videos",
];

/// Paths of unread keys that one row can report, so that a row of very many keys takes no memory for them.
const MAX_UNREAD: usize = 256;

/// One row, or one object within a row.
///
/// The values are private. A reader takes them by key, and [`Record::into_unread`] lists the keys that are left, those
/// of nested objects too. An importer that does not know a key can therefore not pass over it in silence.
pub(super) struct Record {
    values: Object,
    /// What stands before a key in a report: `completions[].`, say; empty for the row itself.
    prefix: String,
    /// What was not read of nested objects.
    nested: BTreeSet<String>,
}

impl Record {
    /// A row, none of whose keys was read yet.
    pub fn new(values: Object) -> Self {
        Self { values, prefix: String::new(), nested: BTreeSet::new() }
    }

    /// Whether the key is there, null or not.
    pub fn contains(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// Whether the key is there with a value other than null.
    pub fn has(&self, key: &str) -> bool {
        self.peek(key).is_some()
    }

    /// The value, which counts as unread until it is taken; none if it is null.
    pub fn peek(&self, key: &str) -> Option<&Value> {
        self.values.get(key).filter(|value| !value.is_null())
    }

    /// Takes a value; none if it is absent or null.
    pub fn take(&mut self, key: &str) -> Option<Value> {
        let listed = !self.prefix.is_empty() || KEYS.contains(&key);
        debug_assert!(listed, "`{key}` is read of JSON and not of Parquet: list it in KEYS");
        self.values.get_mut(key).map(Value::take).filter(|value| !value.is_null())
    }

    /// Gives a key a value that the row's place in the file says.
    pub fn put(&mut self, key: &str, value: &str) {
        self.values.insert(key.to_owned(), value.into());
    }

    /// Takes a value that has to be there.
    pub fn required<T>(&mut self, key: &str, read: impl FnOnce(Value) -> Result<T, String>) -> Result<T, String> {
        if !self.contains(key) {
            return Err(format!("lacks `{key}`"));
        }
        let value = self.take(key).unwrap_or(Value::Null);
        read(value).map_err(|what| format!("`{key}` {what}"))
    }

    /// Takes a value that may be absent or null.
    pub fn optional<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(Value) -> Result<T, String>,
    ) -> Result<Option<T>, String> {
        let value = self.take(key);
        value.map(read).transpose().map_err(|what| format!("`{key}` {what}"))
    }

    /// Takes a text that has to be there.
    pub fn text(&mut self, key: &str) -> Result<String, String> {
        self.required(key, text)
    }

    /// Takes a text that has to be there, and is not a list of messages written as text.
    pub fn plain_text(&mut self, key: &str) -> Result<String, String> {
        let text = self.text(key)?;
        if is_encoded_messages(&text) {
            return Err(format!("`{key}` holds messages that are written as text; make it a list of objects"));
        }
        Ok(text)
    }

    /// Takes a text that may be absent or null.
    pub fn optional_text(&mut self, key: &str) -> Result<Option<String>, String> {
        self.optional(key, text)
    }

    /// Takes a number, also one that is written as text. What is no finite number is reported as unread.
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

    /// Takes a list of objects that has to be there, and reads each with `read`.
    pub fn records<T>(
        &mut self,
        key: &str,
        read: impl FnMut(&mut Record) -> Result<T, String>,
    ) -> Result<Vec<T>, String> {
        let value = self.required(key, Ok)?;
        self.records_in(key, value, read)
    }

    /// Reads a list of objects that was taken from under `key`.
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

    /// Takes an object that has to be there, and reads it with `read`.
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
        // A tree whose branches are in branches has one path for all of them.
        let again = self.prefix.ends_with(path);
        let prefix = if again { self.prefix.clone() } else { format!("{}{path}", self.prefix) };
        let mut record = Record { values, prefix, nested: BTreeSet::new() };
        let result = read(&mut record)?;
        for key in record.into_unread() {
            self.report(key);
        }
        Ok(result)
    }

    /// Reports a part of a value that was taken and not used.
    pub fn report(&mut self, path: String) {
        if self.nested.len() < MAX_UNREAD {
            self.nested.insert(path);
        }
    }

    /// The paths of all values that nobody took and that say something.
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
        Record::new(values)
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
        let row = Record::new((0..10_000).map(|i| (format!("k{i}"), json!(1))).collect());
        assert_eq!(row.into_unread().len(), MAX_UNREAD);
    }
}
