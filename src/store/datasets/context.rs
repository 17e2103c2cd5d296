//! Context keys, which change the meaning of a row: a system message, earlier turns, tools, images.
//!
//! Every reader of rows uses these lists. A reader keeps such a value if its rows can hold it, and refuses
//! the row otherwise: an answer without its system message is another answer.

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use serde_json::{Map, Value};

/// Keys of a row's system message.
pub(crate) const SYSTEM_KEYS: [&str; 3] = ["system", "system_prompt", "system_message"];

/// Context keys without a column in any schema, with their names in reports.
pub(crate) const CONTEXT_KEYS: [(&str, &str); 10] = [
    ("history", "a history of earlier turns"),
    ("tools", "tools"),
    ("functions", "tools"),
    ("tool_calls", "tools"),
    ("function_call", "tools"),
    ("image", "images or sound"),
    ("images", "images or sound"),
    ("videos", "images or sound"),
    ("audio", "images or sound"),
    ("audios", "images or sound"),
];

/// Keys that add tool calls to a message's text.
pub(crate) const MESSAGE_KEYS: [&str; 3] = ["tool_calls", "function_call", "tool_call_id"];

/// Whether a key of a row is one of [`SYSTEM_KEYS`] or [`CONTEXT_KEYS`].
pub(crate) fn is_context(key: &str) -> bool {
    SYSTEM_KEYS.contains(&key) || CONTEXT_KEYS.iter().any(|(name, _)| *name == key)
}

/// Fault of a row with a value under a context key.
pub(crate) fn unsupported(key: &str) -> String {
    format!("has `{key}`, which changes what the row means and has no place here; leave the row out, or remove the key")
}

/// Fault of the first context key with a value, if any.
pub(crate) fn unsupported_context(row: &Map<String, Value>) -> Option<String> {
    let (key, _) = row.iter().find(|(key, value)| is_context(key) && !is_empty(value))?;
    Some(unsupported(key))
}

/// Whether a value is empty: null, false, blank, an empty list, or one of these written as text.
pub(crate) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(_) => false,
        Value::String(text) => is_empty_text(text),
        Value::Array(items) => items.is_empty(),
        Value::Object(values) => values.is_empty(),
    }
}

fn is_empty_text(text: &str) -> bool {
    matches!(text.trim(), "" | "[]" | "{}" | "null" | "None")
}

/// Rows of a column with a value that is not empty in the sense of [`is_empty`].
///
/// # Errors
/// A dictionary cannot be resolved.
pub(crate) fn rows_with_a_value(column: &ArrayRef) -> Result<Vec<usize>, ArrowError> {
    if let DataType::Dictionary(_, values) = column.data_type() {
        return rows_with_a_value(&cast(column, values)?);
    }
    let empty = |row: usize| match column.data_type() {
        DataType::Null => true,
        DataType::Boolean => !column.as_boolean().value(row),
        DataType::Utf8 => is_empty_text(column.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => is_empty_text(column.as_string::<i64>().value(row)),
        DataType::Utf8View => is_empty_text(column.as_string_view().value(row)),
        DataType::List(_) => column.as_list::<i32>().value_length(row) == 0,
        DataType::LargeList(_) => column.as_list::<i64>().value_length(row) == 0,
        _ => false,
    };
    Ok((0..column.len()).filter(|&row| column.is_valid(row) && !empty(row)).collect())
}

/// Rows of a batch with a value in a context column, with their faults.
///
/// # Errors
/// As [`rows_with_a_value`].
pub(crate) fn rows_with_context<'a>(
    columns: impl Iterator<Item = (&'a str, &'a ArrayRef)>,
) -> Result<BTreeMap<usize, String>, ArrowError> {
    let mut rows = BTreeMap::new();
    for (key, column) in columns {
        for row in rows_with_a_value(column)? {
            rows.entry(row).or_insert_with(|| unsupported(key));
        }
    }
    Ok(rows)
}

/// Takes a row's system message under any of its keys; `None` if there is none or only blank ones.
///
/// # Errors
/// The message is not text, or two keys have different texts.
pub(crate) fn take_system(row: &mut Map<String, Value>) -> Result<Option<String>, String> {
    let mut system: Option<String> = None;
    for key in SYSTEM_KEYS {
        match row.remove(key) {
            None => {}
            Some(value) if is_empty(&value) => {}
            Some(Value::String(text)) if system.as_ref().is_none_or(|known| *known == text) => system = Some(text),
            Some(Value::String(_)) => return Err("has two system messages".to_owned()),
            Some(_) => return Err(format!("key `{key}` is not text")),
        }
    }
    Ok(system)
}

/// Whether a text is an encoded list of messages: JSON, or Python's representation of a list.
pub(crate) fn is_encoded_messages(text: &str) -> bool {
    let text = text.trim();
    if !text.starts_with('[') || !text.ends_with(']') {
        return false;
    }
    let inside = text[1..].trim_start();
    if ["{'role':", "{'content':", "{'from':", "{'value':"].iter().any(|start| inside.starts_with(start)) {
        return true;
    }
    let Ok(Value::Array(items)) = serde_json::from_str::<Value>(text) else { return false };
    let is_message = |item: &Value| {
        let has = |key: &str| item.get(key).is_some_and(Value::is_string);
        has("role") && item.get("content").is_some() || has("from") && has("value")
    };
    !items.is_empty() && items.iter().all(is_message)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{BooleanArray, Int32Array, StringArray};
    use serde_json::json;

    use super::*;

    #[test]
    fn values_that_say_nothing_are_empty_in_json_and_in_arrow() {
        let texts = [Some(""), Some(" "), Some("[]"), None, Some("{}"), Some("a")];
        let column: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
        assert_eq!(rows_with_a_value(&column).unwrap(), [5]);
        for kind in [
            DataType::LargeUtf8,
            DataType::Utf8View,
            DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
        ] {
            assert_eq!(rows_with_a_value(&cast(&column, &kind).unwrap()).unwrap(), [5], "{kind}");
        }
        let json: Vec<bool> = texts.iter().map(|text| is_empty(&json!(text))).collect();
        assert_eq!(json, [true, true, true, true, true, false]);
        let flags: ArrayRef = Arc::new(BooleanArray::from(vec![false, true]));
        assert_eq!(rows_with_a_value(&flags).unwrap(), [1]);
        let numbers: ArrayRef = Arc::new(Int32Array::from(vec![Some(0), None]));
        assert_eq!(rows_with_a_value(&numbers).unwrap(), [0]);
    }

    #[test]
    fn a_system_message_is_taken_once() {
        let take = |value: Value| {
            let Value::Object(mut row) = value else { panic!("an object") };
            take_system(&mut row)
        };
        assert_eq!(take(json!({"system": "", "prompt": "p"})), Ok(None));
        assert_eq!(take(json!({"system": "s", "system_prompt": "s"})), Ok(Some("s".into())));
        assert!(take(json!({"system": "s", "system_prompt": "t"})).is_err());
        assert!(take(json!({"system": 3})).is_err());
    }
}
