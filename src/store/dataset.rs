//! [`Dataset`]: what a user gives to read, as batches of a named schema.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::error::ArrowError;

use super::columns::Found;
use super::context::{is_context, rows_with_context};
use super::fit::{Bad, fit_batch};
use super::jsonl::{Lines, Rows};
use super::listing::{files, is};
use super::reader::{CHUNK, Chunks, ParquetIn, guarded, row_bytes};
use crate::data::Schema;
use crate::error::{Error, Result};

/// A batch ends early when its rows take this many bytes, so that neither memory nor the 2 GiB of text that one column
/// can hold are exceeded, however long the rows are. Where it ends depends on the rows alone.
const BATCH_BYTES: u64 = 256 << 20;
/// Lines are turned into columns at the latest when they have this many bytes.
const LINES_BYTES: u64 = 64 << 20;

/// What to do about a row that does not parse, lacks a value, or whose value does not fit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnBadRow {
    /// Stop with an error that names the file and the row.
    #[default]
    Fail,
    /// Leave it out; [`Batches::take_bad_rows`] says which.
    Collect,
}

/// A row that was left out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadRow {
    /// The file.
    pub file: PathBuf,
    /// Its line (JSONL) or row (Parquet), from 1.
    pub row: u64,
    /// `bad_json`, `missing_key` or `bad_value`.
    pub code: &'static str,
    /// What is wrong with it.
    pub message: String,
}

impl BadRow {
    fn into_error(self) -> Error {
        let unit = if is(&self.file, "parquet") { "row" } else { "line" };
        Error::user(format!("`{}` {unit} {} {}", self.file.display(), self.row, self.message)).help(
            "mend the row, or take it out of the file; `reflux import --bad-rows skip` makes a file without bad rows",
        )
    }
}

/// A dataset that exists and has the columns that its schema needs.
#[derive(Clone, Debug)]
pub struct Dataset {
    path: PathBuf,
    schema: &'static Schema,
    /// In the order they are read.
    files: Vec<PathBuf>,
    /// The files' name of each of the schema's columns.
    names: Vec<String>,
    rows: Option<u64>,
    on_bad_row: OnBadRow,
}

impl Dataset {
    /// Opens a `.parquet` file, a `.jsonl` file, or a directory of them: Hive-style, flat, or nested, read in the order
    /// of their paths, numbers within them as numbers. Where a Parquet file has a JSONL twin, the twin is passed over.
    ///
    /// # Errors
    /// Nothing is there, or the columns do not fit the schema: every missing and mistyped one is named. Of a JSONL
    /// file only the first row is looked at here.
    pub fn open(path: &Path, schema: &'static Schema) -> Result<Self> {
        Self::open_as(path, schema, &[])
    }

    /// As [`Dataset::open`], for files that name their columns otherwise: `rename` has (our name, the file's name).
    ///
    /// # Errors
    /// As [`Dataset::open`]; a name that neither side knows.
    pub fn open_as(path: &Path, schema: &'static Schema, rename: &[(String, String)]) -> Result<Self> {
        if let Some((ours, _)) = rename.iter().find(|(ours, _)| schema.columns.iter().all(|c| c.name != ours)) {
            let names: Vec<_> = schema.columns.iter().map(|c| c.name).collect();
            return Err(Error::user(format!("the schema `{}` has no column `{ours}`", schema.name))
                .help(format!("its columns are: {}", names.join(", "))));
        }
        let theirs = |ours: &str| rename.iter().find(|r| r.0 == ours).map_or(ours, |r| &r.1).to_owned();
        let names: Vec<String> = schema.columns.iter().map(|c| theirs(c.name)).collect();
        let files = files(path)?;
        let mut rows = Some(0u64);
        for file in &files {
            let columns = Found::of(file)?;
            columns.check(file, schema, &names)?;
            rows = rows.zip(columns.rows).map(|(a, b)| a.saturating_add(b));
        }
        Ok(Self { path: path.to_owned(), schema, files, names, rows, on_bad_row: OnBadRow::Fail })
    }

    /// Chooses what to do about bad rows.
    #[must_use]
    pub fn on_bad_row(mut self, what: OnBadRow) -> Self {
        self.on_bad_row = what;
        self
    }
    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// What its rows are.
    pub fn schema(&self) -> &'static Schema {
        self.schema
    }
    /// Its files in the order they are read.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }
    /// How many rows there are, where the files say so (Parquet).
    pub fn rows(&self) -> Option<u64> {
        self.rows
    }
    /// blake3 of each file, 64 hex digits, in reading order: the lineage of what is made from them.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn hashes(&self) -> Result<Vec<String>> {
        self.files.iter().map(|f| Ok(super::hash_file(f)?.0)).collect()
    }
    /// All rows in file order, `rows_per_batch` at a time (the last batch may be smaller), however the rows are cut
    /// into files. Holds one batch and one chunk of a file in memory. Ends at the first error.
    pub fn batches(&self, rows_per_batch: usize) -> Batches {
        Batches {
            schema: self.schema,
            names: self.names.clone(),
            on_bad_row: self.on_bad_row,
            left: self.files.iter().cloned().collect(),
            size: rows_per_batch.max(1),
            source: None,
            pending: Vec::new(),
            pending_rows: 0,
            pending_bytes: 0,
            bad: Vec::new(),
        }
    }
}

enum Source {
    Parquet(ParquetSource),
    Jsonl(PathBuf, Lines),
}

/// A Parquet file that is being read.
struct ParquetSource {
    file: PathBuf,
    chunks: Box<Chunks>,
    /// Where each column of the schema stands in a chunk.
    columns: Vec<Option<usize>>,
    /// Where the columns stand whose values change what a row means, and that the schema lacks.
    context: Vec<usize>,
    /// Rows read before the next chunk.
    before: u64,
}

impl ParquetSource {
    /// The next rows that fit the schema, and those that do not by their place in the file, from 1.
    fn next(&mut self, schema: &'static Schema) -> Result<Option<(RecordBatch, BTreeMap<u64, String>)>> {
        let Some(chunk) = self.chunks.next().transpose()? else { return Ok(None) };
        let fitted = guarded(&self.file, || {
            self.fit(schema, &chunk)
                .map_err(|e| Error::user(format!("`{}` does not fit `{}`: {e}", self.file.display(), schema.name)))
        });
        let (batch, bad) = fitted?;
        let before = self.before;
        self.before += chunk.num_rows() as u64;
        Ok(Some((batch, bad.into_iter().map(|(row, what)| (before + row as u64 + 1, what)).collect())))
    }

    /// The rows of a chunk in the types of the schema, and those that are left out by their place in the chunk.
    fn fit(&self, schema: &'static Schema, chunk: &RecordBatch) -> Result<(RecordBatch, Bad), ArrowError> {
        let names = chunk.schema();
        let context = self.context.iter().map(|&at| (names.field(at).name().as_str(), chunk.column(at)));
        let mut bad: Bad = rows_with_context(context)?;
        let kept: Vec<usize> = (0..chunk.num_rows()).filter(|row| !bad.contains_key(row)).collect();
        let mut rows = chunk.clone();
        if !bad.is_empty() {
            let keep: BooleanArray = (0..chunk.num_rows()).map(|row| Some(!bad.contains_key(&row))).collect();
            rows = filter_record_batch(chunk, &keep)?;
        }
        let columns: Vec<_> = self.columns.iter().map(|at| at.map(|at| rows.column(at).clone())).collect();
        let (batch, misfits) = fit_batch(schema, &columns, rows.num_rows())?;
        bad.extend(misfits.into_iter().map(|(row, what)| (kept[row], what)));
        Ok((batch, bad))
    }
}

/// Iterator over a dataset's batches.
pub struct Batches {
    schema: &'static Schema,
    names: Vec<String>,
    on_bad_row: OnBadRow,
    left: VecDeque<PathBuf>,
    size: usize,
    source: Option<Source>,
    pending: Vec<RecordBatch>,
    pending_rows: usize,
    pending_bytes: u64,
    bad: Vec<BadRow>,
}

impl Batches {
    /// The rows left out since the last call, in file order.
    pub fn take_bad_rows(&mut self) -> Vec<BadRow> {
        std::mem::take(&mut self.bad)
    }

    fn open(&self, file: PathBuf) -> Result<Source> {
        if !is(&file, "parquet") {
            let lines = Lines::open(&file)?;
            return Ok(Source::Jsonl(file, lines));
        }
        let parquet = ParquetIn::open(&file)?;
        // The file may have changed since the dataset was opened.
        Found::of(&file)?.check(&file, self.schema, &self.names)?;
        let at: Vec<Option<usize>> = self.names.iter().map(|n| parquet.schema().index_of(n).ok()).collect();
        let fields = parquet.schema().fields().iter().enumerate();
        let unnamed = fields.filter(|(_, field)| is_context(field.name()) && !self.names.contains(field.name()));
        let context: Vec<usize> = unnamed.map(|(at, _)| at).filter(|&at| parquet.values_of(at) > 0).collect();
        let mut columns: Vec<usize> = at.iter().flatten().chain(&context).copied().collect();
        columns.sort_unstable();
        columns.dedup();
        let place = |column: usize| columns.binary_search(&column).ok();
        let within = at.iter().map(|column| column.and_then(place)).collect();
        let context = context.into_iter().filter_map(place).collect();
        let chunks = Box::new(parquet.read(&columns)?);
        Ok(Source::Parquet(ParquetSource { file, chunks, columns: within, context, before: 0 }))
    }

    /// The next rows of the current file; `None` at its end.
    fn chunk(&mut self) -> Result<Option<RecordBatch>> {
        let (schema, on_bad_row) = (self.schema, self.on_bad_row);
        let mut note = |bad: BadRow| match on_bad_row {
            OnBadRow::Fail => Err(bad.into_error()),
            OnBadRow::Collect => {
                self.bad.push(bad);
                Ok(())
            }
        };
        match &mut self.source {
            None => Ok(None),
            Some(Source::Parquet(source)) => {
                let Some((batch, misfits)) = source.next(schema)? else { return Ok(None) };
                for (row, message) in misfits {
                    note(BadRow { file: source.file.clone(), row, code: "bad_value", message })?;
                }
                Ok(Some(batch))
            }
            Some(Source::Jsonl(file, lines)) => {
                let mut rows = Rows::new(schema, self.names.clone());
                let start = lines.bytes();
                while rows.len() < CHUNK.min(self.size) && (rows.len() == 0 || lines.bytes() - start < LINES_BYTES) {
                    let Some((line, row)) = lines.next().transpose()? else { break };
                    if let Err((code, message)) = row.and_then(|mut row| rows.push(&mut row)) {
                        note(BadRow { file: file.clone(), row: line, code, message })?;
                    }
                }
                if rows.len() == 0 { Ok(None) } else { Ok(Some(rows.finish()?)) }
            }
        }
    }

    fn advance(&mut self) -> Result<Option<RecordBatch>> {
        while self.pending_rows < self.size && self.pending_bytes < BATCH_BYTES {
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
        self.pending_bytes = row_bytes(&rest);
        self.pending = if rest.num_rows() > 0 { vec![rest] } else { Vec::new() };
        Ok(Some(all.slice(0, take)))
    }
}

impl Iterator for Batches {
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
