//! Failpoints: named points at which a test makes the store fail. They are always compiled in and do nothing
//! unless requested.
//!
//! `REFLUX_FAULT=POINT` aborts the process the first time the point is reached, `POINT:3` the third time. No
//! destructor runs, as in a power cut. [`DISK_FULL`] is the exception: from the chosen moment on, writes fail
//! as on a full disk, and the process continues. Within one process, [`arm`] makes a point of the calling
//! thread return an error instead.

use std::cell::RefCell;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// The bytes are written, but not synced.
pub const AFTER_WRITE: &str = "after-write";
/// The bytes are synced under the temporary name.
pub const AFTER_FSYNC: &str = "after-fsync";
/// The file has its final name, but the directory is not synced.
pub const AFTER_RENAME: &str = "after-rename";
/// The file is durable, but the manifest does not list it.
pub const BEFORE_MANIFEST: &str = "before-manifest";
/// Half of the manifest's line is written.
pub const MID_MANIFEST: &str = "mid-manifest";
/// The manifest's line is durable, but the caller does not know yet.
pub const AFTER_MANIFEST: &str = "after-manifest";
/// A model's files are durable under the temporary name.
pub const MODEL_BEFORE_RENAME: &str = "model-before-rename";
/// A model has its final name, but the manifest does not list it.
pub const MODEL_AFTER_RENAME: &str = "model-after-rename";
/// A checkpoint's files are durable under the temporary name.
pub const CHECKPOINT_BEFORE_RENAME: &str = "checkpoint-before-rename";
/// A checkpoint has its final name, and the previous one still exists.
pub const CHECKPOINT_AFTER_RENAME: &str = "checkpoint-after-rename";
/// Writes fail for lack of space.
pub const DISK_FULL: &str = "disk-full";

/// Every point that aborts the process: all but [`DISK_FULL`].
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

/// The point that `REFLUX_FAULT` requests, and the visit on which it fails.
fn requested() -> Option<&'static (String, u64)> {
    static REQUESTED: OnceLock<Option<(String, u64)>> = OnceLock::new();
    REQUESTED
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

/// Makes `point` return an error on this thread, from its `nth` visit on (counted from 1).
pub fn arm(point: &'static str, nth: u64) -> FailpointGuard {
    ARMED.with_borrow_mut(|a| *a = Some((point, nth)));
    FailpointGuard(())
}

fn is_armed(point: &str) -> bool {
    ARMED.with_borrow_mut(|a| match a {
        Some((name, nth)) if *name == point => {
            *nth = nth.saturating_sub(1);
            *nth == 0
        }
        _ => false,
    })
}

/// Number of visits to the point that `REFLUX_FAULT` requests.
static VISITS: AtomicU64 = AtomicU64::new(0);

/// Counts a visit and returns whether to fail now.
fn is_due(point: &str) -> bool {
    match requested() {
        Some((name, nth)) if name == point => VISITS.fetch_add(1, Ordering::Relaxed) + 1 >= *nth,
        _ => false,
    }
}

/// Whether to fail at `point` now. The writer of manifest lines asks before it writes half a line.
pub(crate) fn should_fail(point: &str) -> bool {
    is_due(point) || is_armed(point)
}

/// Aborts the process, or returns the error of an armed point. To be called after [`should_fail`].
pub(crate) fn fail(point: &str) -> Result<()> {
    if requested().is_some_and(|(name, _)| name == point) {
        std::process::abort();
    }
    Err(Error::system(format!("fault injected at `{point}`")))
}

/// Visits a point. Does nothing unless the point was requested.
pub(crate) fn point(name: &'static str) -> Result<()> {
    if should_fail(name) { fail(name) } else { Ok(()) }
}

/// Called before every write of a file.
pub(crate) fn disk_full() -> io::Result<()> {
    if should_fail(DISK_FULL) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
}
