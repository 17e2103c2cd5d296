//! Garbage collection in a run's directory: removal of files that a dead process left, and of whole runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::entry::{Entry, ModelEntry, ModelFile};
use super::owned::{
    is_kept_manifest, is_link, is_unfinished_model, is_unfinished_note, model_of_note, remove_dir, remove_empty,
    remove_file, remove_leftover_files,
};
use super::paths::{LOGS, SCRATCH, UNFINISHED_MANIFEST};
use super::pipeline_file::steps_of;
use super::scratch_files::{collect_scratch, remove_logs};
use super::{checkpoint_files, manifest, reply_files};
use crate::data::read_text;
use crate::error::{Error, Result};
use crate::store::files::atomic::{is_temporary, sync_dir};
use crate::store::files::integrity::hash_file;
use crate::store::files::io_error::io_error;

/// Names of reflux's own files and folders at the top of a run's directory.
const OURS: &[&str] = &[
    "pipeline.toml",
    "manifest.jsonl",
    UNFINISHED_MANIFEST,
    "summary.json",
    "report.html",
    "lock",
    "data",
    "metrics",
    "models",
    "checkpoints",
    "replies",
    "revised",
    SCRATCH,
    LOGS,
];

/// Whether a name at the top of a run's directory is one of reflux's own.
pub(crate) fn is_run_file(name: &str) -> bool {
    OURS.contains(&name) || is_kept_manifest(name)
}

/// Refuses a directory with a user's files and no manifest: it is neither made into a run nor cleared.
pub(crate) fn refuse_foreign(dir: &Path) -> Result<()> {
    let entries = fs::read_dir(dir).map_err(|e| io_error("listing", dir, &e))?;
    for entry in entries {
        let name = entry.map_err(|e| io_error("listing", dir, &e))?.file_name();
        let name = name.to_string_lossy();
        if !is_run_file(&name) && !is_temporary(&name) {
            return Err(Error::user(format!("`{}` is not a run: it holds `{name}` and no manifest", dir.display()))
                .help("choose another name with --name, or an empty directory"));
        }
    }
    Ok(())
}

/// Removes the files of the run in `dir` and keeps a user's files. The caller holds the lock, whose file
/// stays.
///
/// # Errors
/// A file cannot be removed; a link is in place of one of the run's files.
pub(crate) fn remove_run_files(dir: &Path) -> Result<()> {
    let (manifest, going) = (dir.join("manifest.jsonl"), dir.join(UNFINISHED_MANIFEST));
    // The manifest is renamed first, so that a half-removed directory is not a run any more. It is deleted
    // last, because its lines say what remains to be removed.
    if manifest.exists() {
        fs::rename(&manifest, &going).map_err(|e| io_error("renaming to", &going, &e))?;
        sync_dir(dir)?;
    }
    let pipeline = read_text(&dir.join("pipeline.toml")).unwrap_or_default();
    let mut steps = steps_of(&pipeline);
    // The pipeline file may be damaged, so the steps of the manifest are added.
    let (lines, _) = manifest::lines(&going)?;
    let entries: Vec<Entry> = lines.into_iter().filter_map(|line| line.entry.ok()).collect();
    for entry in &entries {
        match entry {
            Entry::File(f) => {
                steps.insert(f.step.clone());
                remove_named(dir, &f.path)?;
                f.errors.iter().try_for_each(|e| remove_named(dir, &e.path))?;
            }
            Entry::Metrics(m) => {
                steps.insert(m.step.clone());
                remove_named(dir, &m.path)?;
            }
            Entry::Model(m) => remove_model(dir, m)?,
            _ => {}
        }
    }
    remove_leftover_files(dir, &steps, &BTreeSet::new())?;
    collect_models(dir, |_| false)?;
    checkpoint_files::collect_garbage(dir, |_, _| true)?;
    collect_scratch(dir, |_, _| true)?;
    remove_logs(dir)?;
    reply_files::remove_all(dir)?;
    remove_revisions(&dir.join("revised"))?;
    for name in ["pipeline.toml", "summary.json", "report.html"] {
        remove_file(&dir.join(name))?;
    }
    for entry in fs::read_dir(dir).map_err(|e| io_error("listing", dir, &e))? {
        let path = entry.map_err(|e| io_error("listing", dir, &e))?.path();
        if path.file_name().is_some_and(|n| is_kept_manifest(&n.to_string_lossy())) {
            remove_file(&path)?;
        }
    }
    remove_file(&going)?;
    sync_dir(dir)
}

/// Removes a file that a manifest lists, and the folders that become empty. A path through a link leads out
/// of the run and is skipped.
pub(crate) fn remove_named(run: &Path, path: &str) -> Result<()> {
    let file = run.join(path);
    let above = file.parent().unwrap_or(run);
    if above.ancestors().take_while(|at| *at != run).any(is_link) {
        return Ok(());
    }
    // A directory in place of a file is not ours, and stays.
    if fs::symlink_metadata(&file).is_ok_and(|there| there.is_dir()) {
        return Ok(());
    }
    remove_file(&file)?;
    remove_empty(above, run);
    Ok(())
}

/// Removes the files of a committed model.
pub(crate) fn remove_model(run: &Path, model: &ModelEntry) -> Result<()> {
    if is_link(&run.join("models")) || is_link(&run.join(&model.path)) {
        return Ok(());
    }
    if model.files.is_empty() {
        // Early manifests do not list the files of models.
        return remove_dir(&run.join(&model.path));
    }
    model.files.keys().try_for_each(|name| remove_named(run, &format!("{}/{name}", model.path)))
}

/// Removes the revisions of a run: the folders with a `revision.json`.
fn remove_revisions(dir: &Path) -> Result<()> {
    if is_link(dir) {
        return Ok(());
    }
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.map_err(|e| io_error("listing", dir, &e))?.path();
        if !is_link(&path) && path.join("revision.json").is_file() {
            remove_dir(&path)?;
        }
    }
    // The folder stays if it contains a user's files.
    let _ = fs::remove_dir(dir);
    Ok(())
}

/// Syncs every file and every directory below `dir`.
pub(crate) fn sync_tree(dir: &Path) -> Result<()> {
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

/// Size and hash of every file below a model's directory, by its relative path.
pub(crate) fn model_files(dir: &Path) -> Result<BTreeMap<String, ModelFile>> {
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

/// Removes what a dead process left: temporary files, files with reflux's names that are not in `files` (full
/// paths), and unfinished models. `steps` are the steps of the run. A user's files stay, whatever their
/// names.
///
/// # Errors
/// A file cannot be removed; a link is in place of one of the run's files.
pub(crate) fn collect_garbage(
    dir: &Path,
    steps: &BTreeSet<String>,
    files: &BTreeSet<PathBuf>,
    is_model: impl Fn(&str) -> bool,
) -> Result<()> {
    remove_leftover_files(dir, steps, files)?;
    collect_models(dir, is_model)
}

/// Removes unfinished models. A model that already had its final name, and no manifest line yet, is
/// recognised by the note with its files.
fn collect_models(dir: &Path, is_model: impl Fn(&str) -> bool) -> Result<()> {
    let models = dir.join("models");
    if is_link(&models) {
        return Ok(());
    }
    for entry in fs::read_dir(&models).into_iter().flatten() {
        let entry = entry.map_err(|e| io_error("listing", &models, &e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type().map_err(|e| io_error("listing", &models, &e))?;
        if kind.is_dir() && is_unfinished_model(&name) {
            remove_dir(&entry.path())?;
        } else if let (true, Some(model)) = (kind.is_file(), model_of_note(&name)) {
            let made = models.join(model);
            if !is_model(model) && !is_link(&made) && is_as_noted(&entry.path(), &made) {
                remove_dir(&made)?;
            }
            remove_file(&entry.path())?;
        } else if kind.is_file() && is_unfinished_note(&name) {
            remove_file(&entry.path())?;
        }
    }
    // The folder stays unless it is empty.
    let _ = fs::remove_dir(&models);
    Ok(())
}

/// Removes a model's directory that the manifest does not list, if the run made it: a dead process left a
/// note, or the model itself records the training that made it. `model.files` are the files of the new model.
///
/// # Errors
/// A user's files are there.
pub(crate) fn remove_unlisted(run: &Path, note: &Path, model: &ModelEntry) -> Result<()> {
    let place = run.join(&model.path);
    if fs::symlink_metadata(&place).is_err() {
        return Ok(());
    }
    if is_link(&place) {
        return Err(in_the_way(&place));
    }
    if is_as_noted(note, &place) {
        return remove_dir(&place);
    }
    if is_made_by(&place, &model.step, model.iteration) {
        remove_model(run, model)?;
    }
    if place.exists() { Err(in_the_way(&place)) } else { Ok(()) }
}

/// Whether a model's own metadata says that this training made it.
pub(crate) fn is_made_by(model: &Path, step: &str, iteration: u32) -> bool {
    let Ok(text) = read_text(&model.join("reflux.json")) else { return false };
    let Ok(origin) = serde_json::from_str::<serde_json::Value>(&text) else { return false };
    !is_link(model) && origin["step"] == step && origin["iteration"] == iteration
}

/// The error for a user's file or folder where the run must write.
pub(crate) fn in_the_way(path: &Path) -> Error {
    Error::user(format!("`{}` is in the way: the run did not make it", path.display()))
        .help("move it out of the run's directory and give the same command again")
}

/// Whether a model's directory has exactly the files of a note, which proves that the process with the note
/// wrote it.
fn is_as_noted(note: &Path, model: &Path) -> bool {
    let Ok(text) = read_text(note) else { return false };
    let Ok(files) = serde_json::from_str::<BTreeMap<String, ModelFile>>(&text) else { return false };
    model.is_dir() && model_files(model).is_ok_and(|there| there == files)
}
