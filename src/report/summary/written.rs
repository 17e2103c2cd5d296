//! Reads lists back from the summary of a finished run.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Result};

/// Reads a list that a run wrote to its summary; empty if the summary is of an earlier version without it.
///
/// An item has an unexpected type.
/// It has other items.
pub(crate) fn written_list<T: DeserializeOwned>(summary: &Value, key: &str) -> Result<Vec<T>> {
    match &summary[key] {
        Value::Null => Ok(Vec::new()),
        list => serde_json::from_value(list.clone()).map_err(|e| Error::user(format!("`{key}`: {e}"))),
    }
}
