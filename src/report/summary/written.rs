//! Lists that a finished run has written to its summary.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{Error, Result};

/// A list that a run wrote to its summary; empty where the summary, of an earlier version, does not have it.
///
/// # Errors
/// It has other items.
pub(crate) fn written_list<T: DeserializeOwned>(summary: &Value, key: &str) -> Result<Vec<T>> {
    match &summary[key] {
        Value::Null => Ok(Vec::new()),
        list => serde_json::from_value(list.clone()).map_err(|e| Error::user(format!("`{key}`: {e}"))),
    }
}
