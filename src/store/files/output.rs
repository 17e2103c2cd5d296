//! Temporary files next to an output that a user names, and removal of those that dead processes left.
//!
//! Such a file has a name that only reflux gives, and its writer holds the operating system's lock on it. The
//! system releases the lock when the process ends, for whatever reason, so an unlocked file has no writer any
//! more. Process ids would not work across containers or machines.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::same_file::is_same_file;

/// Marker between the output's name and the unique part of a temporary name.
const MARK: &str = ".reflux-";
/// Suffix of a temporary name.
const TEMPORARY: &str = ".tmp";
/// Maximum number of names to try. Another process that looks for abandoned files may find a new one before
/// it is locked.
const TRIES: u32 = 20;

/// Whether a name is one that [`create`] gives: `.TARGET.reflux-PID-N.tmp`.
fn is_temporary_output(name: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let inner = name.strip_prefix('.').and_then(|name| name.strip_suffix(TEMPORARY));
    let Some((target, unique)) = inner.and_then(|inner| inner.rsplit_once(MARK)) else { return false };
    !target.is_empty() && unique.split_once('-').is_some_and(|(pid, number)| digits(pid) && digits(number))
}

/// Creates a temporary file in `dir` for the output `name`, locked while it is open.
pub(crate) fn create(dir: &Path, name: &str) -> io::Result<(PathBuf, File)> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    for _ in 0..TRIES {
        let unique = COUNTER.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!(".{name}{MARK}{}-{unique}{TEMPORARY}", std::process::id()));
        let file = match OpenOptions::new().write(true).create_new(true).open(&path) {
            // A process with the same id, in another container, has this file.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
            other => other?,
        };
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => continue,
            // On a file system without locks, no process can take the file for abandoned either.
            Err(TryLockError::Error(_)) => return Ok((path, file)),
            Ok(()) => {}
        }
        // Another process may have removed the file before it was locked.
        match (file.metadata(), fs::symlink_metadata(&path)) {
            (Ok(ours), Ok(there)) if is_same_file(&ours, &there) => return Ok((path, file)),
            _ => continue,
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, "no name for a temporary file is free"))
}

/// Removes temporary files of dead processes from `dir`. Errors are ignored: a file that cannot be removed
/// stays.
pub(crate) fn remove_abandoned(dir: &Path) {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let regular = entry.file_type().is_ok_and(|kind| kind.is_file());
        if !regular || !entry.file_name().to_str().is_some_and(is_temporary_output) {
            continue;
        }
        let Ok(file) = OpenOptions::new().write(true).open(entry.path()) else { continue };
        if file.try_lock().is_ok() {
            tracing::debug!(path = ?entry.path(), "left by a process that died: removed");
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_writes_any_more_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let (held, file) = create(dir.path(), "out.parquet").unwrap();
        let theirs = [".out.parquet.1-0.tmp", ".x.tmp", "out.reflux-1-0.tmp", ".reflux-1-0.tmp", ".out.reflux-1-x.tmp"];
        for name in theirs.iter().chain(&[".out.parquet.reflux-1-0.tmp", ".other.reflux-99-7.tmp"]) {
            fs::write(at(name), "half").unwrap();
        }
        fs::create_dir(at(".folder.reflux-1-0.tmp")).unwrap();
        remove_abandoned(dir.path());
        assert!(!at(".out.parquet.reflux-1-0.tmp").exists() && !at(".other.reflux-99-7.tmp").exists());
        assert!(held.exists(), "its writer lives");
        assert!(at(".folder.reflux-1-0.tmp").exists(), "a folder is somebody else's");
        assert!(theirs.iter().all(|name| at(name).exists()));
        drop(file);
        remove_abandoned(dir.path());
        assert!(!held.exists(), "its writer has ended");
    }
}
