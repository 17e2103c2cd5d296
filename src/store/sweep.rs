//! What belongs to a run's directory, and the removal of what does not.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::atomic::{hash_file, io_error, is_temporary, sync_dir};
use super::manifest::ModelFile;
use crate::error::{Error, Result};

/// Names that a run's directory holds.
const OURS: &[&str] = &[
    "pipeline.toml",
    "manifest.jsonl",
    "summary.json",
    "report.html",
    "lock",
    "data",
    "metrics",
    "models",
    "checkpoints",
    "revised",
];

/// Whether a run's directory holds things of this name.
pub(super) fn is_ours(name: &str) -> bool {
    OURS.contains(&name) || name.starts_with(super::repair::KEPT)
}

/// Whether a file of rows has a name as we give it.
pub(super) fn is_named_as_ours(name: &str) -> bool {
    ["microbatch=", "microbatch-", "metrics."].iter().any(|p| name.starts_with(p)) && name.ends_with(".parquet")
}

/// A directory that holds other things than a run is not made into one, and not cleared.
pub(super) fn refuse_foreign(dir: &Path) -> Result<()> {
    let entries = fs::read_dir(dir).map_err(|e| io_error("listing", dir, &e))?;
    for entry in entries {
        let name = entry.map_err(|e| io_error("listing", dir, &e))?.file_name();
        let name = name.to_string_lossy();
        if !is_ours(&name) && !is_temporary(&name) {
            return Err(Error::user(format!("`{}` is not a run: it holds `{name}` and no manifest", dir.display()))
                .help("choose another name with --name, or an empty directory"));
        }
    }
    Ok(())
}

/// Removes a run's files; the lock is held and stays.
pub(super) fn clear(dir: &Path) -> Result<()> {
    // The manifest goes first: without it, what is left half-removed counts for nothing.
    for name in std::iter::once("manifest.jsonl").chain(OURS.iter().copied()) {
        let path = dir.join(name);
        match name {
            "lock" => {}
            "data" | "metrics" | "models" | "checkpoints" | "revised" => remove_dir(&path)?,
            _ => remove_file(&path)?,
        }
        if name == "manifest.jsonl" {
            sync_dir(dir)?;
        }
    }
    for entry in fs::read_dir(dir).map_err(|e| io_error("listing", dir, &e))? {
        let path = entry.map_err(|e| io_error("listing", dir, &e))?.path();
        if path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(super::repair::KEPT)) {
            remove_file(&path)?;
        }
    }
    sync_dir(dir)
}

pub(super) fn remove_dir(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io_error("removing", path, &e)),
        _ => Ok(()),
    }
}
fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io_error("removing", path, &e)),
        _ => Ok(()),
    }
}

/// Makes every file below `dir`, and every name, durable.
pub(super) fn sync_tree(dir: &Path) -> Result<()> {
    let fail = |e: std::io::Error| io_error("writing", dir, &e);
    for entry in fs::read_dir(dir).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        if path.is_dir() {
            sync_tree(&path)?;
        } else {
            fs::File::open(&path).and_then(|f| f.sync_all()).map_err(|e| io_error("writing", &path, &e))?;
        }
    }
    sync_dir(dir)
}

/// Every file below a model's directory with its size and hash, by its path there.
pub(super) fn model_files(dir: &Path) -> Result<BTreeMap<String, ModelFile>> {
    let mut files = BTreeMap::new();
    let mut open = vec![(dir.to_owned(), String::new())];
    while let Some((at, prefix)) = open.pop() {
        let fail = |e: std::io::Error| io_error("listing", &at, &e);
        for entry in fs::read_dir(&at).map_err(fail)? {
            let path = entry.map_err(fail)?.path();
            let name = format!("{prefix}{}", path.file_name().unwrap_or_default().to_string_lossy());
            if path.is_dir() {
                open.push((path, name + "/"));
            } else {
                let (hash, bytes) = hash_file(&path)?;
                files.insert(name, ModelFile { bytes, hash });
            }
        }
    }
    Ok(files)
}

/// Removes what a process that died left: temporaries, and files of ours and models that are not among `files` (with
/// their paths) and `models` (names). Only what is named as we name things is touched.
pub(super) fn sweep(dir: &Path, files: &BTreeSet<PathBuf>, is_model: impl Fn(&str) -> bool) -> Result<()> {
    sweep_files(dir, 0, files)?;
    for part in ["data", "metrics"] {
        sweep_files(&dir.join(part), 4, files)?;
    }
    let models = dir.join("models");
    for entry in fs::read_dir(&models).into_iter().flatten() {
        let entry = entry.map_err(|e| io_error("listing", &models, &e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_temporary(&name) || (entry.path().is_dir() && !is_model(&name)) {
            remove_dir(&entry.path())?;
        }
    }
    Ok(())
}

fn sweep_files(dir: &Path, depth: u32, named: &BTreeSet<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let entry = entry.map_err(|e| io_error("listing", dir, &e))?;
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        // A link is never followed: what it leads to is not ours.
        let kind = entry.file_type().map_err(|e| io_error("listing", dir, &e))?;
        if kind.is_dir() && depth > 0 {
            sweep_files(&path, depth - 1, named)?;
        } else if kind.is_file() && (is_temporary(&name) || (is_named_as_ours(&name) && !named.contains(&path))) {
            remove_file(&path)?;
        }
    }
    Ok(())
}
