//! Imports of files whose rows already follow a schema.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema as ArrowSchema};
use serde_json::Value;

use super::options::{BadRows, ImportOptions, Imported, RenameCheck, beside, check_output_apart};
use crate::data::Schema;
use crate::error::{Error, Result};
use crate::store::datasets::builder::BatchBuilder;
use crate::store::datasets::columns::{Advice, guess, guess_as};
use crate::store::datasets::context::is_context;
use crate::store::datasets::dataset::{Dataset, LINES_BYTES, OnBadRow};
use crate::store::datasets::text_rows::TextRows;
use crate::store::files::atomic::output_target;
use crate::store::files::listing::is;
use crate::store::files::reader::CHUNK;
use crate::store::files::unread::count_unread;
use crate::store::files::writer::ParquetFile;

/// Maximum number of unknown keys.
const MAX_EXTRA: usize = 256;

/// Converts a file of rows that follow a schema to Parquet. The schema (guessed from the first row if not
/// given) determines the columns; unknown keys with only text or null are kept. The output is next to the
/// input by default. The same rows give the same bytes.
///
/// # Errors
/// A row does not follow the schema, unless such rows are skipped; the disk is full. The output is written
/// atomically.
pub fn import_jsonl(input: &Path, options: &ImportOptions) -> Result<Imported> {
    check_output_apart(input, options)?;
    if is(input, "parquet") || input.is_dir() {
        return import_parquet(input, options);
    }
    let empty = || {
        Error::user(format!("`{}` holds no row to import", input.display()))
            .help("each line must be one row, as a JSON object")
    };
    let rows = || Ok::<_, Error>(TextRows::open(input)?.renamed(&options.rename));
    match rows()?.next().transpose()? {
        None => return Err(empty()),
        // The first row determines the schema, so its fault is reported before anything about the schema.
        Some((line, Err((_, what)))) if !options.skip_bad => {
            return BadRows::new(false).row(&format!("`{}` line {line}", input.display()), &what).and(Err(empty()));
        }
        Some(_) => {}
    }
    let schema = match options.schema {
        Some(schema) => schema,
        None => guess_as(input, &options.rename)?,
    };
    open(input, schema, options)?;
    let path = output_target(&options.out.clone().unwrap_or_else(|| input.with_extension("parquet")))?;
    let (extra, mut unread) = extra_keys(input, schema, options)?;
    let mut fields: Vec<Field> = schema.arrow().fields().iter().map(|f| f.as_ref().clone()).collect();
    fields.extend(extra.iter().map(|key| Field::new(key, DataType::Utf8, true)));
    let arrow = Arc::new(ArrowSchema::new(fields));

    let mut bad = BadRows::new(options.skip_bad);
    let mut file = ParquetFile::create_output(&path, &arrow)?;
    let names: Vec<String> = schema.columns.iter().map(|c| c.name.to_owned()).collect();
    let mut lines = rows()?.typed(schema, &names);
    loop {
        let (mut rows, mut texts) = (BatchBuilder::new(schema, names.clone()), vec![Vec::new(); extra.len()]);
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
        // Keys of rows are counted in `extra_keys`; this adds keys of messages, and prompts next to a
        // conversation.
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

/// Opens the input as a dataset of the schema, with renamed columns.
fn open(input: &Path, schema: &'static Schema, options: &ImportOptions) -> Result<Dataset> {
    let ours = |name: &str| schema.columns.iter().any(|column| column.name == name);
    Dataset::open_advised(input, schema, options.rename.only(ours).pairs(), Advice::Flags)
}

/// Copies a Parquet file that already follows a schema, if invalid rows are to be skipped. Otherwise nothing remains to
/// be imported.
fn import_parquet(input: &Path, options: &ImportOptions) -> Result<Imported> {
    let guessed = || if is(input, "parquet") { guess(input).ok() } else { None };
    let Some(schema) = options.schema.filter(|_| is(input, "parquet")).or_else(guessed) else {
        return Err(Error::user(format!("`{}` is of no format that is known", input.display())).help(
            "`reflux import --help` lists the formats; name one with --format, or other names of keys with --rename",
        ));
    };
    if options.skip_bad {
        return without_bad_rows(input, schema, options);
    }
    Err(Error::user(format!("`{}` follows the schema `{}` already", input.display(), schema.name))
        .help("there is nothing to import: `read` takes it as it is; --bad-rows skip makes a file without bad rows"))
}

/// Copies a Parquet file of the schema without its invalid rows.
fn without_bad_rows(input: &Path, schema: &'static Schema, options: &ImportOptions) -> Result<Imported> {
    let mut batches = open(input, schema, options)?.on_bad_row(OnBadRow::Collect).batches(CHUNK);
    let path = output_target(&options.out.clone().unwrap_or_else(|| beside(input, schema)))?;
    let mut bad = BadRows::new(true);
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

/// Unknown keys: those with only text, and the others with the number of rows that have a value there.
fn extra_keys(input: &Path, schema: &Schema, options: &ImportOptions) -> Result<(Vec<String>, BTreeMap<String, u64>)> {
    let known: BTreeSet<&str> = schema.columns.iter().map(|c| c.name).collect();
    let mut extra = Vec::<String>::new();
    // Number of rows with a value, and whether any value is not text.
    let mut values = BTreeMap::<String, (u64, bool)>::new();
    let mut renamed = RenameCheck::new(&options.rename);
    for line in TextRows::open(input)?.renamed(&options.rename) {
        let (_, Ok(row)) = line? else { continue };
        renamed.see(&row);
        for (key, value) in row.iter().filter(|(k, _)| !known.contains(k.as_str()) && !is_context(k)) {
            if !values.contains_key(key) {
                if values.len() >= MAX_EXTRA {
                    return Err(Error::user(format!("`{}` has more than {MAX_EXTRA} unknown keys", input.display())));
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
