//! Folders outside of a run's manifest that are created atomically.

use std::fs;
use std::path::Path;

use arrow::array::RecordBatch;

use super::entry::Stored;
use super::fork::sync_dirs;
use super::lock::{Lock, writer};
use super::owned::remove_dir;
use super::paths::{data_path, errors_path};
use crate::data::Epoch;
use crate::error::{Error, Result};
use crate::store::files::atomic::{create_dirs, sync_dir};
use crate::store::files::io_error::io_error;
use crate::store::files::writer::write_parquet;

/// Creates the folder `target` atomically: `fill` writes into an empty folder next to it, which is then
/// renamed. What a dead process left there is removed first.
///
/// # Errors
/// The folder exists; another process is creating it; `fill` failed; the disk is full.
pub fn make_folder<T>(target: &Path, fill: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let name = target.file_name().and_then(|n| n.to_str());
    let name = name.ok_or_else(|| Error::user(format!("`{}` does not name a folder", target.display())))?;
    let there = || {
        Error::user(format!("`{}` is there already", target.display()))
            .help("give another folder with --into, or remove it")
    };
    if fs::symlink_metadata(target).is_ok() {
        return Err(there());
    }
    let parent = target.parent().unwrap_or(Path::new(""));
    let temporary = parent.join(format!(".{name}.tmp"));
    if let Some(who) = writer(&temporary) {
        return Err(Error::user(format!("`{}` is being made by {who}", target.display()))
            .help("wait until it has ended, or give another folder with --into"));
    }
    create_dirs(&temporary)?;
    // Other processes see from the lock whether the temporary folder is in use or left over.
    let (lock, _) = Lock::acquire(&temporary)?;
    let inside = temporary.join("new");
    let made = remove_dir(&inside).and_then(|()| create_dirs(&inside)).and_then(|()| fill(&inside));
    // Files are durable when they get their names; the names become durable here.
    let made = made.and_then(|made| sync_dirs(&inside).map(|()| made)).and_then(|made| {
        let renamed = fs::rename(&inside, target);
        renamed.map(|()| made).map_err(|e| {
            if fs::symlink_metadata(target).is_ok() { there() } else { io_error("renaming to", target, &e) }
        })
    });
    let made = made.and_then(|made| sync_dir(parent).map(|()| made));
    drop(lock);
    let _ = fs::remove_dir_all(&temporary); // the result at hand says more than an error of this
    made
}

/// Writes a microbatch of a step, and its failed rows if any, below `dir` under the names that they have in a
/// run.
///
/// # Errors
/// A full disk.
pub fn put_microbatch(
    dir: &Path,
    step: &str,
    epoch: Epoch,
    rows: &RecordBatch,
    errors: &RecordBatch,
) -> Result<Stored> {
    if errors.num_rows() > 0 {
        write_parquet(&dir.join(errors_path(step, epoch)), errors)?;
    }
    let path = data_path(step, epoch);
    let written = write_parquet(&dir.join(&path), rows)?;
    Ok(Stored::new(path, written))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let parent = dir.path().join("x");
        let target = parent.join("new");
        let write = |d: &Path| fs::write(d.join("a"), "1").map_err(|e| Error::system(e.to_string()));
        let names = || fs::read_dir(&parent).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
        assert!(make_folder(&target, |d| write(d).and_then(|()| Err::<(), _>(Error::user("no")))).is_err());
        assert!(names().is_empty());
        // What a process that was killed left is not taken over.
        fs::create_dir_all(parent.join(".new.tmp/new")).unwrap();
        fs::write(parent.join(".new.tmp/new/half"), "?").unwrap();
        fs::write(parent.join(".new.tmp/lock"), "").unwrap();
        make_folder(&target, write).unwrap();
        assert_eq!(names(), ["new"]);
        assert_eq!(fs::read_dir(&target).unwrap().count(), 1);
        assert!(make_folder(&target, write).unwrap_err().to_string().contains("there already"));
        assert_eq!(names(), ["new"]);
        // Two at once: the second is told.
        let other = parent.join("other");
        let within = |_: &Path| {
            let error = make_folder(&other, write).unwrap_err().to_string();
            assert!(error.contains(&format!("being made by process {}", std::process::id())), "{error}");
            Ok(())
        };
        make_folder(&other, within).unwrap();
    }
}
