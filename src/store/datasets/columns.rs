//! Matching of a file's columns with a schema, and the choice of the best schema.

use std::path::Path;

use arrow::datatypes::DataType;
use serde_json::{Map, Value};

use super::builder::BatchBuilder;
use super::cast::{castable, type_name};
use super::csv_values::as_typed;
use super::normalize::{has_default, is_prompt_only};
use super::rename::{Rename, flag};
use super::text_rows::TextRows;
use crate::data::{Column, PROMPT_MESSAGES, SCHEMAS, Schema, Type, visible_json};
use crate::error::{Error, Result};
use crate::store::files::listing::{files, holds, is};
use crate::store::files::reader::ParquetReader;

/// The columns of one file.
pub(crate) struct FileColumns {
    /// Names with their Arrow types, or for a text file the keys and values of the first row.
    columns: Vec<(String, Sample)>,
    pub rows: Option<u64>,
    /// Whether the file is an empty text file, which fits every schema.
    any: bool,
    /// Whether the values are CSV fields, which are all text.
    is_csv: bool,
}
enum Sample {
    Typed(DataType),
    Json(Value),
}

impl FileColumns {
    /// Reads the columns of a file, renamed by `rename`. For a text file these are the keys of the first row;
    /// a key in `wanted` that it lacks is searched in later rows, because any row may lack a key.
    pub fn read(file: &Path, rename: &Rename, wanted: &[&str]) -> Result<Self> {
        if is(file, "parquet") {
            let parquet = ParquetReader::open(file)?;
            let typed =
                parquet.schema().fields().iter().map(|f| (f.name().clone(), Sample::Typed(f.data_type().clone())));
            return Ok(Self { columns: typed.collect(), rows: Some(parquet.rows()), any: false, is_csv: false });
        }
        let mut first: Option<Map<String, Value>> = None;
        for line in TextRows::open(file)?.renamed(rename) {
            // A bad row is handled when the rows are read, by the policy for bad rows.
            let (_, Ok(mut row)) = line? else { continue };
            let found = match &mut first {
                None => first.insert(row),
                Some(first) => {
                    for key in wanted {
                        if let Some(value) = row.remove(*key) {
                            first.entry(*key).or_insert(value);
                        }
                    }
                    first
                }
            };
            if wanted.iter().all(|key| found.contains_key(*key)) {
                break;
            }
        }
        let any = first.is_none();
        let columns = first.unwrap_or_default().into_iter().map(|(key, value)| (key, Sample::Json(value)));
        Ok(Self { columns: columns.collect(), rows: None, any, is_csv: holds(file, "csv") })
    }

    /// Whether the column `name` can be read as the schema's column, or what is wrong with it; `None` if it
    /// is missing.
    fn fits(&self, name: &str, schema: &'static Schema, column: usize) -> Option<Result<(), String>> {
        let (_, sample) = self.columns.iter().find(|(n, _)| n == name)?;
        let spec = &schema.columns[column];
        let want = spec.kind.arrow();
        Some(match sample {
            Sample::Typed(DataType::Null) if spec.nullable => Ok(()),
            Sample::Typed(have) if castable(have, &want) => Ok(()),
            // A prompt of messages is stored as a conversation and its transcript.
            Sample::Typed(have) if is_conversation(schema, spec, have) => Ok(()),
            Sample::Typed(have) => Err(format!("`{name}` is {}, expected {}", type_name(have), type_name(&want))),
            Sample::Json(value) => {
                // The builder decides: with this column alone, a row fails with `bad_value` only if the
                // column does not fit.
                let mut row = Map::from_iter([(name.to_owned(), value.clone())]);
                let names = schema.columns.iter().map(|c| if c.name == spec.name { name } else { c.name }.to_owned());
                let names: Vec<String> = names.collect();
                if self.is_csv {
                    as_typed(schema, &names, &mut row);
                }
                if row[name].is_null() && (spec.nullable || has_default(schema, spec.name)) {
                    return Some(Ok(()));
                }
                match BatchBuilder::new(schema, names).push(&mut row) {
                    Err(("bad_value", message)) => Err(message.trim_start_matches("key ").to_owned()),
                    _ => Ok(()),
                }
            }
        })
    }

    /// Whether the file has a column of this name.
    fn has(&self, name: &str) -> bool {
        self.columns.iter().any(|(column, _)| column == name)
    }

    /// Fails with an error that names every missing and mistyped column. `names` are the file's names of the
    /// schema's columns, and `advice` is how to write other names.
    pub fn check(&self, file: &Path, schema: &'static Schema, names: &[String], advice: Advice) -> Result<()> {
        if self.any {
            return Ok(());
        }
        let (mut missing, mut mistyped) = (Vec::new(), Vec::new());
        for (i, (spec, name)) in schema.columns.iter().zip(names).enumerate() {
            match self.fits(name, schema, i) {
                Some(Ok(())) => {}
                Some(Err(what)) => mistyped.push(what),
                // A nullable column may be missing, unless the user renamed it.
                None if (spec.nullable || has_default(schema, spec.name)) && name == spec.name => {}
                None => missing.push(name.as_str()),
            }
        }
        if missing.is_empty() && mistyped.is_empty() {
            return Ok(());
        }
        let mut parts = Vec::new();
        if !missing.is_empty() {
            parts.push(format!("missing: {}", quoted_names(&missing)));
        }
        if !mistyped.is_empty() {
            parts.push(format!("of another type: {}", mistyped.join("; ")));
        }
        let have: Vec<&str> = self.columns.iter().map(|(n, _)| n.as_str()).collect();
        parts.push(format!("there are: {}", quoted_names(&have)));
        let renamed = self.renamed(schema, names, &missing);
        let error = Error::user(format!(
            "`{}` does not fit the schema `{}`; {}",
            file.display(),
            schema.name,
            parts.join("; ")
        ));
        Err(error.help(match renamed {
            Some(renamed) => format!("did you mean {}?", advice.spell(&renamed)),
            None => {
                format!("`reflux schema {}` lists the columns; read other names with {}", schema.name, advice.key())
            }
        }))
    }

    /// The complete renaming (our names and the file's) that supplies every missing column; `None` if a
    /// column has no candidate. `missing` are the file's names of columns.
    fn renamed(&self, schema: &Schema, names: &[String], missing: &[&str]) -> Option<Vec<(String, String)>> {
        let have = self.columns.iter().map(|(name, _)| name.as_str());
        let mut free: Vec<&str> = have.filter(|have| names.iter().all(|name| name != have)).collect();
        let mut renamed = Vec::new();
        for (spec, name) in schema.columns.iter().zip(names) {
            let found = if missing.contains(&name.as_str()) {
                let near =
                    super::suggest::nearest(name, &free).or_else(|| super::suggest::nearest(spec.name, &free))?;
                free.retain(|have| *have != near);
                near
            } else {
                name
            };
            if found != spec.name {
                renamed.push((spec.name.to_owned(), found.to_owned()));
            }
        }
        (!missing.is_empty() && !renamed.is_empty()).then_some(renamed)
    }
}

/// How a user renames columns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Advice {
    /// With the key `rename` of a step.
    Pipeline,
    /// With flags of a command.
    Flags,
}

impl Advice {
    fn key(self) -> &'static str {
        match self {
            Self::Pipeline => "`rename`",
            Self::Flags => "--rename",
        }
    }

    /// The renaming as the user has to type it.
    fn spell(self, renamed: &[(String, String)]) -> String {
        let json = |text: &String| visible_json(&Value::from(text.as_str()).to_string()).into_owned();
        let keys = renamed.iter().map(|(ours, theirs)| match self {
            Self::Pipeline => format!("{ours} = {}", json(theirs)),
            Self::Flags => flag(theirs, ours),
        });
        let keys: Vec<String> = keys.collect();
        match self {
            Self::Pipeline => format!("`rename = {{ {} }}`", keys.join(", ")),
            Self::Flags => keys.join(" "),
        }
    }
}

/// Whether a text column of the schema is messages in the file, and the schema can hold them.
pub(crate) fn is_conversation(schema: &Schema, spec: &Column, have: &DataType) -> bool {
    let held = spec.name == "prompt" && schema.columns.iter().any(|column| column.name == PROMPT_MESSAGES);
    held && castable(have, &Type::Messages.arrow())
}

fn quoted_names(names: &[&str]) -> String {
    let mut shown: Vec<String> = names.iter().take(30).map(|n| format!("`{n}`")).collect();
    if names.len() > 30 {
        shown.push(format!("{} more", names.len() - 30));
    }
    if shown.is_empty() { "none".to_owned() } else { shown.join(", ") }
}

/// The named schema that fits a dataset's columns best: all required columns exist, and most columns match
/// (then the schema with the fewest columns; then the first one).
///
/// # Errors
/// No file found, or no schema fits; the message names the nearest one and what it lacks.
pub fn guess(path: &Path) -> Result<&'static Schema> {
    guess_as(path, &Rename::default())
}

/// As [`guess`], for a file with renamed keys.
pub(crate) fn guess_as(path: &Path, rename: &Rename) -> Result<&'static Schema> {
    let first = files(path)?.swap_remove(0);
    let ours: Vec<&str> = rename.pairs().iter().map(|pair| pair.0.as_str()).collect();
    let found = FileColumns::read(&first, rename, &ours)?;
    let score = |schema: &'static Schema| {
        let (mut matched, mut lacking) = (0, Vec::new());
        for (i, column) in schema.columns.iter().enumerate() {
            match found.fits(column.name, schema, i) {
                Some(Ok(())) => matched += 1,
                _ if column.nullable => {}
                None if has_default(schema, column.name) && is_prompt_only(|key| found.has(key)) => {}
                // The column exists with another type.
                Some(Err(_)) => lacking.push(format!("`{}` as {}", column.name, type_name(&column.kind.arrow()))),
                None => lacking.push(format!("`{}`", column.name)),
            }
        }
        (matched, lacking)
    };
    let mut best: Option<(usize, &'static Schema)> = None;
    let mut nearest: Option<(usize, &'static Schema, Vec<String>)> = None;
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
        let error = Error::user(format!("the columns of `{}` fit no schema: {}", first.display(), quoted_names(&have)));
        match nearest {
            Some((_, schema, lacking)) => {
                error.help(format!("the nearest is `{}`, which also needs {}", schema.name, lacking.join(", ")))
            }
            None => error,
        }
    })
}
