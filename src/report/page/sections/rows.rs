//! Sample rows of every step in every iteration, and of the rows that it left out. The numbers of the other sections
//! link to them.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use serde_json::{Map, Value, json};

use crate::error::Result;
use crate::report::inspect::show::objects;
use crate::report::page::limits::{BYTES, CELL, ROWS, ROWS_OF_ITERATION, cut, share};
use crate::report::page::section::{Content, Section};
use crate::report::page::source::PageSource;
use crate::report::page::texts::conversation;
use crate::store::FileEntry;

pub(super) static ROWS_SECTION: Section =
    Section { name: "rows", title: "Sample rows", script: include_str!("rows.js"), read };

fn read(source: &PageSource<'_>) -> Result<Content> {
    let mut groups = BTreeMap::<(String, u32), Vec<FileEntry>>::new();
    for file in source.run.entries() {
        groups.entry((file.step.clone(), file.iteration)).or_default().push(file);
    }
    if groups.is_empty() {
        return Ok(Content::Absent("Nothing is committed yet."));
    }
    let most = share(ROWS, groups.len(), ROWS_OF_ITERATION);
    let (mut shown, mut bytes) = (Vec::new(), 0);
    for ((step, iteration), files) in &groups {
        let count = |rows: &dyn Fn(&FileEntry) -> u64| files.iter().map(rows).sum::<u64>();
        let (rows, left_out) = (count(&|f| f.rows), count(&|f| f.errors.as_ref().map_or(0, |e| e.rows)));
        let mut group = json!({ "step": step, "iteration": iteration, "rows": rows, "left_out": left_out });
        // What does not fit is counted: its rows stay on disk.
        let room = bytes < BYTES;
        let first = if room && !source.run.dropped(step) { first_rows(source, files, most)? } else { Vec::new() };
        let errors = if room { first_errors(source, files, most)? } else { Vec::new() };
        group["kept"] = json!(!source.run.dropped(step));
        (group["sample"], group["errors"]) = (json!(first), json!(errors));
        bytes += group.to_string().len();
        shown.push(group);
    }
    Ok(Content::Shown(json!({ "groups": shown, "most": most })))
}

/// The first rows of a step in an iteration, without its lists of numbers.
fn first_rows(source: &PageSource<'_>, files: &[FileEntry], most: usize) -> Result<Vec<Map<String, Value>>> {
    let Some(file) = files.iter().find(|f| f.rows > 0) else { return Ok(Vec::new()) };
    let part = source.run.part(file);
    let schema = part.schema()?;
    let wanted: Vec<usize> = (0..schema.fields().len()).filter(|&at| is_read(schema.field(at).data_type())).collect();
    match part.read(&schema.project(&wanted)?.into())?.next() {
        Some(rows) => cells(&rows?, most),
        None => Ok(Vec::new()),
    }
}

/// Whether a column is for reading: lists of token ids and log-probabilities are not.
fn is_read(kind: &DataType) -> bool {
    !matches!(kind, DataType::List(item) if item.data_type().is_numeric())
}

fn first_errors(source: &PageSource<'_>, files: &[FileEntry], most: usize) -> Result<Vec<Map<String, Value>>> {
    let mut all = Vec::new();
    for file in files.iter().filter(|f| f.errors.is_some()) {
        if let Some(rows) = source.run.left_out(file)? {
            all.extend(cells(&rows, most - all.len())?);
        }
        if all.len() >= most {
            break;
        }
    }
    Ok(all)
}

/// Rows as objects, with long cells cut; what is null or structured is left out or written as JSON.
fn cells(rows: &RecordBatch, most: usize) -> Result<Vec<Map<String, Value>>> {
    let rows = objects(&rows.slice(0, rows.num_rows().min(most)))?;
    let cell = |value: Value| match value {
        Value::String(text) => Value::String(cut(&text, CELL)),
        Value::Array(_) | Value::Object(_) => {
            Value::String(cut(&conversation(&value).unwrap_or_else(|| value.to_string()), CELL))
        }
        other => other,
    };
    let row = |row: Map<String, Value>| {
        row.into_iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| (name, cell(value))).collect()
    };
    Ok(rows.into_iter().map(row).collect())
}
