//! Options and results of an import, and checks that all imports share.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::chats::Turns;
use super::formats::FormatDef;
use super::record::Object;
use crate::data::Schema;
use crate::error::{Error, Result};
use crate::store::datasets::rename::Rename;
use crate::store::files::atomic::Written;
use crate::store::files::listing::without_extensions;

/// Maximum number of bad rows that are reported individually.
const MAX_BAD_ROWS: usize = 20;

/// Result of an import.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Imported {
    /// The Parquet file.
    pub path: PathBuf,
    /// The file's rows, size and hash.
    pub written: Written,
    /// The schema of the rows.
    pub schema: &'static str,
    /// The format of the input; `None` if its rows already followed the schema.
    pub format: Option<&'static FormatDef>,
    /// Unknown keys that were kept as text columns after the schema's own, in order of first appearance.
    pub extra: Vec<String>,
    /// Keys whose values are not in the output, with the number of rows that have a value there. A path such
    /// as `completions[].model` is a key in a list.
    pub unread: BTreeMap<String, u64>,
    /// Number of rows that the format's filter left out, by reason.
    pub left_out: BTreeMap<&'static str, u64>,
    /// Number of invalid rows.
    pub bad: u64,
    /// The first invalid rows: file, line and fault.
    pub bad_rows: Vec<String>,
}

/// Options of an import.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// The format; detected from the first row if `None`.
    pub format: Option<&'static FormatDef>,
    /// The target schema; the format's default if `None`.
    pub schema: Option<&'static Schema>,
    /// The language of Open Assistant's messages; all if `None`.
    pub language: Option<String>,
    /// Which answers of a conversation become rows.
    pub turns: Turns,
    /// Renamed keys of the file.
    pub rename: Rename,
    /// Whether invalid rows are left out and reported, instead of ending the import.
    pub skip_bad: bool,
    /// The output file; next to the input if `None`.
    pub out: Option<PathBuf>,
}

/// Invalid rows, which are refused or counted.
pub(super) struct BadRows {
    skip: bool,
    pub count: u64,
    pub rows: Vec<String>,
}

impl BadRows {
    pub fn new(skip: bool) -> Self {
        Self { skip, count: 0, rows: Vec::new() }
    }
    pub fn row(&mut self, place: &str, what: &str) -> Result<()> {
        let message = format!("{place} {what}");
        if !self.skip {
            return Err(Error::user(message).help("mend the row, or leave bad rows out with --bad-rows skip"));
        }
        self.count += 1;
        if self.rows.len() < MAX_BAD_ROWS {
            self.rows.push(message);
        }
        Ok(())
    }
}

/// Checks that the renamed keys exist.
pub(super) struct RenameCheck<'a> {
    rename: &'a Rename,
    /// Renamed keys that no row has had yet: our name and the file's name.
    pub missing: Vec<(String, String)>,
    /// Keys of the first rows, for the error message.
    keys: BTreeSet<String>,
}

impl<'a> RenameCheck<'a> {
    pub fn new(rename: &'a Rename) -> Self {
        Self { rename, missing: rename.pairs().to_vec(), keys: BTreeSet::new() }
    }
    /// Records the keys of a row after renaming.
    pub fn see(&mut self, row: &Object) {
        if !self.missing.is_empty() {
            self.missing.retain(|(ours, _)| !row.contains_key(ours));
            let room = MAX_KEYS.saturating_sub(self.keys.len());
            self.keys.extend(row.keys().take(room).cloned());
        }
    }
    /// Fails if no row has a renamed key.
    pub fn check(&self, input: &Path) -> Result<()> {
        let Some((_, theirs)) = self.missing.first() else { return Ok(()) };
        let keys: Vec<&str> = self.keys.iter().map(String::as_str).collect();
        Err(self.rename.unknown(theirs, &input.display().to_string(), &keys))
    }
}

/// Maximum number of keys to choose a suggestion from.
const MAX_KEYS: usize = 256;

/// Refuses an output that would overwrite the input, or be in the folder that is the input.
pub(super) fn check_output_apart(input: &Path, options: &ImportOptions) -> Result<()> {
    let Some(out) = &options.out else { return Ok(()) };
    let (Ok(source), Ok(target)) = (input.canonicalize(), out.canonicalize()) else { return Ok(()) };
    if source == target || source.is_dir() && target.parent() == Some(&source) {
        return Err(Error::user(format!("`{}` would be written over what is imported", out.display()))
            .help("name another file with --out"));
    }
    Ok(())
}

/// Default output `x.SCHEMA.parquet` for `x.jsonl.gz`. The schema is in the name because one file can be
/// imported as several.
pub(super) fn beside(input: &Path, schema: &Schema) -> PathBuf {
    let name = input.file_name().map(|name| without_extensions(Path::new(name))).unwrap_or_default();
    input.with_file_name(format!("{}.{}.parquet", name.display(), schema.name))
}
