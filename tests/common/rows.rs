//! Rows that tests write and read.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use arrow::array::{Array as _, RecordBatch};
use reflux::data::Columns;
use serde_json::Value;

/// A column of texts, none of which is null.
pub fn texts(rows: &RecordBatch, column: &str) -> Vec<String> {
    Columns(rows).text(column).unwrap().iter().map(|text| text.unwrap().to_owned()).collect()
}

/// A column of texts, with a dash for null.
pub fn texts_or_dashes(rows: &RecordBatch, column: &str) -> Vec<String> {
    let column = Columns(rows).text(column).unwrap();
    (0..rows.num_rows()).map(|i| if column.is_valid(i) { column.value(i).to_owned() } else { "-".into() }).collect()
}

/// Writes rows as lines of JSON, compressed if the name ends in `.gz`.
pub fn write_json_lines(dir: &Path, name: &str, rows: &[Value]) -> PathBuf {
    let path = dir.join(name);
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    let bytes = if name.ends_with(".gz") {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(text.as_bytes()).unwrap();
        gz.finish().unwrap()
    } else {
        text.into_bytes()
    };
    std::fs::write(&path, bytes).unwrap();
    path
}
