//! The flag by which a run, a generation or a training is stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A flag that many threads share and any of them may set. Cloning is cheap.
///
/// ```
/// let flag = reflux::cancel::CancelFlag::new();
/// let other = flag.clone();
/// other.set();
/// assert!(flag.is_set());
/// ```
#[derive(Clone, Debug, Default)]
pub struct CancelFlag(Arc<AtomicBool>);

impl CancelFlag {
    /// A flag that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks everybody who holds the flag to stop.
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether somebody asked for a stop.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
