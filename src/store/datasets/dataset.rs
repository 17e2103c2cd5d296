//! [`Dataset`]: a user's files as batches of a named schema.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::Schema as ArrowSchema;
use arrow::error::ArrowError;

use super::builder::BatchBuilder;
use super::cast::{Misfits, cast_batch, message_extras};
use super::columns::{Advice, FileColumns, is_conversation};
use super::context::{is_context, rows_with_context};
use super::json_rows::ParquetRows;
use super::normalize::{has_default, holds_system, normalize_batch};
use super::rename::{Rename, flag};
use super::text_rows::TextRows;
use crate::data::{Schema, Type, quoted};
use crate::error::{Error, Result};
use crate::store::files::jsonl::Row;
use crate::store::files::listing::{files, is};
use crate::store::files::reader::{CHUNK, Chunks, ParquetReader, guarded, row_bytes};
use crate::store::files::unread::{Unread, count_unread};

/// Maximum size in bytes of the lines that are converted to columns at a time.
pub(crate) const LINES_BYTES: u64 = 64 << 20;

/// Policy for rows that do not parse, lack a value, or have a value that does not fit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnBadRow {
    /// Fail with an error that names the file and the row.
    #[default]
    Fail,
    /// Leave the row out; [`DatasetBatches::take_bad_rows`] returns it.
    Collect,
}

/// A row that was left out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadRow {
    /// The file.
    pub file: PathBuf,
    /// The line (JSONL) or row (Parquet), from 1.
    pub row: u64,
    /// `bad_json`, `missing_key` or `bad_value`.
    pub code: &'static str,
    /// What is wrong with it.
    pub message: String,
}

impl BadRow {
    /// The error for this row; `names` are the file's names of the schema's columns.
    fn into_error(self, schema: &Schema, names: &[String]) -> Error {
        let unit = if is(&self.file, "parquet") { "row" } else { "line" };
        let mut command = format!("reflux import {} --format reflux", quoted(&self.file.to_string_lossy()));
        command += &format!(" --schema {}", schema.name);
        for (column, name) in schema.columns.iter().zip(names).filter(|(column, name)| column.name != name.as_str()) {
            command += &format!(" {}", flag(name, column.name));
        }
        Error::user(format!("`{}` {unit} {} {}", self.file.display(), self.row, self.message)).help(format!(
            "mend the row, or take it out of the file; `{command} --bad-rows skip` makes a file without bad rows"
        ))
    }
}

/// A dataset with the columns of its schema.
#[derive(Clone, Debug)]
pub struct Dataset {
    path: PathBuf,
    schema: &'static Schema,
    /// The files, in reading order.
    files: Vec<PathBuf>,
    /// The files' names of the schema's columns.
    names: Vec<String>,
    rows: Option<u64>,
    on_bad_row: OnBadRow,
    budget: u64,
}

impl Dataset {
    /// Maximum size of a batch in bytes. Longer rows end a batch early, so that neither memory nor the 2 GiB
    /// of text per column are exceeded. Where a batch ends depends on the rows alone.
    pub const BATCH_BYTES: u64 = 256 << 20;

    /// Opens a `.parquet` file, a `.jsonl` file, or a directory of them: Hive-style, flat, or nested. Files
    /// are read in the order of their paths, with numbers compared as numbers. JSONL files with a Parquet
    /// twin are skipped.
    ///
    /// # Errors
    /// No file found, or the columns do not fit the schema; the message names every missing and mistyped one.
    /// Of a JSONL file only the first row is checked here.
    pub fn open(path: &Path, schema: &'static Schema) -> Result<Self> {
        Self::open_as(path, schema, &[])
    }

    /// As [`Dataset::open`], for files with other column names: `rename` has pairs of our name and the file's
    /// name.
    ///
    /// # Errors
    /// As [`Dataset::open`]; a name is unknown.
    pub fn open_as(path: &Path, schema: &'static Schema, rename: &[(String, String)]) -> Result<Self> {
        Self::open_advised(path, schema, rename, Advice::Pipeline)
    }

    /// As [`Dataset::open_as`]; `advice` is how the user renames columns.
    pub(crate) fn open_advised(
        path: &Path,
        schema: &'static Schema,
        rename: &[(String, String)],
        advice: Advice,
    ) -> Result<Self> {
        let names = Rename::new(rename).names(schema)?;
        let files = files(path)?;
        let mut rows = Some(0u64);
        for file in &files {
            let columns = found(file, schema, &names)?;
            columns.check(file, schema, &names, advice)?;
            rows = rows.zip(columns.rows).map(|(a, b)| a.saturating_add(b));
        }
        let (path, on_bad_row, budget) = (path.to_owned(), OnBadRow::Fail, Self::BATCH_BYTES);
        Ok(Self { path, schema, files, names, rows, on_bad_row, budget })
    }

    /// Sets the policy for bad rows.
    #[must_use]
    pub fn on_bad_row(mut self, what: OnBadRow) -> Self {
        self.on_bad_row = what;
        self
    }
    /// Sets the maximum size of a batch in bytes, instead of [`Dataset::BATCH_BYTES`].
    #[must_use]
    pub fn budget(mut self, bytes: u64) -> Self {
        self.budget = bytes;
        self
    }
    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// The files, in reading order.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }
    /// Number of rows, if the files state it (Parquet).
    pub fn rows(&self) -> Option<u64> {
        self.rows
    }
    /// All rows in file order, `rows_per_batch` at a time (the last batch may be smaller), regardless of how
    /// they are split into files. Holds one batch and one chunk of a file in memory. Ends at the first error.
    pub fn batches(&self, rows_per_batch: usize) -> DatasetBatches {
        DatasetBatches {
            schema: self.schema,
            names: self.names.clone(),
            on_bad_row: self.on_bad_row,
            left: self.files.iter().cloned().collect(),
            size: rows_per_batch.max(1),
            budget: self.budget,
            source: None,
            pending: Vec::new(),
            pending_rows: 0,
            pending_bytes: 0,
            bad: Vec::new(),
            unread: Unread::new(),
        }
    }
}

/// Columns of a file, with `names` as its names of the schema's columns.
fn found(file: &Path, schema: &Schema, names: &[String]) -> Result<FileColumns> {
    let renamed = schema.columns.iter().zip(names).filter(|(column, name)| column.name != name.as_str());
    let renamed: Vec<&str> = renamed.map(|(_, name)| name.as_str()).collect();
    FileColumns::read(file, &Rename::default(), &renamed)
}

enum FileReader {
    Parquet(ParquetSource),
    /// Rows that are converted one by one.
    Rows(PathBuf, Box<dyn RowSource>),
}

/// Numbered rows, with the size of the rows read so far.
trait RowSource: Iterator<Item = Result<(u64, Row)>> + Send {
    fn bytes(&self) -> u64;
}
impl RowSource for TextRows {
    fn bytes(&self) -> u64 {
        TextRows::bytes(self)
    }
}
impl RowSource for ParquetRows {
    fn bytes(&self) -> u64 {
        ParquetRows::bytes(self)
    }
}

/// A Parquet file that is being read.
struct ParquetSource {
    file: PathBuf,
    chunks: Box<Chunks>,
    /// Position in a chunk of each of the schema's columns.
    columns: Vec<Option<usize>>,
    /// Positions of context columns, which the schema lacks.
    context: Vec<usize>,
    /// Number of rows before the next chunk.
    before: u64,
}

impl ParquetSource {
    /// The next rows that fit the schema, and the faults of those that do not, by row number from 1.
    fn next(
        &mut self,
        schema: &'static Schema,
        unread: &mut Unread,
    ) -> Result<Option<(RecordBatch, BTreeMap<u64, String>)>> {
        let Some(chunk) = self.chunks.next().transpose()? else { return Ok(None) };
        for (column, at) in schema.columns.iter().zip(&self.columns) {
            let given =
                at.filter(|_| column.kind == Type::Messages).map(|at| (chunk.schema_ref().field(at), chunk.column(at)));
            let Some((field, messages)) = given else { continue };
            for (name, rows) in message_extras(messages) {
                count_unread(unread, &format!("{}[].{name}", field.name()), rows);
            }
        }
        let fitted = guarded(&self.file, || {
            self.fit(schema, &chunk, unread)
                .map_err(|e| Error::user(format!("`{}` does not fit `{}`: {e}", self.file.display(), schema.name)))
        });
        let (batch, bad) = fitted?;
        let before = self.before;
        self.before += chunk.num_rows() as u64;
        Ok(Some((batch, bad.into_iter().map(|(row, what)| (before + row as u64 + 1, what)).collect())))
    }

    /// The rows of a chunk in the types of the schema, and the faults of the others by position in the chunk.
    fn fit(
        &self,
        schema: &'static Schema,
        chunk: &RecordBatch,
        unread: &mut Unread,
    ) -> Result<(RecordBatch, Misfits), ArrowError> {
        let names = chunk.schema();
        let context = self.context.iter().map(|&at| (names.field(at).name().as_str(), chunk.column(at)));
        let mut bad: Misfits = rows_with_context(context)?;
        let kept: Vec<usize> = (0..chunk.num_rows()).filter(|row| !bad.contains_key(row)).collect();
        let mut rows = chunk.clone();
        if !bad.is_empty() {
            let keep: BooleanArray = (0..chunk.num_rows()).map(|row| Some(!bad.contains_key(&row))).collect();
            rows = filter_record_batch(chunk, &keep)?;
        }
        let columns: Vec<_> = self.columns.iter().map(|at| at.map(|at| rows.column(at).clone())).collect();
        let (batch, misfits) = cast_batch(schema, &columns, rows.num_rows())?;
        let fitted: Vec<usize> =
            (0..kept.len()).filter(|row| !misfits.contains_key(row)).map(|row| kept[row]).collect();
        bad.extend(misfits.into_iter().map(|(row, what)| (kept[row], what)));
        let normalized = normalize_batch(schema, batch).map_err(|e| ArrowError::ExternalError(e.to_string().into()))?;
        bad.extend(normalized.bad.into_iter().map(|(row, what)| (fitted[row], what)));
        if normalized.other_prompts > 0 {
            count_unread(unread, "prompt", normalized.other_prompts);
        }
        Ok((normalized.rows, bad))
    }
}

/// Iterator over the batches of a [`Dataset`].
pub struct DatasetBatches {
    schema: &'static Schema,
    names: Vec<String>,
    on_bad_row: OnBadRow,
    left: VecDeque<PathBuf>,
    size: usize,
    /// Maximum size of a batch in bytes.
    budget: u64,
    source: Option<FileReader>,
    pending: Vec<RecordBatch>,
    pending_rows: usize,
    pending_bytes: u64,
    bad: Vec<BadRow>,
    unread: Unread,
}

/// Adds the counts of `more` to `all`.
fn merge(all: &mut Unread, more: Unread) {
    more.into_iter().for_each(|(key, rows)| count_unread(all, &key, rows));
}

impl DatasetBatches {
    /// Unread keys and columns so far, with the number of rows that have a value there: in text files the
    /// rows that were read, in Parquet files all rows.
    pub fn unread(&self) -> &BTreeMap<String, u64> {
        &self.unread
    }

    /// Takes the rows that were left out since the last call, in file order.
    pub fn take_bad_rows(&mut self) -> Vec<BadRow> {
        std::mem::take(&mut self.bad)
    }

    fn open(&mut self, file: PathBuf) -> Result<FileReader> {
        if !is(&file, "parquet") {
            let rows = Box::new(TextRows::open(&file)?.typed(self.schema, &self.names));
            return Ok(FileReader::Rows(file, rows));
        }
        let parquet = ParquetReader::open(&file)?;
        // The file may have changed since the dataset was opened.
        found(&file, self.schema, &self.names)?.check(&file, self.schema, &self.names, Advice::Pipeline)?;
        let at: Vec<Option<usize>> = self.names.iter().map(|n| parquet.schema().index_of(n).ok()).collect();
        let values = parquet.values();
        let unnamed =
            parquet.schema().fields().iter().enumerate().filter(|(_, field)| !self.names.contains(field.name()));
        let unnamed = unnamed.map(|(at, field)| (at, field.name().clone(), values[at]));
        let (context, unread): (Vec<_>, Vec<_>) =
            unnamed.filter(|column| column.2 > 0).partition(|(_, name, _)| is_context(name));
        let held = context.iter().any(|(_, name, _)| holds_system(self.schema, &self.names, name));
        let by_row = held || self.needs_rows(parquet.schema(), &at);
        unread.iter().for_each(|(_, name, rows)| count_unread(&mut self.unread, name, *rows));
        let mut columns: Vec<usize> =
            at.iter().flatten().copied().chain(context.iter().map(|column| column.0)).collect();
        columns.sort_unstable();
        columns.dedup();
        let place = |column: usize| columns.binary_search(&column).ok();
        let within = at.iter().map(|column| column.and_then(place)).collect();
        let context = context.into_iter().filter_map(|column| place(column.0)).collect();
        let chunks = parquet.read(&columns)?;
        if by_row {
            return Ok(FileReader::Rows(file, Box::new(ParquetRows::new(chunks))));
        }
        Ok(FileReader::Parquet(ParquetSource { file, chunks: Box::new(chunks), columns: within, context, before: 0 }))
    }

    /// Whether a Parquet file must be converted row by row: its prompt is messages where the schema has text,
    /// or a column gets a default.
    fn needs_rows(&self, file: &ArrowSchema, at: &[Option<usize>]) -> bool {
        self.schema.columns.iter().zip(at).any(|(column, at)| match at {
            Some(at) => is_conversation(self.schema, column, file.field(*at).data_type()),
            None => has_default(self.schema, column.name),
        })
    }

    /// The next rows of the current file; `None` at its end.
    fn chunk(&mut self) -> Result<Option<RecordBatch>> {
        let (schema, on_bad_row) = (self.schema, self.on_bad_row);
        let mut note = |bad: BadRow| match on_bad_row {
            OnBadRow::Fail => Err(bad.into_error(schema, &self.names)),
            OnBadRow::Collect => {
                self.bad.push(bad);
                Ok(())
            }
        };
        match &mut self.source {
            None => Ok(None),
            Some(FileReader::Parquet(source)) => {
                let Some((batch, misfits)) = source.next(schema, &mut self.unread)? else { return Ok(None) };
                for (row, message) in misfits {
                    note(BadRow { file: source.file.clone(), row, code: "bad_value", message })?;
                }
                Ok(Some(batch))
            }
            Some(FileReader::Rows(file, lines)) => {
                let mut rows = BatchBuilder::new(schema, self.names.clone());
                let start = lines.bytes();
                while rows.len() < CHUNK.min(self.size)
                    && (rows.len() == 0 || lines.bytes() - start < LINES_BYTES.min(self.budget))
                {
                    let Some((line, row)) = lines.next().transpose()? else { break };
                    if let Err((code, message)) = row.and_then(|mut row| rows.push(&mut row)) {
                        note(BadRow { file: file.clone(), row: line, code, message })?;
                    }
                }
                merge(&mut self.unread, rows.take_unread());
                if rows.len() == 0 { Ok(None) } else { Ok(Some(rows.finish()?)) }
            }
        }
    }

    fn advance(&mut self) -> Result<Option<RecordBatch>> {
        while self.pending_rows < self.size && self.pending_bytes < self.budget {
            match self.chunk()? {
                Some(chunk) => {
                    self.pending_bytes = self.pending_bytes.saturating_add(row_bytes(&chunk));
                    self.pending_rows += chunk.num_rows();
                    if chunk.num_rows() > 0 {
                        self.pending.push(chunk);
                    }
                }
                None => match self.left.pop_front() {
                    Some(file) => self.source = Some(self.open(file)?),
                    None => {
                        self.source = None;
                        break;
                    }
                },
            }
        }
        if self.pending_rows == 0 {
            return Ok(None);
        }
        let all = match &self.pending[..] {
            [one] => one.clone(),
            many => concat_batches(&self.schema.arrow(), many)?,
        };
        let take = self.size.min(all.num_rows());
        let rest = all.slice(take, all.num_rows() - take);
        self.pending_rows = rest.num_rows();
        // Columns without rows still have a size, which could end the dataset early if it were counted.
        self.pending_bytes = if rest.num_rows() > 0 { row_bytes(&rest) } else { 0 };
        self.pending = if rest.num_rows() > 0 { vec![rest] } else { Vec::new() };
        Ok(Some(all.slice(0, take)))
    }
}

impl Iterator for DatasetBatches {
    type Item = Result<RecordBatch>;
    fn next(&mut self) -> Option<Self::Item> {
        let result = self.advance();
        if result.is_err() {
            self.left.clear();
            self.source = None;
            self.pending.clear();
            (self.pending_rows, self.pending_bytes) = (0, 0);
        }
        result.transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::named;

    /// However many rows are asked for, a batch ends when its rows have the bytes that it may have; no row is lost or moved.
    #[test]
    fn a_batch_ends_at_its_budget() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.jsonl");
        let row = |i: usize| format!("{{\"prompt\": \"{i} {}\", \"response\": \"yes\"}}\n", "x".repeat(7 * i % 300));
        std::fs::write(&path, (0..200).map(row).collect::<String>()).unwrap();
        let read = |budget: u64| -> Vec<RecordBatch> {
            let dataset = Dataset::open(&path, &named::IFT).unwrap().budget(budget);
            dataset.batches(100_000).collect::<Result<_>>().unwrap()
        };
        let (whole, parts) = (read(Dataset::BATCH_BYTES), read(4000));
        assert_eq!(whole.len(), 1);
        assert!(parts.len() > 3 && parts.iter().all(|part| row_bytes(part) < 3 * 4000), "{} batches", parts.len());
        assert_eq!(concat_batches(&whole[0].schema(), &parts).unwrap(), whole[0]);
        // A row that is larger than that is a batch of its own.
        assert_eq!(read(1).len(), 200);
    }
}
