//! Commits of microbatches, models and metrics to a [`Run`]. A file first gets its final name, and then its
//! line in the manifest.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use arrow::array::RecordBatch;

use super::entry::{Entry, FileEntry, MetricsEntry, ModelEntry, Stored};
use super::gc::{in_the_way, is_made_by, model_files, remove_unlisted, sync_tree};
use super::owned::{created_by_us, is_link, remove_dir, remove_file, renaming_note, unfinished_model};
use super::paths::{check_name, data_path, errors_path, metrics_path};
use super::run::{JournalState, Run};
use crate::data::Epoch;
use crate::error::{Error, Result};
use crate::store::files::atomic::{Written, create_dirs, sync_dir, write_bytes};
use crate::store::files::fault;
use crate::store::files::io_error::io_error;
use crate::store::files::writer::{ParquetFile, write_parquet};

impl Run {
    /// Commits a step's microbatch: the rows, the failed rows (schema `errors`, may be empty), and then the
    /// line that lists both. `lineage` has the hashes of the rows' inputs. Committing the same content again
    /// changes nothing.
    ///
    /// # Errors
    /// The disk is full: nothing is committed, and the next start removes what is left. The epoch is
    /// committed with other content (a bug).
    pub fn commit(
        &self,
        step: &str,
        epoch: Epoch,
        rows: &RecordBatch,
        errors: &RecordBatch,
        lineage: &[String],
    ) -> Result<FileEntry> {
        self.commit_counted(step, epoch, rows, errors, lineage, BTreeMap::new())
    }

    /// As [`Run::commit`], with the number of valid input rows that are in no output row, by reason.
    ///
    /// # Errors
    /// As [`Run::commit`].
    pub fn commit_counted(
        &self,
        step: &str,
        epoch: Epoch,
        rows: &RecordBatch,
        errors: &RecordBatch,
        lineage: &[String],
        unused: BTreeMap<String, u64>,
    ) -> Result<FileEntry> {
        check_name("step", step)?;
        if step == "errors" {
            return Err(Error::user("a step cannot be called `errors`: the rows that failed are kept under that name"));
        }
        self.check_place()?;
        let path = data_path(step, epoch);
        // Encoding and fsync are slow and run without the lock, in parallel; only renaming and the manifest
        // line are serialised.
        let (file, written) = self.write_unnamed(&path, rows)?;
        let failed = if errors.num_rows() > 0 {
            let path = errors_path(step, epoch);
            let (file, written) = self.write_unnamed(&path, errors)?;
            Some((file, Stored::new(path, written)))
        } else {
            None
        };
        let (failed_file, failed) = failed.unzip();
        let entry = FileEntry {
            step: step.to_owned(),
            iteration: epoch.iteration,
            microbatch: epoch.microbatch,
            path,
            rows: written.rows,
            bytes: written.bytes,
            hash: written.hash,
            errors: failed,
            lineage: lineage.to_vec(),
            unused,
        };
        // Two threads may commit the same microbatch, so it is checked and published under one lock.
        let mut state = self.state();
        if let Some(before) = state.index.file(step, epoch) {
            return if before == entry {
                Ok(entry)
            } else {
                let Epoch { iteration, microbatch } = epoch;
                Err(Error::bug(format!(
                    "step `{step}` made iteration {iteration} microbatch {microbatch} twice and not the same \
                     (hash {} and {})",
                    before.hash, entry.hash
                )))
            };
        }
        // The directory may have been moved while the rows were encoded.
        self.check_place()?;
        // Leftovers of dead processes were removed when the run was opened, so a file here is a user's.
        refuse_other(&self.dir().join(&entry.path))?;
        if let Some(file) = failed_file {
            entry.errors.iter().try_for_each(|e| refuse_other(&self.dir().join(&e.path)))?;
            // Failed rows come first: without a manifest line, both files are garbage for the next start.
            file.publish()?;
        }
        file.publish()?;
        Self::record(&mut state, Entry::File(entry.clone()))?;
        drop(state);
        self.note_verified(&entry.path);
        entry.errors.iter().for_each(|e| self.note_verified(&e.path));
        self.close_replies(step, epoch)?;
        Ok(entry)
    }

    /// Writes rows durably under a temporary name.
    fn write_unnamed(&self, path: &str, rows: &RecordBatch) -> Result<(ParquetFile, Written)> {
        let mut file = ParquetFile::from_batch(&self.dir().join(path), rows)?;
        let written = file.close()?;
        Ok((file, written))
    }

    /// Commits a model: `write` fills an empty directory and returns the hash of the weights; the directory
    /// then becomes `models/NAME`. Committing the same hash again changes nothing.
    ///
    /// # Errors
    /// `write` failed; the disk is full; the name is committed with other weights (a bug).
    pub fn commit_model(
        &self,
        name: &str,
        step: &str,
        iteration: u32,
        write: impl FnOnce(&Path) -> Result<String>,
    ) -> Result<ModelEntry> {
        check_name("model", name)?;
        let path = format!("models/{name}");
        let models = self.dir().join("models");
        let temporary = unfinished_model(&models, name);
        self.check_place()?;
        create_dirs(&models)?;
        remove_dir(&temporary)?;
        create_dirs(&temporary)?;
        let made = write(&temporary).and_then(|hash| sync_tree(&temporary).map(|()| hash));
        let hash = match made {
            Ok(hash) => hash,
            Err(e) => {
                let _ = fs::remove_dir_all(&temporary); // the error at hand says more than a second one
                return Err(e);
            }
        };
        let files = model_files(&temporary)?;
        let entry = ModelEntry { name: name.to_owned(), path, hash, step: step.to_owned(), iteration, files };
        let mut state = self.state();
        if let Some(before) = state.index.models.get(name) {
            remove_dir(&temporary)?;
            return if before.is(&entry) {
                Ok(entry)
            } else {
                let (was, is) = (&before.hash, &entry.hash);
                Err(Error::bug(format!("the model `{name}` was made twice and not the same (hash {was} and {is})")))
            };
        }
        if let Err(e) = self.publish_model(&mut state, &temporary, &entry) {
            let _ = remove_dir(&temporary); // the error at hand says more than a second one
            return Err(e);
        }
        Ok(entry)
    }

    /// Renames a model's directory and appends its line to the manifest. After a failure, nothing with the
    /// model's name is left.
    fn publish_model(&self, state: &mut JournalState, temporary: &Path, entry: &ModelEntry) -> Result<()> {
        self.check_place()?;
        let (models, target) = (self.dir().join("models"), self.dir().join(&entry.path));
        // If this process dies between renaming and the manifest line, the note tells the next one that the
        // directory is the run's.
        let note = renaming_note(&models, &entry.name);
        let text = serde_json::to_vec(&entry.files).map_err(|e| Error::bug(format!("note on a model: {e}")))?;
        remove_unlisted(self.dir(), &note, entry)?;
        write_bytes(&note, &text)?;
        let mut named = || {
            fault::point(fault::MODEL_BEFORE_RENAME)?;
            fs::rename(temporary, &target).map_err(|e| io_error("renaming to", &target, &e))?;
            sync_dir(&models)?;
            fault::point(fault::MODEL_AFTER_RENAME)?;
            Self::record(state, Entry::Model(entry.clone())).inspect_err(|_| drop(remove_dir(&target)))
        };
        let result = named();
        // A remaining note is harmless: the next start removes it.
        let _ = remove_file(&note);
        result
    }

    /// Checks that the place of a new model is free, or that the run made what is there.
    ///
    /// # Errors
    /// A user's files are there.
    pub fn check_place_of_model(&self, name: &str, step: &str, iteration: u32) -> Result<()> {
        let place = self.dir().join("models").join(name);
        let free = fs::symlink_metadata(&place).is_err();
        if free || self.model(name).is_some() || is_made_by(&place, step, iteration) {
            Ok(())
        } else {
            Err(in_the_way(&place))
        }
    }

    /// Writes a training step's metrics as `metrics/STEP/iteration=I/metrics.parquet`. They replace earlier
    /// ones, and those of the training in progress.
    ///
    /// # Errors
    /// A full disk.
    pub fn write_metrics(&self, step: &str, iteration: u32, rows: &RecordBatch) -> Result<MetricsEntry> {
        check_name("step", step)?;
        let path = metrics_path(step, iteration);
        self.check_place()?;
        if !self.state().index.metrics.contains_key(&(step.to_owned(), iteration)) {
            refuse_other(&self.dir().join(&path))?;
        }
        let Written { rows, bytes, hash } = write_parquet(&self.dir().join(&path), rows)?;
        let entry = MetricsEntry { step: step.to_owned(), iteration, path, rows, bytes, hash };
        let mut state = self.state();
        if state.index.metrics.get(&(step.to_owned(), iteration)) != Some(&entry) {
            Self::record(&mut state, Entry::Metrics(entry.clone()))?;
        }
        drop(state);
        self.remove_running_metrics(step, iteration)?;
        Ok(entry)
    }
}

/// Refuses to overwrite a file that the manifest does not list and reflux did not write.
fn refuse_other(path: &Path) -> Result<()> {
    if fs::symlink_metadata(path).is_err() || (!is_link(path) && created_by_us(path)) {
        return Ok(());
    }
    Err(in_the_way(path))
}
