//! [`External`]: a file or folder outside of a run that the pipeline file names.

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::store::{InputForm, InputPlace, Run};

/// A file or folder outside of a run. [`super::Fields`] makes one for each key that takes a path, and the plan has all of them.
///
/// An operator gets at the path only through [`External::open`], which records the content's hash in the run's manifest, or
/// compares it with the hash that is there. So no row can be made from a file that the run does not know.
#[derive(Clone, Debug)]
pub struct External {
    /// The table that names it, e.g. `step.prompts`.
    table: String,
    /// The key of the table, with those of the sub-tables it is in.
    key: String,
    path: PathBuf,
    form: InputForm,
    /// Hash of a text that was read when the pipeline file was.
    content: Option<String>,
}

/// Two are the same if they name the same path, whichever key does.
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
    pub(crate) fn with_content(self, hash: String) -> Self {
        Self { content: Some(hash), ..self }
    }

    /// The table of the pipeline file that names it.
    pub fn table(&self) -> &str {
        &self.table
    }
    /// The key of that table.
    pub fn key(&self) -> &str {
        &self.key
    }
    /// Whether its content was read with the pipeline file.
    pub fn is_read(&self) -> bool {
        self.content.is_some()
    }
    /// The path as the pipeline file has it, for messages.
    pub fn shown(&self) -> String {
        self.path.display().to_string()
    }
    /// A further input that this one leads to, such as the base model of an adapter.
    #[must_use]
    pub fn related(&self, key: &str, path: impl Into<PathBuf>) -> Self {
        Self::new(&self.table, &format!("{}.{key}", self.key), path, self.form)
    }

    /// The path, for reading it in a run. The run's manifest then has its hash.
    ///
    /// # Errors
    /// The content is not what the run read before; it cannot be read; a full disk.
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

    /// The path, for a command that makes no rows, such as `cost`. Operators use [`External::open`].
    pub fn outside_of_runs(&self) -> &Path {
        &self.path
    }
}
