//! Locks of a run: one process at a time may write it. The file `lock` carries the operating system's
//! exclusive lock; a replay that reads the run takes the lock shared.
//!
//! The system releases the lock when its holder dies, for whatever reason, so a stale lock cannot exist, and
//! only the system knows whether the lock is held. The process id in the file serves the message alone: in
//! another PID namespace, or on another machine, it means nothing.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::owned::refuse_link;
use crate::data::{open_regular, quoted};
use crate::error::{Error, Result};
use crate::store::files::io_error::io_error;
use crate::store::files::same_file::is_same_file;

/// Holder of the lock, as stated in the file. Earlier versions also wrote the start time of the process.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Holder {
    pid: u32,
}

impl Holder {
    fn me() -> Self {
        Self { pid: std::process::id() }
    }
}

/// Number of attempts to acquire a lock. A process that only checks whether it is held has it for a moment.
const TRIES: u32 = 20;
/// Time between two attempts.
const PAUSE: Duration = Duration::from_millis(5);

/// A process that writes a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Writer {
    /// Its process id, if the lock file has one.
    pub pid: Option<u32>,
}

impl std::fmt::Display for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "process {pid}"),
            None => f.write_str("another process"),
        }
    }
}

fn holder(file: &File) -> Option<Holder> {
    let mut text = String::new();
    // Another process may be writing the file at this moment; its id is unknown then.
    let _ = file.take(4096).read_to_string(&mut text);
    serde_json::from_str(&text).ok()
}

/// The process that writes the run in `dir`, if one does.
pub(crate) fn writer(dir: &Path) -> Option<Writer> {
    let path = dir.join("lock");
    refuse_link(&path).ok()?;
    let file = open_regular(&path).ok()?;
    // The lock is released at once; a process that wants to write meanwhile retries.
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => Some(Writer { pid: holder(&file).map(|h| h.pid) }),
        _ => None,
    }
}

/// Tries to acquire a lock several times.
fn retry_lock(attempt: impl Fn() -> Result<(), TryLockError>) -> Result<(), TryLockError> {
    for _ in 1..TRIES {
        match attempt() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
            other => return other,
        }
    }
    attempt()
}

/// Replaces the content of the lock file.
fn write_holder(file: &mut File, text: &str) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(text.as_bytes())
}

fn held_by_another(dir: &Path, file: &File) -> Error {
    let message = match holder(file) {
        Some(holder) => format!("the run `{}` is being written by process {}", dir.display(), holder.pid),
        None => format!("the run `{}` is being written or replayed by another process", dir.display()),
    };
    Error::user(message).help("wait until it has ended, or run under another name with --name")
}

/// The exclusive lock, held until this is dropped.
#[derive(Debug)]
pub(crate) struct Lock(File);

/// The shared lock, held until this is dropped. No process writes the run meanwhile.
#[derive(Debug)]
pub(crate) struct SharedLock {
    _file: Option<File>,
}

impl SharedLock {
    /// Acquires the lock of the run in `dir` for reading. A run without a lock file, on a read-only disk, is
    /// read without a lock.
    ///
    /// # Errors
    /// Another process writes the run.
    pub fn acquire(dir: &Path) -> Result<Self> {
        let path = dir.join("lock");
        refuse_link(&path)?;
        let there = open_regular(&path);
        let file =
            there.or_else(|_| OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path));
        let Ok(file) = file else { return Ok(Self { _file: None }) };
        match retry_lock(|| file.try_lock_shared()) {
            Err(TryLockError::WouldBlock) => Err(held_by_another(dir, &file)),
            Err(TryLockError::Error(e)) => Err(io_error("locking", &path, &e)),
            Ok(()) => Ok(Self { _file: Some(file) }),
        }
    }
}

impl Lock {
    /// Acquires the lock of the run in `dir`. Also returns the previous holder, if it died.
    pub fn acquire(dir: &Path) -> Result<(Self, Option<Holder>)> {
        let path: PathBuf = dir.join("lock");
        refuse_link(&path)?;
        if std::fs::metadata(&path).is_ok_and(|there| !there.is_file()) {
            return Err(Error::user(format!("`{}` is not a regular file", path.display()))
                .help(format!("`reflux verify {} --repair` puts it out of the way", quoted(&dir.to_string_lossy()))));
        }
        let fail = |e: &std::io::Error| io_error("locking", &path, e);
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = options.map_err(|e| fail(&e))?;
        match retry_lock(|| file.try_lock()) {
            Err(TryLockError::WouldBlock) => return Err(held_by_another(dir, &file)),
            Err(TryLockError::Error(e)) => return Err(fail(&e)),
            Ok(()) => {}
        }
        // A holder that ended in order has emptied the file. One that is still named there has died.
        let holder = holder(&file);
        let me = serde_json::to_string(&Holder::me()).map_err(|e| Error::bug(format!("lock holder: {e}")))?;
        // Written while the lock is held, so the id is that of the holder or of a dead process.
        write_holder(&mut file, &me).map_err(|e| fail(&e))?;
        Ok((Self(file), holder))
    }
}

impl Lock {
    /// Checks that the lock still belongs to the run in `dir`: the directory may have been moved away, and
    /// another run begun in its place.
    ///
    /// # Errors
    /// The lock file is another one, or gone.
    pub fn check_place(&self, dir: &Path) -> Result<()> {
        let path = dir.join("lock");
        let same = match (self.0.metadata(), std::fs::symlink_metadata(&path)) {
            (Ok(held), Ok(there)) => is_same_file(&held, &there),
            _ => false,
        };
        if same {
            return Ok(());
        }
        Err(Error::system(format!("the directory `{}` was moved or replaced while this process wrote the run", dir.display()))
            .help("nothing was written into what is there now; move the run back and give the same command again to go on with it"))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // An empty file means that the holder ended in order. The file stays, because removing it would race
        // with a process that opens it.
        let _ = self.0.set_len(0);
        let _ = self.0.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let (lock, before) = Lock::acquire(dir.path()).unwrap();
        assert_eq!(before, None);
        let error = Lock::acquire(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(lock);
        assert_eq!(writer(dir.path()), None);
        let (lock, before) = Lock::acquire(dir.path()).unwrap();
        assert_eq!(before, None, "released in order");
        assert_eq!(writer(dir.path()), Some(Writer { pid: Some(std::process::id()) }));
        // A holder that died: the lock is gone, its name is still there.
        lock.0.unlock().unwrap();
        assert_eq!(writer(dir.path()), None);
        let (_lock, before) = Lock::acquire(dir.path()).unwrap();
        assert_eq!(before, Some(Holder::me()));
    }

    /// The command that is proposed works when it is typed, whatever the directory is called.
    #[test]
    fn a_command_that_is_proposed_quotes_the_directory() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("my runs");
        std::fs::create_dir_all(dir.join("lock")).unwrap();
        let error = Lock::acquire(&dir).unwrap_err();
        let help = error.help_text().unwrap();
        assert!(help.contains(&format!("`reflux verify '{}' --repair`", dir.display())), "{help}");
    }

    #[test]
    fn only_the_system_knows_whether_the_lock_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        // A process that lives, by its number, and does not hold the lock; and what an earlier version wrote.
        for text in [
            format!("{{\"pid\":{}}}", std::process::id()),
            format!("{{\"pid\":{},\"started\":null,\"boot\":null}}", std::process::id()),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(writer(dir.path()), None);
            let (lock, before) = Lock::acquire(dir.path()).unwrap();
            assert_eq!(before, Some(Holder::me()));
            // Held, by a process of another namespace: its number is not one of ours.
            std::fs::write(&path, "{\"pid\":4294967295}").unwrap();
            assert_eq!(writer(dir.path()), Some(Writer { pid: Some(u32::MAX) }));
            std::fs::write(&path, "").unwrap();
            assert_eq!(writer(dir.path()), Some(Writer { pid: None }));
            drop(lock);
        }
    }

    #[test]
    fn readers_share_the_lock_and_keep_writers_out() {
        let dir = tempfile::tempdir().unwrap();
        let first = SharedLock::acquire(dir.path()).unwrap();
        let second = SharedLock::acquire(dir.path()).unwrap();
        assert_eq!(writer(dir.path()), None);
        assert!(Lock::acquire(dir.path()).unwrap_err().to_string().contains("replayed by another process"));
        drop((first, second));
        let _lock = Lock::acquire(dir.path()).unwrap();
        assert!(SharedLock::acquire(dir.path()).unwrap_err().to_string().contains("is being written by process"));
    }
}
