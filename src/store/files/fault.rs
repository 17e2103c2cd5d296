//! Named points at which a test makes the store fail, compiled in always and inert unless asked for.
//!
//! `REFLUX_FAULT=POINT` aborts the process the first time the point is reached, `POINT:3` the third time; no
//! destructor runs, as in a power cut. [`DISK_FULL`] is the exception: from the chosen moment on, writing a file
//! fails as it does on a full disk, and the process lives on. Within one process, [`arm`] makes a point of the
//! calling thread return an error instead.

use std::cell::RefCell;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// The bytes are handed to the system, not yet on the disk.
pub const AFTER_WRITE: &str = "after-write";
/// The bytes are on the disk under the temporary name.
pub const AFTER_FSYNC: &str = "after-fsync";
/// The file has its name, the directory is not yet on the disk.
pub const AFTER_RENAME: &str = "after-rename";
/// The file is durable, the manifest does not name it.
pub const BEFORE_MANIFEST: &str = "before-manifest";
/// Half of the manifest's line is written.
pub const MID_MANIFEST: &str = "mid-manifest";
/// The manifest's line is durable, nobody has been told.
pub const AFTER_MANIFEST: &str = "after-manifest";
/// A model's files are durable under the temporary name.
pub const MODEL_BEFORE_RENAME: &str = "model-before-rename";
/// A model has its name, the manifest does not name it.
pub const MODEL_AFTER_RENAME: &str = "model-after-rename";
/// The files of a training's state are durable under the temporary name.
pub const CHECKPOINT_BEFORE_RENAME: &str = "checkpoint-before-rename";
/// A training's state has its name, the one before is still there.
pub const CHECKPOINT_AFTER_RENAME: &str = "checkpoint-after-rename";
/// Writing a file fails for want of space.
pub const DISK_FULL: &str = "disk-full";

/// Every point that kills; [`DISK_FULL`] is not among them.
pub const POINTS: &[&str] = &[
    AFTER_WRITE,
    AFTER_FSYNC,
    AFTER_RENAME,
    BEFORE_MANIFEST,
    MID_MANIFEST,
    AFTER_MANIFEST,
    MODEL_BEFORE_RENAME,
    MODEL_AFTER_RENAME,
    CHECKPOINT_BEFORE_RENAME,
    CHECKPOINT_AFTER_RENAME,
];

/// What `REFLUX_FAULT` asks for: the point, and how often it is passed before it fails.
fn wanted() -> Option<&'static (String, u64)> {
    static WANTED: OnceLock<Option<(String, u64)>> = OnceLock::new();
    WANTED
        .get_or_init(|| {
            let text = std::env::var("REFLUX_FAULT").ok()?;
            let (name, nth) = text.split_once(':').unwrap_or((&text, "1"));
            Some((name.to_owned(), nth.parse().unwrap_or(1)))
        })
        .as_ref()
}

thread_local! {
    static ARMED: RefCell<Option<(&'static str, u64)>> = const { RefCell::new(None) };
}

/// Disarms the calling thread's point when dropped.
#[must_use = "the point is disarmed when this is dropped"]
pub struct FailpointGuard(());
impl Drop for FailpointGuard {
    fn drop(&mut self) {
        ARMED.with_borrow_mut(|a| *a = None);
    }
}

/// Makes `point` fail with an error on this thread, from the `nth` time on that it is reached (counted from 1).
pub fn arm(point: &'static str, nth: u64) -> FailpointGuard {
    ARMED.with_borrow_mut(|a| *a = Some((point, nth)));
    FailpointGuard(())
}

fn armed(point: &str) -> bool {
    ARMED.with_borrow_mut(|a| match a {
        Some((name, nth)) if *name == point => {
            *nth = nth.saturating_sub(1);
            *nth == 0
        }
        _ => false,
    })
}

/// How often the process has come past the point that `REFLUX_FAULT` names.
static PASSED: AtomicU64 = AtomicU64::new(0);

/// Whether to fail at `point` now; counts the visit.
fn due(point: &str) -> bool {
    match wanted() {
        Some((name, nth)) if name == point => PASSED.fetch_add(1, Ordering::Relaxed) + 1 >= *nth,
        _ => false,
    }
}

/// To be called before the half-way write of a manifest line: whether to stop half-way.
pub(crate) fn cuts(point: &str) -> bool {
    due(point) || armed(point)
}

/// Dies if this is the chosen moment; the second half of [`cuts`].
pub(crate) fn die(point: &str) -> Result<()> {
    if wanted().is_some_and(|(name, _)| name == point) {
        std::process::abort();
    }
    Err(Error::system(format!("fault injected at `{point}`")))
}

/// Passes a point: nothing happens unless it was chosen.
pub(crate) fn point(name: &'static str) -> Result<()> {
    if cuts(name) { die(name) } else { Ok(()) }
}

/// Stands in front of every write of a file.
pub(crate) fn disk_full() -> io::Result<()> {
    if cuts(DISK_FULL) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
}
