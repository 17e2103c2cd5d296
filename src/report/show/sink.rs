//! Where shown rows go: one writer for each format.

use std::io::{self, BufWriter, ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::writer::StreamWriter;
use parquet::arrow::ArrowWriter;
use serde_json::Value;

use super::objects;
use super::table::{cell, line, printable, width, widths};
use crate::error::Result;

/// How rows are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// Aligned, for people.
    Table,
    /// A JSON object a line.
    Json,
    /// Comma-separated with a head, as in RFC 4180; lists and structs as JSON; a null is empty, an empty text is `""`.
    Csv {
        /// Whether texts that a spreadsheet would take for formulas begin with `'`.
        guard: bool,
    },
    /// An Arrow IPC stream.
    Arrow,
    /// A Parquet file.
    Parquet,
}

/// What there was when all is written.
pub(super) struct End {
    /// Rows written.
    pub written: u64,
    /// Rows of the files.
    pub total: u64,
    /// Whether only some of them were wanted.
    pub chosen: bool,
    /// Whether there were as many as were asked for, and so may be more.
    pub full: bool,
}

/// Takes rows of one schema.
pub(super) trait Sink {
    /// Takes rows.
    fn write(&mut self, rows: &RecordBatch) -> Result<()>;
    /// Passes on what it has.
    fn flush(&mut self) -> Result<()>;
    /// Writes what stands at the end.
    fn finish(&mut self, end: &End) -> Result<()>;
}

/// A writer that several may hold, and that remembers whether its reader has gone away.
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
    /// Whether the reader has gone away.
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

/// The writer of a format; `room` and `hidden` are a table's: the terminal's width, and columns that are left out.
pub(super) fn of(
    format: Format,
    schema: &SchemaRef,
    pipe: &Pipe,
    room: usize,
    hidden: Vec<String>,
) -> Result<Box<dyn Sink>> {
    let names: Vec<String> = schema.fields().iter().map(|f| f.name().clone()).collect();
    let pipe = pipe.clone();
    Ok(match format {
        Format::Table => {
            let names = names.iter().map(|name| printable(name)).collect();
            let hidden = hidden.iter().map(|name| printable(name)).collect();
            let right = schema.fields().iter().map(|f| f.data_type().is_numeric()).collect();
            Box::new(Table { pipe, names, right, room, waiting: Vec::new(), widths: None, hidden })
        }
        Format::Json => Box::new(Json(pipe)),
        Format::Csv { guard } => {
            let csv = Csv { pipe, guard };
            let head: Vec<String> = names.iter().map(|name| csv.text(name)).collect();
            csv.line(&head)?;
            Box::new(csv)
        }
        Format::Arrow => Box::new(Arrow(StreamWriter::try_new(pipe, schema)?)),
        Format::Parquet => Box::new(Parquet(ArrowWriter::try_new(pipe, schema.clone(), None)?)),
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
    fn finish(&mut self, _: &End) -> Result<()> {
        self.flush()
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
        if self.guard && text.starts_with(FORMULA) { quoted(&format!("'{text}")) } else { quoted(text) }
    }
    fn field(&self, value: &Value) -> String {
        match value {
            Value::Null => String::new(),
            Value::String(text) => self.text(text),
            other => quoted(&other.to_string()),
        }
    }
}

/// What a spreadsheet takes for the beginning of a formula, or skips in front of one; the last four are full-width.
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
    fn finish(&mut self, _: &End) -> Result<()> {
        self.flush()
    }
}

/// A field of a CSV file, in quotes where it needs them.
fn quoted(text: &str) -> String {
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
        // A row group is held in memory until it is whole.
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

/// Places that a hash takes where room is short, the ellipsis among them.
const SHORT_HASH: usize = 9;

fn is_hash(cell: &str) -> bool {
    cell.is_empty() || (cell.len() >= 32 && cell.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Rows that decide how wide columns are.
const SAMPLE: usize = 200;

struct Table {
    pipe: Pipe,
    names: Vec<String>,
    right: Vec<bool>,
    room: usize,
    /// Rows until the widths are known.
    waiting: Vec<Vec<String>>,
    widths: Option<Vec<usize>>,
    hidden: Vec<String>,
}

impl Table {
    /// Fixes the widths, and writes the head and what has waited.
    fn lay_out(&mut self) -> Result<()> {
        let wide = |c: usize| self.waiting.iter().map(|row| width(&row[c])).chain([width(&self.names[c])]).max();
        let mut wanted: Vec<usize> = (0..self.names.len()).map(|c| wide(c).unwrap_or(0)).collect();
        // Where room is short, the beginning of a hash says enough.
        if wanted.iter().sum::<usize>() + 2 * wanted.len().saturating_sub(1) > self.room {
            let hashes = |c: usize| self.waiting.iter().all(|row| is_hash(&row[c]));
            wanted.iter_mut().enumerate().filter(|(c, w)| **w >= 32 && hashes(*c)).for_each(|(_, w)| *w = SHORT_HASH);
        }
        let cells = |c: usize| self.waiting.iter().map(|row| width(&row[c])).max().unwrap_or(0);
        let least: Vec<usize> = (0..self.names.len()).map(|c| if self.right[c] { cells(c) } else { 0 }).collect();
        let widths = widths(&wanted, &least, self.room);
        writeln!(self.pipe, "{}", line(&self.names, &widths, &self.right))?;
        let rule = widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1);
        writeln!(self.pipe, "{}", "-".repeat(rule))?;
        for row in std::mem::take(&mut self.waiting) {
            writeln!(self.pipe, "{}", line(&row, &widths, &self.right))?;
        }
        self.hidden.extend(self.names.iter().skip(widths.len()).cloned());
        self.widths = Some(widths);
        Ok(())
    }
}

impl Sink for Table {
    fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        for object in objects(rows)? {
            let row: Vec<String> = object.values().map(cell).collect();
            match &self.widths {
                Some(widths) => writeln!(self.pipe, "{}", line(&row, widths, &self.right))?,
                None => self.waiting.push(row),
            }
            if self.waiting.len() >= SAMPLE {
                self.lay_out()?;
            }
        }
        Ok(())
    }
    fn flush(&mut self) -> Result<()> {
        if self.widths.is_none() {
            self.lay_out()?;
        }
        Ok(self.pipe.flush()?)
    }
    fn finish(&mut self, end: &End) -> Result<()> {
        self.flush()?;
        let End { written, total, .. } = *end;
        let words = match (end.chosen, end.full) {
            (false, _) if written == total => format!("{total} rows"),
            (false, _) => format!("{written} of {total} rows; --limit 0 shows all"),
            (true, true) => format!("the first {written} rows that fit; --limit 0 shows all"),
            (true, false) => format!("{written} of {total} rows"),
        };
        writeln!(self.pipe, "\n{words}")?;
        if !self.hidden.is_empty() {
            writeln!(self.pipe, "not shown: {}; --columns chooses", self.hidden.join(", "))?;
        }
        Ok(self.pipe.flush()?)
    }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn fields_are_quoted_where_they_need_it() {
        for (text, field) in
            [("a", "a"), ("", "\"\""), ("a,b", "\"a,b\""), ("a\"b", "\"a\"\"b\""), ("a\nb", "\"a\nb\"")]
        {
            assert_eq!(quoted(text), field);
        }
    }
}
