//! The Parquet twin of a JSONL file.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema as ArrowSchema};
use serde_json::Value;

use super::jsonl::{Lines, Rows};
use super::reader::CHUNK;
use super::{Dataset, ParquetFile, Written, guess};
use crate::data::Schema;
use crate::error::{Error, Result};

/// A column that a file has and its schema does not is kept if its number stays below this.
const MOST_EXTRA: usize = 256;

/// What [`import_jsonl`] made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Imported {
    /// The Parquet file.
    pub path: PathBuf,
    /// Its rows, size and hash.
    pub written: Written,
    /// The schema its rows follow.
    pub schema: &'static str,
    /// Keys that the schema does not know, kept as text columns after its own, in order of first appearance.
    pub extra: Vec<String>,
    /// Keys that were left out, as they hold other things than text.
    pub ignored: Vec<String>,
}

/// Turns a JSONL file into Parquet: `schema` (guessed from the first row if not given) names the columns; unknown keys
/// that hold text, or null, are kept. `out` is beside the input if not given. Same rows, same bytes.
///
/// # Errors
/// A row that does not follow the schema, with its line; a full disk. The output appears whole or not at all.
pub fn import_jsonl(input: &Path, schema: Option<&'static Schema>, out: Option<&Path>) -> Result<Imported> {
    if input.extension().is_none_or(|e| !e.eq_ignore_ascii_case("jsonl")) {
        return Err(Error::user(format!("`{}` is not a .jsonl file", input.display())));
    }
    let schema = match schema {
        Some(schema) => schema,
        None => guess(input)?,
    };
    Dataset::open(input, schema)?;
    let out = out.map_or_else(|| input.with_extension("parquet"), Path::to_owned);
    let (extra, ignored) = extra_keys(input, schema)?;
    let mut fields: Vec<Field> = schema.arrow().fields().iter().map(|f| f.as_ref().clone()).collect();
    fields.extend(extra.iter().map(|key| Field::new(key, DataType::Utf8, true)));
    let arrow = Arc::new(ArrowSchema::new(fields));

    let mut file = ParquetFile::create(&out, &arrow)?;
    let mut lines = Lines::open(input)?;
    loop {
        let names = schema.columns.iter().map(|c| c.name.to_owned()).collect();
        let (mut rows, mut texts) = (Rows::new(schema, names), vec![Vec::new(); extra.len()]);
        while rows.len() < CHUNK {
            let Some((line, row)) = lines.next().transpose()? else { break };
            let fail = |(_, what): (&str, String)| Error::user(format!("`{}` line {line} {what}", input.display()));
            let mut row = row.map_err(fail)?;
            rows.push(&mut row).map_err(fail)?;
            for (key, texts) in extra.iter().zip(&mut texts) {
                texts.push(row.get(key).and_then(Value::as_str).map(str::to_owned));
            }
        }
        if rows.len() == 0 {
            break;
        }
        let mut columns = rows.finish()?.columns().to_vec();
        columns.extend(texts.into_iter().map(|t| Arc::new(StringArray::from(t)) as ArrayRef));
        file.write(&RecordBatch::try_new(arrow.clone(), columns)?)?;
    }
    Ok(Imported { path: out, written: file.finish()?, schema: schema.name, extra, ignored })
}

/// Keys that the schema does not know: those that hold text only, and the others.
fn extra_keys(input: &Path, schema: &Schema) -> Result<(Vec<String>, Vec<String>)> {
    let known: BTreeSet<&str> = schema.columns.iter().map(|c| c.name).collect();
    let (mut extra, mut ignored) = (Vec::<String>::new(), Vec::<String>::new());
    let mut seen = BTreeSet::<String>::new();
    let mut other = BTreeSet::<String>::new();
    for line in Lines::open(input)? {
        let (_, Ok(row)) = line? else { continue };
        for (key, value) in row.iter().filter(|(k, _)| !known.contains(k.as_str())) {
            if !value.is_string() && !value.is_null() {
                other.insert(key.clone());
            }
            if !seen.contains(key) {
                if seen.len() >= MOST_EXTRA {
                    return Err(Error::user(format!("`{}` has more than {MOST_EXTRA} unknown keys", input.display())));
                }
                seen.insert(key.clone());
                extra.push(key.clone());
            }
        }
    }
    extra.retain(|key| {
        let keep = !other.contains(key);
        if !keep {
            ignored.push(key.clone());
        }
        keep
    });
    Ok((extra, ignored))
}
