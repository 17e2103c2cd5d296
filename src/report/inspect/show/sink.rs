//! Output of shown rows: one writer for each format.

use std::io::{self, BufWriter, ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::writer::StreamWriter;
use parquet::arrow::ArrowWriter;
use serde_json::Value;

use super::objects;
use super::table::{Wishes, cell, line, picked, printable, width, widths};
use crate::data::{counted, is_hash, join_some, quoted};
use crate::error::Result;

/// Output format of rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RowFormat {
    /// An aligned table for reading.
    Table,
    /// One JSON object per line.
    Json,
    /// CSV with a header (RFC 4180). Lists and structs are written as JSON, a null as an empty field, an
    /// empty text as `""`.
    Csv {
        /// Whether to prefix texts that a spreadsheet would read as formulas with `'`.
        guard: bool,
    },
    /// An Arrow IPC stream.
    Arrow,
    /// A Parquet file.
    Parquet,
}

/// Totals of a finished output.
pub(super) struct End {
    /// Rows written.
    pub written: u64,
    /// Total number of rows in the files.
    pub total: u64,
    /// Whether conditions selected the rows.
    pub chosen: bool,
    /// Whether the row limit was reached, so that more rows may exist.
    pub full: bool,
}

/// A writer for rows of one schema.
pub(super) trait Sink {
    /// Writes rows.
    fn write(&mut self, rows: &RecordBatch) -> Result<()>;
    /// Flushes buffered rows.
    fn flush(&mut self) -> Result<()>;
    /// Writes the end of the output, if the format has one, and flushes.
    fn finish(&mut self, _: &End) -> Result<()> {
        self.flush()
    }
}

/// A shared writer that records whether its reader has closed the pipe.
#[derive(Clone)]
pub(super) struct Pipe {
    to: Arc<Mutex<BufWriter<Box<dyn Write + Send>>>>,
    gone: Arc<AtomicBool>,
}

impl Pipe {
    pub fn new(to: impl Write + Send + 'static) -> Self {
        let to: Box<dyn Write + Send> = Box::new(to);
        Self { to: Arc::new(Mutex::new(BufWriter::with_capacity(1 << 16, to))), gone: Arc::default() }
    }
    /// Whether the reader has closed the pipe.
    pub fn gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }
    fn with<T>(&self, act: impl FnOnce(&mut BufWriter<Box<dyn Write + Send>>) -> io::Result<T>) -> io::Result<T> {
        let result = act(&mut self.to.lock().unwrap_or_else(PoisonError::into_inner));
        if result.as_ref().is_err_and(|e| e.kind() == ErrorKind::BrokenPipe) {
            self.gone.store(true, Ordering::Relaxed);
        }
        result
    }
}
impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.with(|to| to.write(bytes))
    }
    fn flush(&mut self) -> io::Result<()> {
        self.with(Write::flush)
    }
}

/// Layout options of a table.
pub(super) struct Look {
    /// Width of the terminal.
    pub room: usize,
    /// Whether the user chose the columns. Chosen columns are dropped only from the end when space runs
    /// out.
    pub chosen: bool,
    /// Columns that are omitted by default.
    pub hidden: Vec<String>,
}

/// Creates the writer of a format; `look` applies to tables.
pub(super) fn of(format: RowFormat, schema: &SchemaRef, pipe: &Pipe, look: Look) -> Result<Box<dyn Sink>> {
    let names: Vec<String> = schema.fields().iter().map(|f| f.name().clone()).collect();
    let pipe = pipe.clone();
    Ok(match format {
        RowFormat::Table => {
            let right = schema.fields().iter().map(|f| f.data_type().is_numeric()).collect();
            let heads = names.iter().map(|name| printable(name)).collect();
            Box::new(TableSink { pipe, names, heads, right, look, waiting: Vec::new(), layout: None })
        }
        RowFormat::Json => Box::new(Json(pipe)),
        RowFormat::Csv { guard } => {
            let csv = Csv { pipe, guard };
            let head: Vec<String> = names.iter().map(|name| csv.text(name)).collect();
            csv.line(&head)?;
            Box::new(csv)
        }
        RowFormat::Arrow => Box::new(Arrow(StreamWriter::try_new(pipe, schema)?)),
        RowFormat::Parquet => Box::new(Parquet(ArrowWriter::try_new(pipe, schema.clone(), None)?)),
    })
}

struct Json(Pipe);

impl Sink for Json {
    fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        for object in objects(rows)? {
            writeln!(self.0, "{}", Value::Object(object))?;
        }
        Ok(())
    }
    fn flush(&mut self) -> Result<()> {
        Ok(self.0.flush()?)
    }
}

struct Csv {
    pipe: Pipe,
    guard: bool,
}

impl Csv {
    fn line(&self, fields: &[String]) -> Result<()> {
        Ok(writeln!(self.pipe.clone(), "{}", fields.join(","))?)
    }
    fn text(&self, text: &str) -> String {
        if self.guard && text.starts_with(FORMULA) { field(&format!("'{text}")) } else { field(text) }
    }
    fn field(&self, value: &Value) -> String {
        match value {
            Value::Null => String::new(),
            Value::String(text) => self.text(text),
            other => field(&other.to_string()),
        }
    }
}

/// First characters that make a spreadsheet read a text as a formula, or that it skips before one; the last
/// four are full-width.
const FORMULA: &[char] = &['=', '+', '-', '@', '\t', '\r', '\u{ff1d}', '\u{ff0b}', '\u{ff0d}', '\u{ff20}'];

impl Sink for Csv {
    fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        for object in objects(rows)? {
            let fields: Vec<String> = object.values().map(|value| self.field(value)).collect();
            self.line(&fields)?;
        }
        Ok(())
    }
    fn flush(&mut self) -> Result<()> {
        Ok(self.pipe.flush()?)
    }
}

/// Formats a CSV field, quoted if necessary.
fn field(text: &str) -> String {
    if text.is_empty() || text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

struct Arrow(StreamWriter<Pipe>);

impl Sink for Arrow {
    fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        Ok(self.0.write(rows)?)
    }
    fn flush(&mut self) -> Result<()> {
        Ok(self.0.get_mut().flush()?)
    }
    fn finish(&mut self, _: &End) -> Result<()> {
        self.0.finish()?;
        self.flush()
    }
}

struct Parquet(ArrowWriter<Pipe>);

impl Sink for Parquet {
    fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        self.0.write(rows)?;
        // The writer buffers a row group in memory until it is flushed.
        if self.0.in_progress_size() > 64 << 20 {
            self.0.flush()?;
        }
        Ok(())
    }
    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
    fn finish(&mut self, _: &End) -> Result<()> {
        self.0.finish()?;
        Ok(self.0.inner_mut().flush()?)
    }
}

/// Width of a shortened hash, including the ellipsis.
const SHORT_HASH: usize = 9;

/// Number of rows that determine the column widths.
const SAMPLE: usize = 200;

struct TableSink {
    pipe: Pipe,
    names: Vec<String>,
    /// The printable column names.
    heads: Vec<String>,
    right: Vec<bool>,
    look: Look,
    /// Rows that are buffered until the widths are known.
    waiting: Vec<Vec<String>>,
    layout: Option<Layout>,
}

/// The columns shown, in order, with their widths.
struct Layout {
    columns: Vec<usize>,
    widths: Vec<usize>,
    right: Vec<bool>,
}

impl Layout {
    fn line(&self, row: &[String]) -> String {
        let cells: Vec<String> = self.columns.iter().map(|&c| row[c].clone()).collect();
        line(&cells, &self.widths, &self.right)
    }
}

impl TableSink {
    /// Fixes the columns and their widths, then writes the header and the buffered rows.
    fn lay_out(&mut self) -> Result<()> {
        let room = self.look.room;
        let cells = |c: usize| self.waiting.iter().map(|row| width(&row[c])).max().unwrap_or(0);
        let mut wanted: Vec<usize> = (0..self.names.len()).map(|c| cells(c).max(width(&self.heads[c]))).collect();
        let hash = |c: usize| self.waiting.iter().all(|row| row[c].is_empty() || is_hash(&row[c])) && cells(c) > 0;
        let hashes: Vec<bool> = (0..self.names.len()).map(hash).collect();
        // An empty column is less informative than a hash.
        let last = |c: usize| u8::from(hashes[c]) + 2 * u8::from(cells(c) == 0 && !self.waiting.is_empty());
        let last: Vec<u8> = (0..self.names.len()).map(last).collect();
        let least: Vec<usize> = (0..self.names.len()).map(|c| if self.right[c] { cells(c) } else { 0 }).collect();
        // If space is short, the first digits of a hash identify it well enough.
        if wanted.iter().sum::<usize>() + 2 * wanted.len().saturating_sub(1) > room {
            wanted.iter_mut().zip(&hashes).filter(|(_, hash)| **hash).for_each(|(w, _)| *w = SHORT_HASH);
        }
        let mut columns: Vec<usize> = if self.look.chosen {
            (0..self.names.len()).collect()
        } else {
            picked(&Wishes { names: &self.names, wanted: &wanted, least: &least, last: &last }, room)
        };
        let of = |all: &[usize]| columns.iter().map(|&c| all[c]).collect::<Vec<_>>();
        let widths = widths(&of(&wanted), &of(&least), room);
        columns.truncate(widths.len());
        let right = columns.iter().map(|&c| self.right[c]).collect();
        let layout = Layout { columns, widths, right };
        writeln!(self.pipe, "{}", layout.line(&self.heads))?;
        let rule = layout.widths.iter().sum::<usize>() + 2 * layout.widths.len().saturating_sub(1);
        writeln!(self.pipe, "{}", "-".repeat(rule))?;
        for row in std::mem::take(&mut self.waiting) {
            writeln!(self.pipe, "{}", layout.line(&row))?;
        }
        let left_out = self.names.iter().enumerate().filter(|(c, _)| !layout.columns.contains(c));
        self.look.hidden.extend(left_out.map(|(_, name)| name.clone()));
        self.layout = Some(layout);
        Ok(())
    }

    /// Names the omitted columns and the flags that show them.
    fn not_shown(&self) -> Option<String> {
        let hidden = &self.look.hidden;
        if hidden.is_empty() {
            return None;
        }
        let names: Vec<String> = hidden.iter().map(|name| printable(name)).collect();
        let names = join_some(&names);
        // `--columns` separates names by commas, so the example must not contain one.
        let one = hidden.iter().find(|name| !name.contains(',') && !name.is_empty());
        let one = one.map(|name| format!("--columns {} shows one, ", quoted(name))).unwrap_or_default();
        Some(format!("not shown: {names}; {one}--format json shows all"))
    }
}

impl Sink for TableSink {
    fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        for object in objects(rows)? {
            let row: Vec<String> = object.values().map(cell).collect();
            match &self.layout {
                Some(layout) => writeln!(self.pipe, "{}", layout.line(&row))?,
                None => self.waiting.push(row),
            }
            if self.waiting.len() >= SAMPLE {
                self.lay_out()?;
            }
        }
        Ok(())
    }
    fn flush(&mut self) -> Result<()> {
        if self.layout.is_none() {
            self.lay_out()?;
        }
        Ok(self.pipe.flush()?)
    }
    fn finish(&mut self, end: &End) -> Result<()> {
        self.flush()?;
        let End { written, total, .. } = *end;
        let words = match (end.chosen, end.full) {
            (false, _) if written == total => counted(total, "row"),
            (false, _) => format!("{written} of {}; --limit 0 shows all", counted(total, "row")),
            (true, true) => format!("the first {} that fit; --limit 0 shows all", counted(written, "row")),
            (true, false) => format!("{written} of {}", counted(total, "row")),
        };
        writeln!(self.pipe, "\n{words}")?;
        if let Some(words) = self.not_shown() {
            writeln!(self.pipe, "{words}")?;
        }
        Ok(self.pipe.flush()?)
    }
}

#[cfg(test)]
mod tests {

    #[test]
    fn fields_are_quoted_where_they_need_it() {
        for (text, field) in
            [("a", "a"), ("", "\"\""), ("a,b", "\"a,b\""), ("a\"b", "\"a\"\"b\""), ("a\nb", "\"a\nb\"")]
        {
            assert_eq!(super::field(text), field);
        }
    }
}
