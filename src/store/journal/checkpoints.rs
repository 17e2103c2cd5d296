//! Checkpoints of a training in progress: one directory per optimizer step, written atomically and removed
//! when the training has finished. The manifest does not list them, because no committed file depends on
//! them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::checkpoint_files::{LIST, Listed, all, check, remove_all, remove_state, states};
use super::damage::problem_error;
use super::owned::remove_dir;
use super::paths::check_name;
use super::run::Run;
use crate::error::{Error, Result};
use crate::store::files::atomic::{AtomicFile, create_dirs, sync_dir, write_bytes};
use crate::store::files::fault;
use crate::store::files::io_error::io_error;

/// A checkpoint that is being written.
pub struct CheckpointFiles {
    dir: PathBuf,
    files: BTreeMap<String, Listed>,
}

impl CheckpointFiles {
    /// Writes one file.
    ///
    /// # Errors
    /// `fill` failed; the disk is full.
    pub fn put(&mut self, name: &str, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
        let mut file = AtomicFile::create(&self.dir.join(name))?;
        if let Err(e) = fill(&mut file) {
            return Err(file.error(e));
        }
        let written = file.close()?;
        file.publish()?;
        self.files.insert(name.to_owned(), Listed { bytes: written.bytes, hash: written.hash });
        Ok(())
    }

    /// Writes the list of files, which completes the checkpoint.
    fn write_list(&self) -> Result<()> {
        let text = serde_json::to_vec_pretty(&self.files).map_err(|e| Error::bug(format!("{LIST}: {e}")))?;
        write_bytes(&self.dir.join(LIST), &text).map(drop)
    }
}

impl Run {
    fn checkpoints_dir(&self, step: &str, iteration: u32) -> PathBuf {
        self.dir().join("checkpoints").join(step).join(format!("iteration={iteration}"))
    }

    /// Saves the state of a training after optimizer step `at`, and then removes earlier checkpoints: `fill`
    /// writes the files, which then become `checkpoints/STEP/iteration=I/step=AT`.
    ///
    /// # Errors
    /// `fill` failed; the disk is full. The previous checkpoint exists until this one is complete.
    pub fn save_checkpoint(
        &self,
        step: &str,
        iteration: u32,
        at: usize,
        fill: impl FnOnce(&mut CheckpointFiles) -> Result<()>,
    ) -> Result<()> {
        check_name("step", step)?;
        let dir = self.checkpoints_dir(step, iteration);
        let name = format!("step={at:06}");
        let (temporary, target) = (dir.join(format!(".{name}.tmp")), dir.join(&name));
        remove_dir(&temporary)?;
        create_dirs(&temporary)?;
        let mut files = CheckpointFiles { dir: temporary.clone(), files: BTreeMap::new() };
        if let Err(e) = fill(&mut files).and_then(|()| files.write_list()) {
            let _ = fs::remove_dir_all(&temporary); // the error at hand says more than a second one
            return Err(e);
        }
        fault::point(fault::CHECKPOINT_BEFORE_RENAME)?;
        // A checkpoint of the same step exists if it was damaged or written under other settings.
        remove_state(&target)?;
        fs::rename(&temporary, &target).map_err(|e| io_error("renaming to", &target, &e))?;
        sync_dir(&dir)?;
        fault::point(fault::CHECKPOINT_AFTER_RENAME)?;
        // Earlier checkpoints are removed only once the new one is durable.
        for (_, other) in self.checkpoints(step, iteration).into_iter().filter(|(_, path)| *path != target) {
            remove_state(&other)?;
        }
        Ok(())
    }

    /// Optimizer step and directory of each checkpoint of a training, latest first. Usually there is one;
    /// there are two if a process died while it replaced one by the other.
    pub fn checkpoints(&self, step: &str, iteration: u32) -> Vec<(usize, PathBuf)> {
        states(&self.checkpoints_dir(step, iteration))
    }

    /// Checkpoints of all trainings in progress: step, iteration, optimizer step and directory, sorted in
    /// this order.
    pub fn all_checkpoints(&self) -> Vec<(String, u32, usize, PathBuf)> {
        all(self.dir())
    }

    /// Compares every file of a checkpoint with its hash.
    ///
    /// # Errors
    /// A file is damaged or gone, and the checkpoint must not be used.
    pub fn verify_checkpoint(dir: &Path) -> Result<()> {
        check(dir).map_err(|(file, why)| problem_error(&file, &why))
    }

    /// Removes the checkpoints of a training that has finished.
    ///
    /// # Errors
    /// They cannot be removed.
    pub fn remove_checkpoints(&self, step: &str, iteration: u32) -> Result<()> {
        remove_all(self.dir(), &self.checkpoints_dir(step, iteration))
    }
}
