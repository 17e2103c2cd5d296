//! Directories of checkpoints: finding, checking and removing them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::owned::{is_link, remove_dir, remove_empty, remove_file};
use super::paths::check_name;
use crate::data::read_regular;
use crate::error::Result;
use crate::store::files::integrity::{FileProblem, check_file};
use crate::store::files::io_error::io_error;

/// File with the size and hash of every file of a checkpoint. It is written last: a directory without it is
/// not a checkpoint.
pub(crate) const LIST: &str = "files.json";

/// Name of the list while the checkpoint is being removed.
const REMOVED: &str = "files.removed.json";

/// Names of the files to remove if the list is lost.
const USUAL: &[&str] = &["model.safetensors", "optimizer.safetensors", "best.safetensors", "trainer.json"];

/// A file in the list.
#[derive(Serialize, Deserialize)]
pub(crate) struct Listed {
    pub bytes: u64,
    pub hash: String,
}

/// Whether a directory is a complete checkpoint. One that is being removed is not.
pub(crate) fn is_checkpoint(dir: &Path) -> bool {
    dir.join(LIST).exists()
}

/// Compares every file of a checkpoint with its hash.
///
/// # Errors
/// The first damaged file, and what is wrong with it.
pub(crate) fn check(dir: &Path) -> Result<(), (PathBuf, FileProblem)> {
    let list = dir.join(LIST);
    let text = read_regular(&list).map_err(|e| (list.clone(), FileProblem::from_io(&e)))?;
    let files: BTreeMap<String, Listed> =
        serde_json::from_slice(&text).map_err(|e| (list.clone(), FileProblem::Damaged(e.to_string())))?;
    for (name, Listed { bytes, hash }) in files {
        let path = dir.join(&name);
        check_file(&path, bytes, &hash).map_err(|why| (path, why))?;
    }
    Ok(())
}

/// Optimizer step and directory of each checkpoint of one training, latest first.
pub(crate) fn states(dir: &Path) -> Vec<(usize, PathBuf)> {
    let numbered = |path: PathBuf| Some((number(&name(&path))?, path));
    let mut found: Vec<(usize, PathBuf)> = folders(dir).into_iter().filter_map(numbered).collect();
    found.retain(|(_, path)| is_checkpoint(path));
    found.sort_unstable_by(|a, b| b.cmp(a));
    found
}

/// Step, iteration, optimizer step and directory of every checkpoint of a run.
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

/// Optimizer step in the name of a checkpoint's directory.
fn number(name: &str) -> Option<usize> {
    let digits = name.strip_prefix("step=")?;
    if digits.len() >= 6 && digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse().ok() } else { None }
}

/// Whether a name is that of a checkpoint that is being written.
fn is_unfinished(name: &str) -> bool {
    name.strip_prefix('.').and_then(|n| n.strip_suffix(".tmp")).is_some_and(|n| number(n).is_some())
}

/// Removes the files of a checkpoint, and its directory unless a user has put something there.
pub(crate) fn remove_state(dir: &Path) -> Result<()> {
    if is_link(dir) || !dir.is_dir() {
        return Ok(());
    }
    let (list, removed) = (dir.join(LIST), dir.join(REMOVED));
    // Renaming the list comes first: after a crash from here on, the rest is garbage to remove and cannot be
    // mistaken for a checkpoint.
    if list.exists() {
        fs::rename(&list, &removed).map_err(|e| io_error("renaming to", &removed, &e))?;
    }
    let listed = read_regular(&removed).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let listed: BTreeMap<String, Listed> = listed.unwrap_or_default();
    // The list may be damaged: a name with a path in it must not lead out of the directory.
    let plain = |name: &&String| check_name("file", name).is_ok();
    for name in listed.keys().filter(plain).map(String::as_str).chain(USUAL.iter().copied()) {
        remove_file(&dir.join(name))?;
    }
    remove_file(&removed)?;
    // The directory stays if it contains a user's files.
    let _ = fs::remove_dir(dir);
    Ok(())
}

/// Removes all checkpoints of a training, complete or not, and its folders if they are empty then.
pub(crate) fn remove_all(run: &Path, dir: &Path) -> Result<()> {
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

/// Removes unfinished checkpoints, and those of trainings for which `done` returns true.
pub(crate) fn collect_garbage(run: &Path, done: impl Fn(&str, u32) -> bool) -> Result<()> {
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
