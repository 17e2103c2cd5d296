//! The state of a training under way: a directory per optimizer step, whole or not there, removed when the training is
//! done. It is not named in the manifest: nothing that a run has committed depends on it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::checkpoint_files::{LIST, Listed, all, check, remove_all, remove_state, states};
use super::damage::wrong;
use super::owned::remove_dir;
use super::paths::check_name;
use super::run::Run;
use crate::error::{Error, Result};
use crate::store::files::atomic::{AtomicFile, create_dirs, sync_dir, write_bytes};
use crate::store::files::fault;
use crate::store::files::io_error::io_error;

/// A checkpoint in the making.
pub struct CheckpointFiles {
    dir: PathBuf,
    files: BTreeMap<String, Listed>,
}

impl CheckpointFiles {
    /// Writes one file.
    ///
    /// # Errors
    /// What `fill` returns; a full disk.
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
}

impl Run {
    fn checkpoints_dir(&self, step: &str, iteration: u32) -> PathBuf {
        self.dir().join("checkpoints").join(step).join(format!("iteration={iteration}"))
    }

    /// Keeps the state of a training after optimizer step `at`, in place of those before: `fill` writes its files, which
    /// then become `checkpoints/STEP/iteration=I/step=AT`.
    ///
    /// # Errors
    /// What `fill` returns; a full disk. The checkpoint before is there as long as this one is not whole.
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
        let list = |files: &CheckpointFiles| {
            let text = serde_json::to_vec_pretty(&files.files).map_err(|e| Error::bug(format!("{LIST}: {e}")))?;
            write_bytes(&temporary.join(LIST), &text)
        };
        if let Err(e) = fill(&mut files).and_then(|()| list(&files)) {
            let _ = fs::remove_dir_all(&temporary); // the error at hand says more than a second one
            return Err(e);
        }
        fault::point(fault::CHECKPOINT_BEFORE_RENAME)?;
        // One of the same step: it was found damaged, or made from other settings.
        remove_state(&target)?;
        fs::rename(&temporary, &target).map_err(|e| io_error("renaming to", &target, &e))?;
        sync_dir(&dir)?;
        fault::point(fault::CHECKPOINT_AFTER_RENAME)?;
        for (_, other) in self.checkpoints(step, iteration).into_iter().filter(|(_, path)| *path != target) {
            remove_state(&other)?;
        }
        Ok(())
    }

    /// The checkpoints of a training, the latest first: optimizer step and directory. Usually there is one; two where the
    /// process died as it put one in place of the other.
    pub fn checkpoints(&self, step: &str, iteration: u32) -> Vec<(usize, PathBuf)> {
        states(&self.checkpoints_dir(step, iteration))
    }

    /// The trainings that are under way: step, iteration, optimizer step and directory of each checkpoint, in that order.
    pub fn all_checkpoints(&self) -> Vec<(String, u32, usize, PathBuf)> {
        all(self.dir())
    }

    /// Compares every file of a checkpoint with its hash.
    ///
    /// # Errors
    /// A file is damaged or gone: the checkpoint is not to be used.
    pub fn verify_checkpoint(dir: &Path) -> Result<()> {
        check(dir).map_err(|(file, why)| wrong(&file, &why))
    }

    /// Removes the checkpoints of a training that is done.
    ///
    /// # Errors
    /// They cannot be removed.
    pub fn remove_checkpoints(&self, step: &str, iteration: u32) -> Result<()> {
        remove_all(self.dir(), &self.checkpoints_dir(step, iteration))
    }
}
