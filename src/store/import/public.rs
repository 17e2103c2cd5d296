//! Imports of public formats.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema as ArrowSchema, SchemaRef};

use super::converter::Converter;
use super::formats::{FormatDef, KEYS, RowOptions};
use super::options::{BadRows, ImportOptions, Imported, RenameCheck, beside, check_output_apart};
use super::own::import_jsonl;
use super::record::Object;
use super::sink::RowSink;
use crate::data::Schema;
use crate::error::{Error, Result};
use crate::store::datasets::builder::BatchBuilder;
use crate::store::datasets::rows::RowReader;
use crate::store::files::atomic::output_target;
use crate::store::files::writer::ParquetFile;

/// Imports a file of a public format, or one whose rows already follow a schema ([`import_jsonl`]).
///
/// # Errors
/// No file found; the format is unknown or cannot become the schema; a row is invalid, unless such rows are
/// skipped; no row is left; the disk is full. The output is written atomically.
pub fn import(input: &Path, options: &ImportOptions) -> Result<Imported> {
    check_output_apart(input, options)?;
    let format = match options.format {
        Some(format) => Some(format),
        None => found_format(input, options)?,
    };
    let Some(format) = format else {
        // A misspelt --rename may be the reason that no format was detected.
        return import_jsonl(input, options).map_err(|error| match options.rename.slip(&KEYS) {
            Some(meant) => error.help(meant),
            None => error,
        });
    };
    let schema = target_schema(format, options)?;
    let path = output_target(&options.out.clone().unwrap_or_else(|| beside(input, schema)))?;
    let mut bad = BadRows::new(options.skip_bad);
    let row_options = RowOptions { schema, language: options.language.clone(), turns: options.turns };
    let mut converter = Converter::new(format, row_options);
    let mut renamed = RenameCheck::new(&options.rename);
    let mut sink = RowSink::default();
    let table = with_text_columns(schema, format.extra);
    let mut file = ParquetFile::create_output(&path, &table)?;
    let mut source = RowReader::open(input, &KEYS)?.renamed(&options.rename);
    let mut more = true;
    while more {
        match source.next().transpose()? {
            Some(row) => {
                let place = row.place();
                row.row.iter().for_each(|row| renamed.see(row));
                let taken = row.row.map_err(|(_, what)| what).and_then(|row| converter.row(row, &mut sink));
                taken.or_else(|what| bad.row(&place, &what))?;
            }
            None => {
                converter.end(&mut sink);
                more = false;
            }
        }
        // One input row can become many.
        while let Some(rows) = sink.chunk(!more) {
            file.write(&batch(schema, &table, rows.into_iter())?)?;
        }
    }
    for (column, rows) in source.unread_columns() {
        sink.count_unread(column, *rows);
    }
    renamed.check(input)?;
    let written = file.close()?;
    if written.rows == 0 {
        let why: Vec<String> = sink.left_out.iter().map(|(why, n)| format!("{n} with {why}")).collect();
        let error = Error::user(format!("`{}` holds no row of the format {} to import", input.display(), format.name));
        return Err(if why.is_empty() { error } else { error.help(format!("left out: {}", why.join(", "))) });
    }
    file.publish()?;
    Ok(Imported {
        path,
        written,
        schema: schema.name,
        format: Some(format),
        extra: format.extra.iter().map(|&name| name.to_owned()).collect(),
        unread: sink.unread,
        left_out: sink.left_out,
        bad: bad.count,
        bad_rows: bad.rows,
    })
}

/// The requested schema of the output, or the format's default.
fn target_schema(format: &FormatDef, options: &ImportOptions) -> Result<&'static Schema> {
    let targets = format.targets;
    let Some(asked) = options.schema else { return Ok(targets[0]) };
    targets.iter().find(|t| t.name == asked.name).copied().ok_or_else(|| {
        let names: Vec<&str> = targets.iter().map(|t| t.name).collect();
        Error::user(format!("a file of the format {} does not become `{}` rows", format.name, asked.name))
            .help(format!("it becomes: {}", names.join(", ")))
    })
}

/// The public format of a file, from its first row; `None` if it has none, or cannot be read.
pub fn format_of(input: &Path) -> Option<&'static FormatDef> {
    found_format(input, &ImportOptions::default()).ok().flatten()
}

/// Detects the format from the first valid row; `None` if it has no known format, or one that cannot become
/// the requested schema. A row that lacks a renamed key may be unrecognised for that reason: then later rows
/// are tried, until every renamed key was seen.
fn found_format(input: &Path, options: &ImportOptions) -> Result<Option<&'static FormatDef>> {
    let (mut rows, mut readable, mut first_bad) = (0u64, false, None);
    let mut renamed = RenameCheck::new(&options.rename);
    for row in RowReader::open(input, &KEYS)?.renamed(&options.rename) {
        let row = row?;
        rows += 1;
        let place = row.place();
        match row.row {
            Ok(row) => {
                renamed.see(&row);
                readable = true;
                let format = FormatDef::of_row(row);
                if format.is_some() || renamed.missing.is_empty() {
                    return Ok(
                        format.filter(|f| options.schema.is_none_or(|s| f.targets.iter().any(|t| t.name == s.name)))
                    );
                }
            }
            Err((_, what)) if options.skip_bad => first_bad = first_bad.or(Some(format!("{place} {what}"))),
            // The import itself reports invalid rows after the first valid one.
            Err(_) if readable => {}
            Err((_, what)) => return BadRows::new(false).row(&place, &what).map(|()| None),
        }
    }
    if readable {
        return renamed.check(input).map(|()| None);
    }
    match first_bad {
        None => {
            let error = Error::user(format!("`{}` holds no row to import", input.display()));
            Err(error.help("each line, or each row of Parquet, must be one row"))
        }
        Some(bad) => Err(Error::user(format!("`{}` holds no row to import", input.display()))
            .help(format!("all its {rows} rows are bad; the first: {bad}"))),
    }
}

/// The schema's columns, followed by nullable text columns.
fn with_text_columns(schema: &'static Schema, extra: &[&str]) -> SchemaRef {
    let own = schema.arrow().fields().iter().cloned().collect::<Vec<_>>();
    let more = extra.iter().map(|&name| Arc::new(Field::new(name, DataType::Utf8, true)));
    Arc::new(ArrowSchema::new(own.into_iter().chain(more).collect::<Vec<_>>()))
}

/// A batch of `table`: the columns of the schema, followed by text columns.
fn batch(schema: &'static Schema, table: &SchemaRef, rows: impl Iterator<Item = Object>) -> Result<RecordBatch> {
    let own = schema.columns.len();
    let names = schema.columns.iter().map(|c| c.name.to_owned()).collect();
    let mut made = BatchBuilder::new(schema, names);
    let mut extra: Vec<Vec<Option<String>>> = vec![Vec::new(); table.fields().len() - own];
    for mut row in rows {
        for (field, cells) in table.fields()[own..].iter().zip(&mut extra) {
            cells.push(row.get(field.name()).and_then(|v| v.as_str()).map(str::to_owned));
        }
        made.push(&mut row).map_err(|(_, what)| Error::bug(format!("an imported row {what}")))?;
    }
    let made = made.finish()?;
    let text = |cells: Vec<Option<String>>| Arc::new(StringArray::from(cells)) as ArrayRef;
    let columns = made.columns().iter().cloned().chain(extra.into_iter().map(text)).collect();
    Ok(RecordBatch::try_new(table.clone(), columns)?)
}
