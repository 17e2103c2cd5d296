//! Counts a run's microbatches as they happen, and keeps when each job ran.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::data::Epoch;
use crate::dataflow::{Event, Observer};

/// Counts of one step in one iteration.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Count {
    /// Microbatches on disk.
    pub microbatches: u64,
    /// Rows in them.
    pub rows: u64,
    /// Rows that were left out.
    pub errors: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Time that jobs took, summed over threads.
    pub busy: Duration,
    /// Microbatches that an earlier run had committed.
    pub restored: u64,
}

/// When a job ran, since the run's start.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// The step.
    pub step: String,
    /// The microbatch.
    pub epoch: Epoch,
    /// Start.
    pub began: Duration,
    /// End.
    pub ended: Duration,
}

/// The counts so far.
#[derive(Default)]
pub struct Tally {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    counts: BTreeMap<(String, u32), Count>,
    spans: Vec<Span>,
}

impl Tally {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// By step and iteration.
    pub fn counts(&self) -> BTreeMap<(String, u32), Count> {
        self.state().counts.clone()
    }
    /// All jobs in the order in which they ended.
    pub fn spans(&self) -> Vec<Span> {
        self.state().spans.clone()
    }
}

impl Observer for Tally {
    fn event(&self, event: &Event<'_>) {
        let Event::Done { step, epoch, rows, errors, bytes, began, busy, restored } = *event else { return };
        let mut state = self.state();
        let count = state.counts.entry((step.to_string(), epoch.iteration)).or_default();
        count.microbatches += 1;
        count.rows += rows as u64;
        count.errors += errors as u64;
        count.bytes += bytes;
        count.busy += busy;
        count.restored += u64::from(restored);
        state.spans.push(Span { step: step.to_string(), epoch, began, ended: began + busy });
    }
}
