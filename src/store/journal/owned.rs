//! Names of reflux's own files in a run's directory, and their removal.
//!
//! A run's directory may also contain a user's files: notes, copies, links to other disks. A file is removed
//! only if it has exactly a name that reflux gives, at the place where reflux gives it, and is not a link.
//! Links are never followed.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use super::paths::{LOGS, SCRATCH};
use crate::data::open_regular;
use crate::error::{Error, Result};
use crate::store::files::io_error::io_error;
use crate::store::files::writer::CREATED_BY;

/// Number of bytes at the end of a Parquet file that are searched for the name of its writer.
const FOOTER_END: u64 = 64 << 10;
/// Suffix of every unfinished file or directory.
const TEMPORARY: &str = ".tmp";
/// Suffixes of a model directory that is being written, and of the note that announces its renaming.
const UNFINISHED: &str = ".unfinished";
const NOTE: &str = ".renamed";

/// Files at the top of a run's directory.
const TOP: &[&str] =
    &["pipeline.toml", "manifest.jsonl", "summary.json", "report.html", super::paths::UNFINISHED_MANIFEST];

fn all_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// Whether a name is `prefix`, a number of at least `least` digits, and `suffix`.
fn numbered(name: &str, prefix: &str, least: usize, suffix: &str) -> bool {
    let number = name.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(suffix));
    number.is_some_and(|n| all_digits(n) && n.len() >= least)
}

/// Final name of a temporary file `.NAME.PID-N.tmp`, as `AtomicFile` names it.
fn target_of(temporary: &str) -> Option<&str> {
    let inner = temporary.strip_prefix('.')?.strip_suffix(TEMPORARY)?;
    let (target, unique) = inner.rsplit_once('.')?;
    let (pid, number) = unique.split_once('-')?;
    (all_digits(pid) && all_digits(number) && !target.is_empty()).then_some(target)
}

/// Whether a name is that of a step's microbatch.
fn is_microbatch(name: &str) -> bool {
    numbered(name, "microbatch=", 5, ".parquet")
}
/// Whether a name is that of a microbatch's failed rows.
fn is_errors(name: &str) -> bool {
    numbered(name, "microbatch-", 5, ".parquet")
}
fn is_metrics(name: &str) -> bool {
    // The second belongs to a training in progress.
    name == "metrics.parquet" || name == "metrics.running.parquet"
}
/// Whether a name is that of a manifest's backup by a repair.
pub(crate) fn is_kept_manifest(name: &str) -> bool {
    numbered(name, super::paths::MANIFEST_BACKUP, 1, ".jsonl")
}
fn is_top(name: &str) -> bool {
    TOP.contains(&name) || is_kept_manifest(name)
}

/// Directory in which a model is written before it gets its name.
pub(crate) fn unfinished_model(models: &Path, name: &str) -> PathBuf {
    models.join(format!(".{name}{UNFINISHED}{TEMPORARY}"))
}
/// Note that lists the files of a model's directory just before the directory gets its name.
pub(crate) fn renaming_note(models: &Path, name: &str) -> PathBuf {
    models.join(format!(".{name}{NOTE}{TEMPORARY}"))
}
/// Name of the model that a [`renaming_note`] belongs to.
pub(crate) fn model_of_note(file: &str) -> Option<&str> {
    file.strip_prefix('.')?.strip_suffix(TEMPORARY)?.strip_suffix(NOTE).filter(|name| !name.is_empty())
}
/// Whether a name is that of a note that was being written.
pub(crate) fn is_unfinished_note(file: &str) -> bool {
    target_of(file).is_some_and(|target| model_of_note(target).is_some())
}
/// Whether a name is that of an [`unfinished_model`].
pub(crate) fn is_unfinished_model(name: &str) -> bool {
    name.starts_with('.') && name.strip_suffix(TEMPORARY).is_some_and(|n| n.ends_with(UNFINISHED))
}

/// Whether a dataset belongs to one of the steps, itself or as a side table such as `dpo.reference`.
fn is_of(steps: &BTreeSet<String>, dataset: &str) -> bool {
    steps.contains(dataset.split('.').next().unwrap_or(dataset))
}

/// A folder of a run that contains files of rows.
struct OwnedFolder {
    dir: PathBuf,
    /// Whether a name is one that reflux gives there.
    ours: fn(&str) -> bool,
    /// Whether the dataset belongs to one of the run's steps, and is not a user's folder.
    of_a_step: bool,
}

/// Whether `path`, relative to the run, is one that a dead process may have left. A complete file of rows
/// counts only if `created_by_us` confirms who wrote it.
pub(crate) fn is_leftover(path: &str, steps: &BTreeSet<String>, created_by_us: impl Fn() -> bool) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    let is_temporary = |ours: fn(&str) -> bool, name: &str| target_of(name).is_some_and(ours);
    match parts[..] {
        [name] => target_of(name).is_some_and(is_top),
        ["data", "errors", step, iteration, name] if numbered(iteration, "iteration-", 1, "") => {
            is_temporary(is_errors, name) || (is_of(steps, step) && is_errors(name) && created_by_us())
        }
        ["data", step, iteration, name] if numbered(iteration, "iteration=", 1, "") => {
            is_temporary(is_microbatch, name) || (is_of(steps, step) && is_microbatch(name) && created_by_us())
        }
        ["metrics", step, iteration, name] if numbered(iteration, "iteration=", 1, "") => {
            is_temporary(is_metrics, name) || (is_of(steps, step) && is_metrics(name) && created_by_us())
        }
        ["models", name] => {
            model_of_note(name).is_some() || target_of(name).is_some_and(|t| model_of_note(t).is_some())
        }
        ["models", within, ..] => is_unfinished_model(within),
        ["checkpoints", _, _, state, ..] => numbered(state, ".step=", 6, TEMPORARY),
        _ => false,
    }
}

/// Whether a path is a symbolic link.
pub(crate) fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_symlink())
}

/// Refuses a symbolic link in place of one of the run's own files.
pub(crate) fn refuse_link(path: &Path) -> Result<()> {
    if !is_link(path) {
        return Ok(());
    }
    Err(Error::user(format!("`{}` is a link, and a run keeps its files in its own directory", path.display()))
        .help("put what it leads to in its place; to have a run on another disk, let the run's whole directory be there (--runs)"))
}

/// Refuses symbolic links in place of any of the run's files and folders.
///
/// # Errors
/// A link was found; the help says what to do.
pub(crate) fn refuse_links(run: &Path, steps: &BTreeSet<String>) -> Result<()> {
    let top = ["lock", "data", "metrics", "models", "checkpoints", "replies", "revised", SCRATCH, LOGS];
    for name in top.iter().chain(TOP) {
        refuse_link(&run.join(name))?;
    }
    for place in places(run, steps).into_iter().filter(|place| place.of_a_step) {
        for ancestor in place.dir.ancestors().take_while(|a| *a != run) {
            refuse_link(ancestor)?;
        }
    }
    for top in ["checkpoints", "replies", SCRATCH, LOGS] {
        for step in steps {
            let dir = run.join(top).join(step);
            refuse_link(&dir)?;
            for (name, _) in names(&dir)?.into_iter().filter(|(name, _)| name.starts_with("iteration")) {
                refuse_link(&dir.join(name))?;
            }
        }
    }
    Ok(())
}

/// Refuses a symbolic link in place of a file of the run, or of a folder above it.
///
/// # Errors
/// A link was found; the help says what to do.
pub(crate) fn refuse_links_to(run: &Path, path: &str) -> Result<()> {
    run.join(path).ancestors().take_while(|at| *at != run).try_for_each(refuse_link)
}

/// The entries of a directory with their types; none if it does not exist.
fn names(dir: &Path) -> Result<Vec<(String, fs::FileType)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let entry = entry.map_err(|e| io_error("listing", dir, &e))?;
        let kind = entry.file_type().map_err(|e| io_error("listing", dir, &e))?;
        found.push((entry.file_name().to_string_lossy().into_owned(), kind));
    }
    Ok(found)
}

/// Every folder of a run that contains files of rows, including folders that are links.
fn places(run: &Path, steps: &BTreeSet<String>) -> Vec<OwnedFolder> {
    fn iterations(dir: &Path, prefix: &str, ours: fn(&str) -> bool, of_a_step: bool, all: &mut Vec<OwnedFolder>) {
        // A folder that is itself a link is listed and not opened.
        all.push(OwnedFolder { dir: dir.to_owned(), ours, of_a_step });
        if is_link(dir) {
            return;
        }
        for (name, kind) in names(dir).unwrap_or_default() {
            if numbered(&name, prefix, 1, "") && (kind.is_dir() || kind.is_symlink()) {
                all.push(OwnedFolder { dir: dir.join(name), ours, of_a_step });
            }
        }
    }
    let mut all = Vec::new();
    for (top, prefix, ours) in [
        ("data/errors", "iteration-", is_errors as fn(&str) -> bool),
        ("data", "iteration=", is_microbatch),
        ("metrics", "iteration=", is_metrics),
    ] {
        let dir = run.join(top);
        if is_link(&dir) {
            all.push(OwnedFolder { dir, ours, of_a_step: true });
            continue;
        }
        for (name, kind) in names(&dir).unwrap_or_default() {
            if kind.is_dir() || kind.is_symlink() {
                iterations(&dir.join(&name), prefix, ours, is_of(steps, &name), &mut all);
            }
        }
    }
    all
}

/// Removes temporary files, and files of rows that have reflux's names and are not in `named`.
///
/// # Errors
/// A file cannot be removed.
pub(crate) fn remove_leftover_files(run: &Path, steps: &BTreeSet<String>, named: &BTreeSet<PathBuf>) -> Result<()> {
    for (name, kind) in names(run)? {
        if kind.is_file() && target_of(&name).is_some_and(is_top) {
            remove_file(&run.join(name))?;
        }
    }
    for OwnedFolder { dir, ours, of_a_step } in places(run, steps) {
        // A linked folder leads out of the run.
        if is_link(&dir) {
            continue;
        }
        for (name, kind) in names(&dir)? {
            let path = dir.join(&name);
            if !kind.is_file() || named.contains(&path) {
                continue;
            }
            // The name alone is no proof: the file may be a user's copy.
            if target_of(&name).is_some_and(ours) || (of_a_step && ours(&name) && created_by_us(&path)) {
                remove_file(&path)?;
            }
        }
    }
    Ok(())
}

/// Whether a Parquet file's footer says that reflux wrote it.
pub(crate) fn created_by_us(path: &Path) -> bool {
    read_end(path).is_ok_and(|end| end.windows(CREATED_BY.len()).any(|w| w == CREATED_BY.as_bytes()))
}

/// The last bytes of a file. A Parquet footer ends with the name of the file's writer.
fn read_end(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = open_regular(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(FOOTER_END)))?;
    let mut end = Vec::new();
    file.take(FOOTER_END).read_to_end(&mut end)?;
    Ok(end)
}

/// Removes empty directories, from `dir` up to but not including `top`.
pub(crate) fn remove_empty(dir: &Path, top: &Path) {
    for at in dir.ancestors().take_while(|at| *at != top && at.starts_with(top)) {
        // A directory that is not empty contains a user's files, and stays.
        if is_link(at) || fs::remove_dir(at).is_err() {
            return;
        }
    }
}

/// Removes a directory that reflux made. A link is removed and not followed.
pub(crate) fn remove_dir(path: &Path) -> Result<()> {
    let removed = if is_link(path) { fs::remove_file(path) } else { fs::remove_dir_all(path) };
    match removed {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io_error("removing", path, &e)),
        _ => Ok(()),
    }
}

/// Removes a file if it exists.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io_error("removing", path, &e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::pipeline_file::steps_of;
    use super::*;

    #[test]
    fn only_exact_names_are_ours() {
        let steps = steps_of("[pipeline]\nname = \"x\"\n\n[step.answers]\nop = \"generate\"\n\n[step.dpo]\n");
        assert_eq!(steps, BTreeSet::from(["answers".to_owned(), "dpo".to_owned()]));
        for ours in [
            "data/answers/iteration=1/microbatch=00003.parquet",
            "data/dpo.reference/iteration=1/microbatch=00003.parquet",
            "data/answers/iteration=1/.microbatch=00003.parquet.77-1.tmp",
            "data/errors/answers/iteration-1/microbatch-00003.parquet",
            "metrics/dpo/iteration=2/metrics.parquet",
            "models/.M2.unfinished.tmp/model.safetensors",
            "models/.M2.renamed.tmp",
            "checkpoints/dpo/iteration=1/.step=000002.tmp/trainer.json",
            ".summary.json.12-3.tmp",
        ] {
            assert!(is_leftover(ours, &steps, || true), "{ours}");
        }
        for theirs in [
            "data/answers/iteration=1/microbatch=old.parquet",
            "data/answers/iteration=1/microbatch=00003 (copy).parquet",
            "data/answers/notes/microbatch=00003.parquet",
            "data/mine/iteration=1/microbatch=00003.parquet",
            "data/answers/iteration=1/.notes.tmp",
            "data/answers/microbatch=00003.parquet",
            "metrics/mine/iteration=2/metrics.parquet",
            "models/.cache.tmp/weights",
            "models/mine/model.safetensors",
            "models/M2/model.safetensors",
            "checkpoints/dpo/iteration=1/notes.tmp",
            ".editor.tmp",
            "notes.txt",
        ] {
            assert!(!is_leftover(theirs, &steps, || true), "{theirs}");
        }
    }
}
