//! Reads the committed files of a [`Run`].

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use rayon::prelude::*;

use super::damage::{damaged_in, unreadable};
use super::entry::{FileEntry, MetricsEntry, ModelEntry};
use super::run::Run;
use crate::data::{Column, Epoch, named};
use crate::error::{Error, Result};
use crate::store::files::integrity::{FileProblem, check_file, read_checked};
use crate::store::files::reader::{parquet_rows, read_parquet, texts};

/// Microbatches that are read at a time, which bounds the memory for them.
const READ_TOGETHER: usize = 4;

impl Run {
    /// The rows of a step's microbatch; `None` if it is not committed. A file's first read in a process is
    /// compared with its hash, later ones with its size and row count.
    ///
    /// # Errors
    /// The file is damaged or gone, or the step was dropped.
    pub fn load(&self, step: &str, epoch: Epoch) -> Result<Option<RecordBatch>> {
        self.committed(step, epoch).map(|entry| self.load_entry(&entry)).transpose()
    }

    /// The rows of a committed file, as [`Run::load`].
    ///
    /// # Errors
    /// As [`Run::load`].
    pub fn load_entry(&self, entry: &FileEntry) -> Result<RecordBatch> {
        // A file of the right size may still have other bytes, so the first read compares the hash.
        if !self.is_verified(&entry.path) {
            return self.load_verified(entry);
        }
        let path = self.present(entry)?;
        let rows = read_parquet(&path)?;
        self.as_committed(entry, &path, rows)
    }

    /// The rows of a committed file, always compared with its hash.
    ///
    /// # Errors
    /// As [`Run::load`].
    pub fn load_verified(&self, entry: &FileEntry) -> Result<RecordBatch> {
        let path = self.present(entry)?;
        let bytes = read_checked(&path, entry.bytes, &entry.hash).map_err(|why| self.wrong(&path, &why))?;
        // Decoded from the bytes that were hashed, so that no second read can see other content.
        let rows = self.as_committed(entry, &path, parquet_rows(&path, bytes)?)?;
        self.note_verified(&entry.path);
        Ok(rows)
    }

    /// The error for a damaged file of this run.
    pub(crate) fn damaged(&self, path: &Path, why: impl std::fmt::Display) -> Error {
        damaged_in(self.dir(), path, why)
    }

    /// The error for a file of this run that is damaged or cannot be read.
    pub(super) fn wrong(&self, path: &Path, wrong: &FileProblem) -> Error {
        match wrong {
            FileProblem::Damaged(why) => self.damaged(path, why),
            FileProblem::Unreadable(why) => unreadable(path, why),
        }
    }

    fn as_committed(&self, entry: &FileEntry, path: &Path, rows: RecordBatch) -> Result<RecordBatch> {
        if rows.num_rows() as u64 != entry.rows {
            let (has, said) = (rows.num_rows(), entry.rows);
            return Err(self.damaged(path, format!("it has {has} rows, the manifest says {said}")));
        }
        Ok(rows)
    }

    /// The values of a committed file's text column that are `wanted`. Values may occur more than once.
    ///
    /// # Errors
    /// As [`Run::load`]; the column is missing.
    pub fn texts(&self, entry: &FileEntry, column: &str, wanted: &dyn Fn(&[u8]) -> bool) -> Result<Vec<String>> {
        let path = self.present(entry)?;
        if !self.is_verified(&entry.path) {
            check_file(&path, entry.bytes, &entry.hash).map_err(|why| self.wrong(&path, &why))?;
            self.note_verified(&entry.path);
        }
        texts(&path, column, wanted)
    }

    /// Checks that a committed file exists with the right size. Its content is compared when it is read.
    ///
    /// # Errors
    /// The file is gone or has another size, or the step was dropped.
    pub fn check_present(&self, entry: &FileEntry) -> Result<()> {
        self.present(entry).map(drop)
    }

    /// Compares all files that this process has neither written nor read with their hashes: files of a
    /// resumed run that no step needed again.
    ///
    /// # Errors
    /// A file is damaged or gone. The message names the first one in the order of steps and microbatches.
    pub fn verify_unread(&self) -> Result<()> {
        for step in self.steps() {
            // Only epochs are collected: a long run has many entries.
            let epochs = self.epochs(&step);
            let damaged = |epoch: &Epoch| {
                let file = self.committed(&step, *epoch)?;
                self.verify_those(&file, |path| !self.is_verified(path)).err()
            };
            // `find_map_first` makes the reported file independent of the threads.
            if let Some(e) = epochs.par_iter().find_map_first(damaged) {
                return Err(e);
            }
        }
        Ok(())
    }

    /// Path of a committed file, after checks of its existence and size.
    fn present(&self, entry: &FileEntry) -> Result<PathBuf> {
        if self.dropped(&entry.step) {
            return Err(Error::user(format!("the step `{}` was not kept", entry.step))
                .help("remove its `keep = false` and run again under another name"));
        }
        let path = self.dir().join(&entry.path);
        // A link is not followed: its target does not belong to the run.
        let there = fs::symlink_metadata(&path).map_err(|e| self.wrong(&path, &FileProblem::from_io(&e)))?;
        if !there.is_file() {
            return Err(self.damaged(&path, "it is a link or a directory, and not the run's own file"));
        }
        let size = there.len();
        if size != entry.bytes {
            return Err(self.damaged(&path, format!("it has {size} bytes, the manifest says {}", entry.bytes)));
        }
        Ok(path)
    }

    /// Compares a committed file and its failed rows with their hashes.
    ///
    /// # Errors
    /// A file is damaged or gone.
    pub fn verify(&self, entry: &FileEntry) -> Result<()> {
        self.verify_those(entry, |_| true)
    }

    /// As [`Run::verify`], for those of the two files whose path is `wanted`.
    fn verify_those(&self, entry: &FileEntry, wanted: impl Fn(&str) -> bool) -> Result<()> {
        let main = (entry.path.as_str(), entry.bytes, entry.hash.as_str());
        let errors = entry.errors.iter().map(|e| (e.path.as_str(), e.bytes, e.hash.as_str()));
        for (path, bytes, hash) in std::iter::once(main).chain(errors).filter(|(path, ..)| wanted(path)) {
            let path = self.dir().join(path);
            check_file(&path, bytes, hash).map_err(|why| self.wrong(&path, &why))?;
        }
        Ok(())
    }

    /// The failed rows of a committed file, with the schema `errors`; `None` if there are none. Rows that
    /// predate the column `kind` are reported as failed.
    ///
    /// # Errors
    /// The file is damaged or gone.
    pub fn left_out(&self, entry: &FileEntry) -> Result<Option<RecordBatch>> {
        let Some(errors) = &entry.errors else { return Ok(None) };
        let path = self.dir().join(&errors.path);
        if !self.is_verified(&errors.path) {
            check_file(&path, errors.bytes, &errors.hash).map_err(|why| self.wrong(&path, &why))?;
            self.note_verified(&errors.path);
        }
        let rows = read_parquet(&path)?;
        let column = |column: &Column| match rows.column_by_name(column.name) {
            Some(there) => Ok(Arc::clone(there)),
            None if column.name == "kind" => {
                Ok(Arc::new(StringArray::from(vec!["failed"; rows.num_rows()])) as ArrayRef)
            }
            None => Err(self.damaged(&path, format!("it has no column `{}`", column.name))),
        };
        let columns = named::ERRORS.columns.iter().map(column).collect::<Result<_>>()?;
        named::ERRORS.batch(columns).map(Some).map_err(|e| self.damaged(&path, e))
    }

    /// The rows of a training's metrics, compared with their hash.
    ///
    /// # Errors
    /// The file is damaged or gone.
    pub fn load_metrics(&self, entry: &MetricsEntry) -> Result<RecordBatch> {
        let path = self.dir().join(&entry.path);
        let bytes = read_checked(&path, entry.bytes, &entry.hash).map_err(|why| self.wrong(&path, &why))?;
        parquet_rows(&path, bytes)
    }

    /// Compares the files of a committed model with their hashes, once per process. Weights are excluded,
    /// because loading them compares their own hash.
    ///
    /// # Errors
    /// A file is damaged or gone.
    pub fn verify_model(&self, model: &ModelEntry) -> Result<()> {
        if self.is_verified(&model.path) {
            return Ok(());
        }
        let small = |name: &str| !name.ends_with(".safetensors");
        for (name, file) in model.files.iter().filter(|(name, _)| small(name)) {
            let path = self.dir().join(&model.path).join(name);
            check_file(&path, file.bytes, &file.hash).map_err(|why| self.wrong(&path, &why))?;
        }
        self.note_verified(&model.path);
        Ok(())
    }

    /// A step's microbatches in epoch order, of one iteration or all, read lazily: `READ_TOGETHER` at a time.
    pub fn batches<'a>(
        &'a self,
        step: &str,
        iteration: Option<u32>,
    ) -> impl Iterator<Item = Result<(Epoch, RecordBatch)>> + 'a {
        let mut epochs = self.epochs(step);
        epochs.retain(|epoch| iteration.is_none_or(|i| epoch.iteration == i));
        let (step, mut epochs) = (step.to_owned(), epochs.into_iter());
        let parts = std::iter::from_fn(move || {
            let part: Vec<Epoch> = epochs.by_ref().take(READ_TOGETHER).collect();
            let read = |epoch| Some(self.load(&step, epoch).transpose()?.map(|rows| (epoch, rows)));
            // Small files take longer to open and decode than to hash, so they are read on several cores.
            (!part.is_empty()).then(|| part.into_par_iter().filter_map(read).collect::<Vec<_>>())
        });
        parts.flatten()
    }

    /// All rows of a step in epoch order, of one iteration or all; `None` if none are committed.
    ///
    /// # Errors
    /// As [`Run::load`].
    pub fn read_step(&self, step: &str, iteration: Option<u32>) -> Result<Option<RecordBatch>> {
        let batches: Vec<RecordBatch> = self.batches(step, iteration).map(|b| Ok(b?.1)).collect::<Result<_>>()?;
        let Some(first) = batches.first() else { return Ok(None) };
        Ok(Some(concat_batches(first.schema_ref(), &batches)?))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, StringArray, UInt32Array};

    use super::*;

    fn flip(path: &Path) {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    }

    /// Of a microbatch whose rows were read and whose errors were not, only the errors are compared.
    #[test]
    fn only_what_was_not_read_is_compared_at_the_end() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("run");
        let text = |s: &str| -> ArrayRef { Arc::new(StringArray::from(vec![s])) };
        let one: ArrayRef = Arc::new(UInt32Array::from(vec![1]));
        let columns = vec![text("s"), one.clone(), one, text("row"), text("failed"), text("why"), text("m")];
        let errors = named::ERRORS.batch(columns).unwrap();
        let create = || Run::create_or_open(&dir, "[pipeline]\n", 1, false).unwrap().0;
        drop(create().commit("s", Epoch::new(1, 0), &errors, &errors, &[]).unwrap());
        let run = create();
        let entry = run.committed("s", Epoch::new(1, 0)).unwrap();
        run.load_entry(&entry).unwrap();
        // What this process has read may be looked at again or not; it has the rows that were committed.
        flip(&dir.join(&entry.path));
        run.verify_unread().unwrap();
        let errors = &entry.errors.as_ref().unwrap().path;
        flip(&dir.join(errors));
        assert!(run.verify_unread().unwrap_err().to_string().contains(errors));
    }
}
