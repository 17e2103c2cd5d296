//! [`External`]: a file or folder outside a run that the pipeline file names.

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::store::{InputForm, InputPlace, Run, hash_file};

/// A file or folder outside a run. [`super::Fields`] makes one for each key with a path, and the plan holds
/// all of them.
///
/// An operator gets the path only through [`External::open`], which records the hash of the content in the
/// run's manifest or compares it with the recorded one. So no row is made from a file that the run does not
/// know.
#[derive(Clone, Debug)]
pub struct External {
    /// The table that names it, such as `step.prompts`.
    table: String,
    /// The key, with the sub-tables that contain it.
    key: String,
    path: PathBuf,
    form: InputForm,
    /// Hash of a text that was read with the pipeline file.
    content: Option<String>,
}

/// Two externals are equal if they have the same path, whichever key names it.
impl PartialEq for External {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path && self.form == other.form
    }
}
impl Eq for External {}

impl External {
    pub(crate) fn new(table: &str, key: &str, path: impl Into<PathBuf>, form: InputForm) -> Self {
        Self { table: table.to_owned(), key: key.to_owned(), path: path.into(), form, content: None }
    }
    /// A file that the command line names, for commands without a run.
    pub(crate) fn outside(flag: &str, path: &Path, form: InputForm) -> Self {
        Self::new("", flag, path, form)
    }
    pub(crate) fn with_content(self, hash: String) -> Self {
        Self { content: Some(hash), ..self }
    }

    /// Returns it with the content that the file has now: [`External::open`] then refuses any other.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn as_it_is(&self) -> Result<Self> {
        let (hash, _) = hash_file(&self.path)?;
        Ok(self.clone().with_content(hash))
    }
    /// Returns the hash of the content, if it is fixed.
    pub fn content(&self) -> Option<&str> {
        self.content.as_deref()
    }
    /// Returns the key of that table.
    pub fn key(&self) -> &str {
        &self.key
    }
    /// Whether its content was read with the pipeline file.
    pub fn is_read(&self) -> bool {
        self.content.is_some()
    }
    /// Returns the path as the pipeline file has it, for messages.
    pub fn shown(&self) -> String {
        self.path.display().to_string()
    }
    /// Returns a further input that this one leads to, such as the base model of an adapter.
    #[must_use]
    pub fn related(&self, key: &str, path: impl Into<PathBuf>) -> Self {
        Self::new(&self.table, &format!("{}.{key}", self.key), path, self.form)
    }

    /// Returns the path for reading it in a run, and records its hash in the run's manifest.
    ///
    /// # Errors
    /// The content differs from what the run read before; it cannot be read; the disk is full.
    pub fn open(&self, run: &Run) -> Result<&Path> {
        run.read_input(&InputPlace {
            table: &self.table,
            key: &self.key,
            path: &self.path,
            form: self.form,
            revision: None,
            content: self.content.as_deref(),
        })?;
        Ok(&self.path)
    }

    /// Returns the path for a command that makes no rows, such as `cost`. Operators use [`External::open`].
    pub fn outside_of_runs(&self) -> &Path {
        &self.path
    }
}
