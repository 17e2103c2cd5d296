//! Rows of Parquet as JSON objects.

use std::collections::VecDeque;
use std::path::Path;

use arrow::array::RecordBatch;
use arrow::json::LineDelimitedWriter;

use crate::error::Result;
use crate::store::files::jsonl::{Row, parse};
use crate::store::files::lines::MAX_LENGTH;
use crate::store::files::printable::as_printable;
use crate::store::files::reader::{Chunks, guarded, row_bytes};

/// Reads a Parquet file as JSON rows, numbered from 1. Holds one chunk in memory.
pub(crate) struct ParquetRows {
    chunks: Chunks,
    /// The rest of the current chunk.
    left: Option<RecordBatch>,
    ready: VecDeque<Row>,
    /// Number of the last row.
    number: u64,
    bytes: u64,
}

impl ParquetRows {
    pub fn new(chunks: Chunks) -> Self {
        Self { chunks, left: None, ready: VecDeque::new(), number: 0, bytes: 0 }
    }

    /// Size in bytes of the rows so far, including those that are ready.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&mut self) -> Result<Option<(u64, Row)>> {
        while self.ready.is_empty() {
            let chunk = match self.left.take() {
                Some(left) => left,
                None => match self.chunks.next().transpose()? {
                    Some(chunk) => chunk,
                    None => return Ok(None),
                },
            };
            // JSON takes several times the size of a chunk, so a chunk of huge rows is converted row by row.
            let large = row_bytes(&chunk) > MAX_LENGTH / 4 && chunk.num_rows() > 1;
            let rows = if large { 1 } else { chunk.num_rows() };
            self.turn(&chunk.slice(0, rows));
            self.left = (rows < chunk.num_rows()).then(|| chunk.slice(rows, chunk.num_rows() - rows));
        }
        self.number += 1;
        Ok(self.ready.pop_front().map(|row| (self.number, row)))
    }

    fn turn(&mut self, rows: &RecordBatch) {
        self.bytes = self.bytes.saturating_add(row_bytes(rows));
        let path = self.chunks.path();
        match json_rows(path, rows) {
            Ok(made) => self.ready.extend(made),
            // A row cannot be converted: find it by converting the rows one by one.
            Err(_) if rows.num_rows() > 1 => {
                for row in 0..rows.num_rows() {
                    let made = json_rows(path, &rows.slice(row, 1));
                    self.ready.extend(made.unwrap_or_else(|what| vec![Err(("bad_value", what))]));
                }
            }
            Err(what) => self.ready.push_back(Err(("bad_value", what))),
        }
    }
}

impl Iterator for ParquetRows {
    type Item = Result<(u64, Row)>;
    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

/// Converts rows to JSON objects, or returns why that is not possible.
fn json_rows(path: &Path, rows: &RecordBatch) -> std::result::Result<Vec<Row>, String> {
    if rows.num_rows() == 1 && row_bytes(rows) > MAX_LENGTH {
        return Err(format!("is longer than {} MiB", MAX_LENGTH >> 20));
    }
    let turned = guarded(path, || {
        let rows = as_printable(rows)?;
        let mut text = Vec::new();
        let mut writer = LineDelimitedWriter::new(&mut text);
        writer.write(&rows).and_then(|()| writer.finish())?;
        Ok(text)
    });
    let text = turned.map_err(|e| format!("cannot be read: {e}"))?;
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    Ok(lines.map(parse).collect())
}
