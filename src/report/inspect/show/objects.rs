//! Converts rows to JSON.

use arrow::array::RecordBatch;
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::store::printable_with_bytes;

/// Converts rows to JSON objects with keys in column order.
pub(crate) fn objects(rows: &RecordBatch) -> Result<Vec<Map<String, Value>>> {
    let mut writer = arrow::json::WriterBuilder::new()
        .with_explicit_nulls(true)
        .build::<_, arrow::json::writer::LineDelimited>(vec![]);
    let rows = printable_with_bytes(rows)?;
    writer.write(&rows).map_err(|e| Error::user(format!("these rows cannot be shown as text: {e}")))?;
    writer.finish()?;
    let bytes = writer.into_inner();
    let objects = serde_json::Deserializer::from_slice(&bytes).into_iter();
    objects.map(|o| o.map_err(|e| Error::bug(format!("Arrow's JSON: {e}")))).collect()
}
