//! Counts a run's microbatches as they complete.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::dataflow::{Event, Observer};

/// Counts of one step in one iteration.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepCounts {
    /// Microbatches on disk.
    pub microbatches: u64,
    /// Rows in them.
    pub rows: u64,
    /// Rows that were left out.
    pub errors: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Compute time of all jobs, summed over threads.
    pub busy: Duration,
    /// Microbatches that an earlier process had already committed.
    pub restored: u64,
    /// When this process began its first job and ended its last one, since the dataflow started. `None` if it only
    /// restored rows.
    pub span: Option<(Duration, Duration)>,
}

/// The counts of a run so far.
#[derive(Default)]
pub struct RunCounters {
    counts: Mutex<BTreeMap<(String, u32), StepCounts>>,
}

impl RunCounters {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(String, u32), StepCounts>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Returns the counts by step and iteration.
    pub fn counts(&self) -> BTreeMap<(String, u32), StepCounts> {
        self.lock().clone()
    }
}

impl Observer for RunCounters {
    fn event(&self, event: &Event<'_>) {
        let Event::Done { step, epoch, rows, errors, bytes, began, busy, restored } = *event else { return };
        let mut counts = self.lock();
        let count = counts.entry((step.to_string(), epoch.iteration)).or_default();
        count.microbatches += 1;
        count.rows += rows as u64;
        count.errors += errors as u64;
        count.bytes += bytes;
        count.busy += busy;
        count.restored += u64::from(restored);
        if !restored {
            let (first, last) = count.span.unwrap_or((began, began));
            count.span = Some((first.min(began), last.max(began + busy)));
        }
    }
}
