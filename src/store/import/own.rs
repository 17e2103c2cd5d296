//! The Parquet twin of a JSONL file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema as ArrowSchema};
use serde_json::Value;

use super::options::{Bad, ImportOptions, Imported, Renamed, beside, keeps_its_source};
use crate::data::Schema;
use crate::error::{Error, Result};
use crate::store::datasets::builder::Rows;
use crate::store::datasets::columns::{Advice, guess, guess_as};
use crate::store::datasets::context::is_context;
use crate::store::datasets::dataset::{Dataset, LINES_BYTES, OnBadRow};
use crate::store::datasets::text_rows::TextRows;
use crate::store::files::atomic::output_target;
use crate::store::files::listing::is;
use crate::store::files::reader::CHUNK;
use crate::store::files::unread::count_unread;
use crate::store::files::writer::ParquetFile;

/// A column that a file has and its schema does not is kept if its number stays below this.
const MOST_EXTRA: usize = 256;

/// Turns a file of rows that follow a schema into Parquet: the schema (guessed from the first row if not given) names the columns; unknown keys
/// that hold text, or null, are kept. The output is beside the input if no other is given. Same rows, same bytes.
///
/// # Errors
/// A row that does not follow the schema, with its line, unless they are skipped; a full disk. The output appears whole or
/// not at all.
pub fn import_jsonl(input: &Path, how: &ImportOptions) -> Result<Imported> {
    keeps_its_source(input, how)?;
    if is(input, "parquet")
        && let Some(schema) = how.schema.or_else(|| guess(input).ok())
    {
        if how.skip_bad {
            return without_bad_rows(input, schema, how);
        }
        return Err(Error::user(format!("`{}` follows the schema `{}` already", input.display(), schema.name)).help(
            "there is nothing to import: `read` takes it as it is; --bad-rows skip makes a file without bad rows",
        ));
    }
    if is(input, "parquet") || input.is_dir() {
        return Err(Error::user(format!("`{}` is of no format that is known", input.display())).help(
            "`reflux import --help` lists the formats; name one with --format, or other names of keys with --rename",
        ));
    }
    let empty = || {
        Error::user(format!("`{}` holds no row to import", input.display()))
            .help("each line is to hold one row, as a JSON object")
    };
    let rows = || Ok::<_, Error>(TextRows::open(input)?.renamed(&how.rename));
    match rows()?.next().transpose()? {
        None => return Err(empty()),
        // The first row decides which schema the file has: it is told before anything is said of the schema.
        Some((line, Err((_, what)))) if !how.skip_bad => {
            return Bad::new(false).row(&format!("`{}` line {line}", input.display()), &what).and(Err(empty()));
        }
        Some(_) => {}
    }
    let schema = match how.schema {
        Some(schema) => schema,
        None => guess_as(input, &how.rename)?,
    };
    open(input, schema, how)?;
    let path = output_target(&how.out.clone().unwrap_or_else(|| input.with_extension("parquet")))?;
    let (extra, mut unread) = extra_keys(input, schema, how)?;
    let mut fields: Vec<Field> = schema.arrow().fields().iter().map(|f| f.as_ref().clone()).collect();
    fields.extend(extra.iter().map(|key| Field::new(key, DataType::Utf8, true)));
    let arrow = Arc::new(ArrowSchema::new(fields));

    let mut bad = Bad::new(how.skip_bad);
    let mut file = ParquetFile::create_output(&path, &arrow)?;
    let names: Vec<String> = schema.columns.iter().map(|c| c.name.to_owned()).collect();
    let mut lines = rows()?.typed(schema, &names);
    loop {
        let (mut rows, mut texts) = (Rows::new(schema, names.clone()), vec![Vec::new(); extra.len()]);
        let start = lines.bytes();
        while rows.len() < CHUNK && (rows.len() == 0 || lines.bytes() - start < LINES_BYTES) {
            let Some((line, row)) = lines.next().transpose()? else { break };
            match row.and_then(|mut row| rows.push(&mut row).map(|()| row)) {
                Err((_, what)) => bad.row(&format!("`{}` line {line}", input.display()), &what)?,
                Ok(row) => {
                    for (key, texts) in extra.iter().zip(&mut texts) {
                        texts.push(row.get(key).and_then(Value::as_str).map(str::to_owned));
                    }
                }
            }
        }
        if rows.len() == 0 {
            break;
        }
        // Keys of rows were counted before; those of messages, and prompts beside a conversation, are told here.
        let within = rows.take_unread().into_iter().filter(|(key, _)| key.contains("[].") || names.contains(key));
        within.for_each(|(key, rows)| count_unread(&mut unread, &key, rows));
        let mut columns = rows.finish()?.columns().to_vec();
        columns.extend(texts.into_iter().map(|t| Arc::new(StringArray::from(t)) as ArrayRef));
        file.write(&RecordBatch::try_new(arrow.clone(), columns)?)?;
    }
    let written = file.close()?;
    if written.rows == 0 {
        return Err(empty().help(format!("all its {} rows are bad; the first: {}", bad.count, bad.rows.join("; "))));
    }
    file.publish()?;
    let left_out = BTreeMap::new();
    let (bad, bad_rows) = (bad.count, bad.rows);
    Ok(Imported { path, written, schema: schema.name, format: None, extra, unread, left_out, bad, bad_rows })
}

/// The input as a dataset of the schema, whose columns may be renamed.
fn open(input: &Path, schema: &'static Schema, how: &ImportOptions) -> Result<Dataset> {
    let ours = |name: &str| schema.columns.iter().any(|column| column.name == name);
    Dataset::open_advised(input, schema, how.rename.only(ours).pairs(), Advice::Flags)
}

/// A Parquet file of rows that follow the schema, without those that do not.
fn without_bad_rows(input: &Path, schema: &'static Schema, how: &ImportOptions) -> Result<Imported> {
    let mut batches = open(input, schema, how)?.on_bad_row(OnBadRow::Collect).batches(CHUNK);
    let path = output_target(&how.out.clone().unwrap_or_else(|| beside(input, schema)))?;
    let mut bad = Bad::new(true);
    let mut file = ParquetFile::create_output(&path, &schema.arrow())?;
    loop {
        let rows = batches.next().transpose()?;
        for row in batches.take_bad_rows() {
            bad.row(&format!("`{}` row {}", row.file.display(), row.row), &row.message)?;
        }
        let Some(rows) = rows else { break };
        file.write(&rows)?;
    }
    let written = file.close()?;
    if written.rows == 0 {
        return Err(Error::user(format!("`{}` holds no row without a fault", input.display())).help(format!(
            "all its {} rows are bad; the first: {}",
            bad.count,
            bad.rows.join("; ")
        )));
    }
    file.publish()?;
    let (extra, unread, left_out) = (Vec::new(), batches.unread().clone(), BTreeMap::new());
    let (bad, bad_rows) = (bad.count, bad.rows);
    Ok(Imported { path, written, schema: schema.name, format: None, extra, unread, left_out, bad, bad_rows })
}

/// Keys that the schema does not know: those that hold text only, and the others with the number of their rows.
fn extra_keys(input: &Path, schema: &Schema, how: &ImportOptions) -> Result<(Vec<String>, BTreeMap<String, u64>)> {
    let known: BTreeSet<&str> = schema.columns.iter().map(|c| c.name).collect();
    let mut extra = Vec::<String>::new();
    // Rows with a value, and whether one of these is no text.
    let mut values = BTreeMap::<String, (u64, bool)>::new();
    let mut renamed = Renamed::new(&how.rename);
    for line in TextRows::open(input)?.renamed(&how.rename) {
        let (_, Ok(row)) = line? else { continue };
        renamed.see(&row);
        for (key, value) in row.iter().filter(|(k, _)| !known.contains(k.as_str()) && !is_context(k)) {
            if !values.contains_key(key) {
                if values.len() >= MOST_EXTRA {
                    return Err(Error::user(format!("`{}` has more than {MOST_EXTRA} unknown keys", input.display())));
                }
                extra.push(key.clone());
            }
            let (rows, other) = values.entry(key.clone()).or_default();
            *rows += u64::from(!value.is_null());
            *other |= !value.is_string() && !value.is_null();
        }
    }
    renamed.check(input)?;
    extra.retain(|key| values.get(key).is_none_or(|(_, other)| !other));
    let unread = values.into_iter().filter(|(_, (_, other))| *other).map(|(key, (rows, _))| (key, rows));
    Ok((extra, unread.collect()))
}
