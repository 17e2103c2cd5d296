//! The state of a training under way: a directory per optimizer step, whole or not there, removed when the training is
//! done. It is not named in the manifest: nothing that a run has committed depends on it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::index::{check_name, wrong};
use super::owned::{is_link, remove_dir, remove_empty, remove_file};
use super::run::Run;
use crate::data::read_regular;
use crate::error::{Error, Result};
use crate::store::files::atomic::write_bytes;
use crate::store::files::atomic::{AtomicFile, Wrong, create_dirs, io_error, same_bytes, sync_dir};
use crate::store::files::fault;

/// Lists the files of a checkpoint with size and hash; the last to be written. A directory without it is no checkpoint.
const LIST: &str = "files.json";
/// The list's name while the files of the checkpoint are removed.
const REMOVED: &str = "files.removed.json";
/// The files of a checkpoint whose list is lost.
const USUAL: &[&str] = &["model.safetensors", "optimizer.safetensors", "best.safetensors", "trainer.json"];

/// A file as the list has it.
#[derive(Serialize, Deserialize)]
struct Listed {
    bytes: u64,
    hash: String,
}

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

/// Whether a directory is a whole checkpoint; one that is being removed is not.
pub(crate) fn is_one(dir: &Path) -> bool {
    dir.join(LIST).exists()
}

/// Compares every file of a checkpoint with its hash.
///
/// # Errors
/// The first file that is not as it was written, and why.
pub(crate) fn check(dir: &Path) -> Result<(), (PathBuf, Wrong)> {
    let list = dir.join(LIST);
    let text = read_regular(&list).map_err(|e| (list.clone(), Wrong::from_io(&e)))?;
    let files: BTreeMap<String, Listed> =
        serde_json::from_slice(&text).map_err(|e| (list.clone(), Wrong::Damaged(e.to_string())))?;
    for (name, Listed { bytes, hash }) in files {
        let path = dir.join(&name);
        same_bytes(&path, bytes, &hash).map_err(|why| (path, why))?;
    }
    Ok(())
}

/// Optimizer step and directory of each state of one training, the latest first.
fn states(dir: &Path) -> Vec<(usize, PathBuf)> {
    let numbered = |path: PathBuf| Some((number(&name(&path))?, path));
    let mut found: Vec<(usize, PathBuf)> = folders(dir).into_iter().filter_map(numbered).collect();
    found.retain(|(_, path)| is_one(path));
    found.sort_unstable_by(|a, b| b.cmp(a));
    found
}

/// As [`Run::all_checkpoints`], of a run's directory.
pub(crate) fn all(run: &Path) -> Vec<(String, u32, usize, PathBuf)> {
    let mut found = Vec::new();
    for step in folders(&run.join("checkpoints")) {
        for dir in folders(&step) {
            let Some(iteration) = iteration_of(&dir) else { continue };
            found.extend(states(&dir).into_iter().map(|(at, path)| (name(&step), iteration, at, path)));
        }
    }
    found.sort();
    found
}

/// The optimizer step of a checkpoint's directory.
fn number(name: &str) -> Option<usize> {
    let digits = name.strip_prefix("step=")?;
    if digits.len() >= 6 && digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse().ok() } else { None }
}
/// Whether a directory is a checkpoint in the making.
fn is_unfinished(name: &str) -> bool {
    name.strip_prefix('.').and_then(|n| n.strip_suffix(".tmp")).is_some_and(|n| number(n).is_some())
}

/// Removes a checkpoint: the files of its list, and its directory unless others have put something there.
pub(crate) fn remove_state(dir: &Path) -> Result<()> {
    if is_link(dir) || !dir.is_dir() {
        return Ok(());
    }
    let (list, removed) = (dir.join(LIST), dir.join(REMOVED));
    // Without its list it is no checkpoint: whoever dies from here on leaves something to be removed, and nothing to be used.
    if list.exists() {
        fs::rename(&list, &removed).map_err(|e| io_error("renaming to", &removed, &e))?;
    }
    let listed = read_regular(&removed).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let listed: BTreeMap<String, Listed> = listed.unwrap_or_default();
    let plain = |name: &&String| check_name("file", name).is_ok();
    for name in listed.keys().filter(plain).map(String::as_str).chain(USUAL.iter().copied()) {
        remove_file(&dir.join(name))?;
    }
    remove_file(&removed)?;
    // It stays where it holds things of others.
    let _ = fs::remove_dir(dir);
    Ok(())
}

/// Removes all states of a training, finished or not, and its folders where they are empty then.
fn remove_all(run: &Path, dir: &Path) -> Result<()> {
    for state in folders(dir) {
        if number(&name(&state)).is_some() {
            remove_state(&state)?;
        } else if is_unfinished(&name(&state)) {
            remove_dir(&state)?;
        }
    }
    remove_empty(dir, run);
    Ok(())
}

fn folders(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect()
}
fn name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}
fn iteration_of(dir: &Path) -> Option<u32> {
    name(dir).strip_prefix("iteration=")?.parse().ok()
}

/// Removes what a process that died left below `checkpoints`: unfinished ones, and those of trainings that `done` knows.
pub(crate) fn sweep(run: &Path, done: impl Fn(&str, u32) -> bool) -> Result<()> {
    for step in folders(&run.join("checkpoints")) {
        for dir in folders(&step) {
            let Some(iteration) = iteration_of(&dir) else { continue };
            if done(&name(&step), iteration) {
                remove_all(run, &dir)?;
                continue;
            }
            for state in folders(&dir) {
                if is_unfinished(&name(&state)) {
                    remove_dir(&state)?;
                } else if number(&name(&state)).is_some() && !state.join(LIST).exists() {
                    remove_state(&state)?;
                }
            }
        }
    }
    Ok(())
}
