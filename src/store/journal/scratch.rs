//! Folders of a run for programs outside: what a step hands to them and gets from them, and their logs.
//!
//! `scratch/STEP/iteration=I` exists while a training by a program lasts, also across processes that die, and is
//! removed once its model is committed. `logs/STEP/iteration=I.log` stays. The manifest lists neither, because
//! nothing that is committed depends on them.

use std::path::{Path, PathBuf};

use super::fork::copy;
use super::owned::{refuse_link, remove_dir, remove_empty};
use super::paths::{CANARY_FILE, LOGS, SCRATCH, check_name, data_path};
use super::run::Run;
use crate::error::Result;
use crate::store::files::atomic::create_dirs;
use crate::store::files::integrity::check_file;

fn folder(iteration: u32) -> String {
    format!("iteration={iteration}")
}

impl Run {
    /// Returns the scratch folder of a step's iteration, which is created if needed.
    ///
    /// # Errors
    /// A full disk; a link is in its place.
    pub fn scratch(&self, step: &str, iteration: u32) -> Result<PathBuf> {
        check_name("step", step)?;
        self.check_place()?;
        let dir = self.dir().join(SCRATCH).join(step).join(folder(iteration));
        dir.ancestors().take_while(|at| *at != self.dir()).try_for_each(refuse_link)?;
        create_dirs(&dir)?;
        Ok(dir)
    }

    /// Removes the scratch folder of a step's iteration, if any.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove_scratch(&self, step: &str, iteration: u32) -> Result<()> {
        let dir = self.dir().join(SCRATCH).join(step).join(folder(iteration));
        remove_dir(&dir)?;
        remove_empty(dir.parent().unwrap_or(self.dir()), self.dir());
        Ok(())
    }

    /// Returns the path of the log of a step's iteration. Its folder is created if needed.
    ///
    /// # Errors
    /// A full disk; a link is in its place.
    pub fn log_file(&self, step: &str, iteration: u32) -> Result<PathBuf> {
        check_name("step", step)?;
        let file = self.dir().join(LOGS).join(step).join(folder(iteration) + ".log");
        file.ancestors().take_while(|at| *at != self.dir()).try_for_each(refuse_link)?;
        create_dirs(file.parent().unwrap_or(self.dir()))?;
        Ok(file)
    }

    /// Returns the path of the file, next to the logs of a server, with what it was found to compute. Its folder is
    /// created if needed.
    ///
    /// # Errors
    /// A full disk; a link is in its place.
    pub fn canary_file(&self, step: &str) -> Result<PathBuf> {
        let file = self.log_file(step, 0)?.with_file_name(CANARY_FILE);
        refuse_link(&file)?;
        Ok(file)
    }

    /// Makes `dir` a Hive-style dataset of exactly the rows that a step has committed in an iteration, as copies of
    /// the files, and returns the number of rows and the files' hashes. What is in `dir` is removed. A link would let
    /// whoever writes to it change what is committed.
    ///
    /// # Errors
    /// A committed file is damaged; a full disk.
    pub fn copy_rows(&self, step: &str, iteration: u32, dir: &Path) -> Result<(u64, Vec<String>)> {
        remove_dir(dir)?;
        create_dirs(&dir.join(folder(iteration)))?;
        let (mut rows, mut hashes) = (0, Vec::new());
        for file in self.files(step).into_iter().filter(|file| file.iteration == iteration) {
            let from = self.dir().join(&file.path);
            check_file(&from, file.bytes, &file.hash).map_err(|why| self.wrong(&from, &why))?;
            let name = data_path(step, file.epoch());
            let name = name.rsplit('/').next().unwrap_or_default();
            copy(&from, &dir.join(folder(iteration)).join(name))?;
            rows += file.rows;
            hashes.push(file.hash);
        }
        Ok((rows, hashes))
    }

    /// Returns a file in `dir` that is no longer what [`Run::copy_rows`] made it, if there is one.
    pub fn changed_copy(&self, step: &str, iteration: u32, dir: &Path) -> Option<PathBuf> {
        let files = self.files(step).into_iter().filter(|file| file.iteration == iteration);
        let copies = files.map(|file| {
            let name = data_path(step, file.epoch());
            (dir.join(folder(iteration)).join(name.rsplit('/').next().unwrap_or_default()), file)
        });
        let mut changed = copies.filter(|(copy, file)| check_file(copy, file.bytes, &file.hash).is_err());
        changed.next().map(|(copy, _)| copy)
    }
}
