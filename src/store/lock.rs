//! One process at a time writes a run: an exclusive lock of the operating system on the file `lock`.
//!
//! The system releases the lock when its holder dies, however it dies, so a stale lock cannot keep anybody out. What
//! the file says (process, its start, the boot) is only for the message and for telling that the last holder died.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::atomic::io_error;
use crate::error::{Error, Result};

/// Who holds the lock.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Holder {
    pid: u32,
    /// Clock ticks from boot to the process's start, where /proc tells: process ids are used again.
    started: Option<u64>,
    /// Which boot, where /proc tells.
    boot: Option<String>,
}

impl Holder {
    fn me() -> Self {
        Self { pid: std::process::id(), started: started("/proc/self/stat"), boot: boot() }
    }

    /// Whether the process lives, as far as the system tells: another may have its number by now.
    fn lives(&self) -> bool {
        if !Path::new("/proc/self/stat").exists() {
            return true;
        }
        started(&format!("/proc/{}/stat", self.pid)) == self.started && boot() == self.boot
    }
}

/// Clock ticks from boot to a process's start: field 22, counted after the command's name, which is in parentheses and may
/// hold spaces.
fn started(stat: &str) -> Option<u64> {
    let text = std::fs::read_to_string(stat).ok()?;
    text.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}
fn boot() -> Option<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok().map(|s| s.trim().to_owned())
}

/// The process that writes the run in `dir`, if one does; the lock is not touched.
pub(super) fn writer(dir: &Path) -> Option<u32> {
    let mut text = String::new();
    File::open(dir.join("lock")).ok()?.take(4096).read_to_string(&mut text).ok()?;
    let holder: Holder = serde_json::from_str(&text).ok()?;
    holder.lives().then_some(holder.pid)
}

/// Held as long as this lives.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Lock {
    /// Takes the lock of the run in `dir`; also says who died holding it, if somebody did.
    pub fn take(dir: &Path) -> Result<(Self, Option<Holder>)> {
        let path = dir.join("lock");
        let fail = |e: &std::io::Error| io_error("locking", &path, e);
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = options.map_err(|e| fail(&e))?;
        let held = file.try_lock();
        let mut text = String::new();
        // Another process may be writing it right now; then there is no name to show.
        let _ = (&file).take(4096).read_to_string(&mut text);
        let holder = serde_json::from_str::<Holder>(&text).ok();
        match held {
            Err(TryLockError::WouldBlock) => {
                let who = holder.map_or("another process".to_owned(), |h| format!("process {}", h.pid));
                return Err(Error::user(format!("the run `{}` is being written by {who}", dir.display()))
                    .help("wait until it has ended, or run under another name with --name"));
            }
            Err(TryLockError::Error(e)) => return Err(fail(&e)),
            Ok(()) => {}
        }
        let me = serde_json::to_string(&Holder::me()).map_err(|e| Error::bug(format!("lock holder: {e}")))?;
        let write = |file: &mut File| -> std::io::Result<()> {
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(me.as_bytes())
        };
        write(&mut file).map_err(|e| fail(&e))?;
        Ok((Self(file), holder))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Empty means that the holder ended in order. The file stays: removing it would race with who opens it.
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
        let (lock, before) = Lock::take(dir.path()).unwrap();
        assert_eq!(before, None);
        let error = Lock::take(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(lock);
        assert_eq!(writer(dir.path()), None);
        let (lock, before) = Lock::take(dir.path()).unwrap();
        assert_eq!(before, None, "released in order");
        assert_eq!(writer(dir.path()), Some(std::process::id()));
        // A holder that died: the lock is gone, its name is still there.
        lock.0.unlock().unwrap();
        let (_lock, before) = Lock::take(dir.path()).unwrap();
        assert_eq!(before, Some(Holder::me()));
        // Its number belongs to a process that began at another time.
        let other = Holder { started: Some(1), ..Holder::me() };
        std::fs::write(dir.path().join("lock"), serde_json::to_string(&other).unwrap()).unwrap();
        assert_eq!(writer(dir.path()), None);
    }
}
