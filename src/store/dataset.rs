//! [`Dataset`]: what a user gives to read, as batches of a named schema.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::DataType;
use serde_json::{Map, Value};

use super::fit::{Bad, castable, fit_batch, spell};
use super::jsonl::{Lines, Rows};
use super::reader::{CHUNK, Chunks, ParquetIn, guarded};
use crate::data::{SCHEMAS, Schema};
use crate::error::{Error, Result};

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
        Error::user(format!("`{}` {unit} {} {}", self.file.display(), self.row, self.message))
            .help("mend the row, or let bad rows be left out with `on_bad_row = \"collect\"`")
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
            bad: Vec::new(),
        }
    }
}

fn is(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension))
}

/// A path's place in the reading order: numbers count as numbers, so `iteration=10` comes after `iteration=2`.
fn order(path: &Path) -> Vec<Vec<(String, u64)>> {
    let part = |part: &std::ffi::OsStr| {
        let text = part.to_string_lossy();
        let mut pieces: Vec<(String, u64)> = Vec::new();
        for run in text.split_inclusive(|c: char| !c.is_ascii_digit()) {
            // A run is digits, then at most one other character, which begins the next piece's text.
            let digits = run.trim_end_matches(|c: char| !c.is_ascii_digit());
            if let (Some(last), Ok(n)) = (pieces.last_mut(), digits.parse()) {
                last.1 = n;
                pieces.push((run[digits.len()..].to_owned(), 0));
            } else if let Some(last) = pieces.last_mut() {
                last.0.push_str(run);
            } else {
                let n = digits.parse().unwrap_or(0);
                pieces.extend([(String::new(), n), (run[digits.len()..].to_owned(), 0)]);
            }
        }
        pieces
    };
    path.iter().map(part).collect()
}

fn files(path: &Path) -> Result<Vec<PathBuf>> {
    let missing = |e: &std::io::Error| {
        Error::user(format!("there is no dataset at `{}`: {e}", path.display()))
            .help("give a .parquet file, a .jsonl file, or a directory of them; relative paths start where reflux runs")
    };
    let kind = std::fs::metadata(path).map_err(|e| missing(&e))?;
    if kind.is_file() {
        return if is(path, "parquet") || is(path, "jsonl") {
            Ok(vec![path.to_owned()])
        } else {
            Err(Error::user(format!("`{}` is neither .parquet nor .jsonl", path.display()))
                .help("convert it, or rename it if it is one of them"))
        };
    }
    let mut found = Vec::new();
    collect(path, 8, &mut found).map_err(|e| super::atomic::io_error("listing", path, &e))?;
    let parquet: std::collections::BTreeSet<PathBuf> = found.iter().filter(|f| is(f, "parquet")).cloned().collect();
    found.retain(|f| is(f, "parquet") || !parquet.contains(&f.with_extension("parquet")));
    found.sort_by_cached_key(|f| (order(f), f.clone()));
    if found.is_empty() {
        return Err(Error::user(format!("the directory `{}` holds no .parquet or .jsonl file", path.display())));
    }
    Ok(found)
}

/// Data files below `dir`, hidden ones and `_markers` left out, at most `depth` levels down.
fn collect(dir: &Path, depth: u32, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(['.', '_']) {
            continue;
        }
        if path.is_dir() {
            if depth > 0 {
                collect(&path, depth - 1, found)?;
            }
        } else if is(&path, "parquet") || is(&path, "jsonl") {
            found.push(path);
        }
    }
    Ok(())
}

/// The columns of one file, before anything is read.
struct Found {
    /// Names with their Arrow types; of a JSONL file the first row's keys, with the values themselves.
    columns: Vec<(String, Sample)>,
    rows: Option<u64>,
    /// An empty JSONL file fits every schema.
    any: bool,
}
enum Sample {
    Typed(DataType),
    Json(Value),
}

impl Found {
    fn of(file: &Path) -> Result<Self> {
        if is(file, "parquet") {
            let parquet = ParquetIn::open(file)?;
            let typed =
                parquet.schema().fields().iter().map(|f| (f.name().clone(), Sample::Typed(f.data_type().clone())));
            return Ok(Self { columns: typed.collect(), rows: Some(parquet.rows()), any: false });
        }
        let first = Lines::open(file)?.find_map(|line| match line {
            Ok((_, Ok(row))) => Some(Ok(row)),
            Ok((_, Err(_))) => None, // said when it is read, under the policy for bad rows
            Err(e) => Some(Err(e)),
        });
        let any = first.is_none();
        let row = first.transpose()?.unwrap_or_default();
        Ok(Self { columns: row.into_iter().map(|(k, v)| (k, Sample::Json(v))).collect(), rows: None, any })
    }

    /// Whether the column called `name` can be read as the schema's column: `None` if it is not there, or what is
    /// wrong with it.
    fn fits(&self, name: &str, schema: &'static Schema, column: usize) -> Option<Result<(), String>> {
        let (_, sample) = self.columns.iter().find(|(n, _)| n == name)?;
        let spec = &schema.columns[column];
        let want = spec.kind.arrow();
        Some(match sample {
            Sample::Typed(DataType::Null) if spec.nullable => Ok(()),
            Sample::Typed(have) if castable(have, &want) => Ok(()),
            Sample::Typed(have) => Err(format!("`{name}` is {}, expected {}", spell(have), spell(&want))),
            Sample::Json(Value::Null) if spec.nullable => Ok(()),
            Sample::Json(value) => {
                // A schema's own reader decides: a row that holds only this column fails elsewhere or not at all.
                let mut row = Map::from_iter([(name.to_owned(), value.clone())]);
                let names = schema.columns.iter().map(|c| if c.name == spec.name { name } else { c.name }.to_owned());
                match Rows::new(schema, names.collect()).push(&mut row) {
                    Err(("bad_value", message)) => Err(message.trim_start_matches("key ").to_owned()),
                    _ => Ok(()),
                }
            }
        })
    }

    fn check(&self, file: &Path, schema: &'static Schema, names: &[String]) -> Result<()> {
        if self.any {
            return Ok(());
        }
        let (mut missing, mut mistyped) = (Vec::new(), Vec::new());
        for (i, (spec, name)) in schema.columns.iter().zip(names).enumerate() {
            match self.fits(name, schema, i) {
                Some(Ok(())) => {}
                Some(Err(what)) => mistyped.push(what),
                // A nullable column may be missing, unless it was asked for by another name.
                None if spec.nullable && name == spec.name => {}
                None => missing.push(name.as_str()),
            }
        }
        if missing.is_empty() && mistyped.is_empty() {
            return Ok(());
        }
        let mut parts = Vec::new();
        if !missing.is_empty() {
            parts.push(format!("missing: {}", tick(&missing)));
        }
        if !mistyped.is_empty() {
            parts.push(format!("of another type: {}", mistyped.join("; ")));
        }
        let have: Vec<&str> = self.columns.iter().map(|(n, _)| n.as_str()).collect();
        parts.push(format!("there are: {}", tick(&have)));
        let free: Vec<&str> = have.iter().copied().filter(|h| names.iter().all(|n| n != h)).collect();
        let hints: Vec<String> =
            missing.iter().filter_map(|m| Some(format!("{m} = \"{}\"", super::suggest::nearest(m, &free)?))).collect();
        let error = Error::user(format!(
            "`{}` does not fit the schema `{}`; {}",
            file.display(),
            schema.name,
            parts.join("; ")
        ));
        Err(if hints.is_empty() {
            error.help(format!("`reflux schema {}` lists the columns; map other names with `columns`", schema.name))
        } else {
            error.help(format!("did you mean `columns = {{ {} }}`?", hints.join(", ")))
        })
    }
}

fn tick(names: &[&str]) -> String {
    let mut shown: Vec<String> = names.iter().take(30).map(|n| format!("`{n}`")).collect();
    if names.len() > 30 {
        shown.push(format!("{} more", names.len() - 30));
    }
    if shown.is_empty() { "none".to_owned() } else { shown.join(", ") }
}

/// The named schema that a dataset's columns fit best: all that it needs are there, and of those schemas the one with
/// the most columns matched (then the fewest unmatched; then the first listed).
///
/// # Errors
/// Nothing is there, or no schema fits; the nearest is named with what it lacks.
pub fn guess(path: &Path) -> Result<&'static Schema> {
    let first = files(path)?.swap_remove(0);
    let found = Found::of(&first)?;
    let score = |schema: &'static Schema| {
        let (mut matched, mut lacking) = (0, Vec::new());
        for (i, column) in schema.columns.iter().enumerate() {
            match found.fits(column.name, schema, i) {
                Some(Ok(())) => matched += 1,
                _ if column.nullable => {}
                _ => lacking.push(column.name),
            }
        }
        (matched, lacking)
    };
    let mut best: Option<(usize, &'static Schema)> = None;
    let mut nearest: Option<(usize, &'static Schema, Vec<&str>)> = None;
    for &schema in SCHEMAS {
        let (matched, lacking) = score(schema);
        if lacking.is_empty() {
            let better = best
                .is_none_or(|(most, of)| matched > most || matched == most && schema.columns.len() < of.columns.len());
            if better && matched > 0 {
                best = Some((matched, schema));
            }
        } else if nearest.as_ref().is_none_or(|(n, ..)| lacking.len() < *n) {
            nearest = Some((lacking.len(), schema, lacking));
        }
    }
    best.map(|(_, schema)| schema).ok_or_else(|| {
        let have: Vec<&str> = found.columns.iter().map(|(n, _)| n.as_str()).collect();
        let error = Error::user(format!("the columns of `{}` fit no schema: {}", first.display(), tick(&have)));
        match nearest {
            Some((_, schema, lacking)) => {
                error.help(format!("the nearest is `{}`, which also needs {}", schema.name, tick(&lacking)))
            }
            None => error,
        }
    })
}

enum Source {
    /// A file, its rows, where each column stands in a chunk, and rows read before the chunk.
    Parquet(PathBuf, Box<Chunks>, Vec<Option<usize>>, u64),
    Jsonl(PathBuf, Lines),
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
        let mut columns: Vec<usize> = at.iter().flatten().copied().collect();
        columns.sort_unstable();
        columns.dedup();
        let within = at.iter().map(|i| i.and_then(|i| columns.binary_search(&i).ok())).collect();
        let chunks = parquet.read(&columns)?;
        Ok(Source::Parquet(file, Box::new(chunks), within, 0))
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
            Some(Source::Parquet(file, chunks, within, before)) => {
                let Some(chunk) = chunks.next().transpose()? else { return Ok(None) };
                let columns: Vec<_> = within.iter().map(|i| i.map(|i| chunk.column(i).clone())).collect();
                let (batch, misfits): (RecordBatch, Bad) = guarded(file, || {
                    fit_batch(schema, &columns, chunk.num_rows())
                        .map_err(|e| Error::user(format!("`{}` does not fit `{}`: {e}", file.display(), schema.name)))
                })?;
                for (row, message) in misfits {
                    note(BadRow { file: file.clone(), row: *before + row as u64 + 1, code: "bad_value", message })?;
                }
                *before += chunk.num_rows() as u64;
                Ok(Some(batch))
            }
            Some(Source::Jsonl(file, lines)) => {
                let mut rows = Rows::new(schema, self.names.clone());
                while rows.len() < CHUNK.min(self.size) {
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
        while self.pending_rows < self.size {
            match self.chunk()? {
                Some(chunk) => {
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
            self.pending_rows = 0;
        }
        result.transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_in_the_order_of_their_numbers() {
        let sorted = [
            "d/a.parquet",
            "d/iteration=2/microbatch=00001.parquet",
            "d/iteration=2/microbatch=99999.parquet",
            "d/iteration=2/microbatch=100000.parquet",
            "d/iteration=10/microbatch=00000.parquet",
            "d/part-2.parquet",
            "d/part-10-of-11.parquet",
        ];
        let mut paths: Vec<PathBuf> = sorted.iter().rev().map(PathBuf::from).collect();
        paths.sort_by_cached_key(|p| order(p));
        assert_eq!(paths, sorted.map(PathBuf::from));
    }
}
