//! Options and results of an import, and what every import checks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::chats::Turns;
use super::formats::Format;
use super::record::Object;
use crate::data::Schema;
use crate::error::{Error, Result};
use crate::store::datasets::rename::Rename;
use crate::store::files::atomic::Written;
use crate::store::files::listing::without_extensions;

/// Bad rows that are told one by one.
const TOLD: usize = 20;

/// What [`import`] made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Imported {
    /// The Parquet file.
    pub path: PathBuf,
    /// Its rows, size and hash.
    pub written: Written,
    /// The schema its rows follow.
    pub schema: &'static str,
    /// The format that was read; none for rows that follow the schema already.
    pub format: Option<Format>,
    /// Keys that the schema does not know, kept as text columns after its own, in order of first appearance.
    pub extra: Vec<String>,
    /// Keys whose values are not in the output, with the number of rows that have a value there. A path such as
    /// `completions[].model` names a key within a list.
    pub unread: BTreeMap<String, u64>,
    /// Rows that the format's filter left out, by reason.
    pub left_out: BTreeMap<&'static str, u64>,
    /// Rows that could not be read.
    pub bad: u64,
    /// The first of them: file, line and what is wrong.
    pub bad_rows: Vec<String>,
}

/// How to import.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// The format; found out from the first row if none is given.
    pub format: Option<Format>,
    /// The schema of the rows to make; what is usual for the format if none is given.
    pub schema: Option<&'static Schema>,
    /// The language of Open Assistant's messages; none for all.
    pub language: Option<String>,
    /// Which answers of a conversation become rows.
    pub turns: Turns,
    /// Keys of the file that are read under other names.
    pub rename: Rename,
    /// Whether bad rows are left out and told, or end the import.
    pub skip_bad: bool,
    /// The file to write; beside the input if none is given.
    pub out: Option<PathBuf>,
}

/// Bad rows, refused or counted.
pub(super) struct Bad {
    skip: bool,
    pub count: u64,
    pub rows: Vec<String>,
}

impl Bad {
    pub fn new(skip: bool) -> Self {
        Self { skip, count: 0, rows: Vec::new() }
    }
    pub fn row(&mut self, place: &str, what: &str) -> Result<()> {
        let told = format!("{place} {what}");
        if !self.skip {
            return Err(Error::user(told).help("mend the row, or leave bad rows out with --bad-rows skip"));
        }
        self.count += 1;
        if self.rows.len() < TOLD {
            self.rows.push(told);
        }
        Ok(())
    }
}

/// Whether rows have the keys that are renamed.
pub(super) struct Renamed<'a> {
    rename: &'a Rename,
    /// The renamed keys that no row had yet, under our names.
    pub missing: Vec<(String, String)>,
    /// The keys of the first rows.
    keys: BTreeSet<String>,
}

impl<'a> Renamed<'a> {
    pub fn new(rename: &'a Rename) -> Self {
        Self { rename, missing: rename.pairs().to_vec(), keys: BTreeSet::new() }
    }
    /// Looks at a row whose keys have been renamed.
    pub fn see(&mut self, row: &Object) {
        if !self.missing.is_empty() {
            self.missing.retain(|(ours, _)| !row.contains_key(ours));
            let room = MAX_KEYS.saturating_sub(self.keys.len());
            self.keys.extend(row.keys().take(room).cloned());
        }
    }
    /// A key that no row has is a slip.
    pub fn check(&self, input: &Path) -> Result<()> {
        let Some((_, theirs)) = self.missing.first() else { return Ok(()) };
        let keys: Vec<&str> = self.keys.iter().map(String::as_str).collect();
        Err(self.rename.unknown(theirs, &input.display().to_string(), &keys))
    }
}

/// Keys that a message about a renamed key chooses from.
const MAX_KEYS: usize = 256;

/// Nothing is imported over what it is made of, or beside it in a folder whose files are all read.
pub(super) fn keeps_its_source(input: &Path, how: &ImportOptions) -> Result<()> {
    let Some(out) = &how.out else { return Ok(()) };
    let (Ok(source), Ok(target)) = (input.canonicalize(), out.canonicalize()) else { return Ok(()) };
    if source == target || source.is_dir() && target.parent() == Some(&source) {
        return Err(Error::user(format!("`{}` would be written over what is imported", out.display()))
            .help("name another file with --out"));
    }
    Ok(())
}

/// `x.SCHEMA.parquet` for `x.jsonl.gz`, so that one file can become several.
pub(super) fn beside(input: &Path, schema: &Schema) -> PathBuf {
    let name = input.file_name().map(|name| without_extensions(Path::new(name))).unwrap_or_default();
    input.with_file_name(format!("{}.{}.parquet", name.display(), schema.name))
}
