//! Events of a run for its observers: progress bars, the trace, tests.

use std::time::Duration;

use arrow::array::RecordBatch;

use crate::data::Epoch;

/// An event of a run.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// The number of microbatches of a step in an iteration is known (`None` if it is not known yet).
    Planned {
        /// The step.
        step: &'a str,
        /// Number of iterations it runs in.
        iterations: u32,
        /// Number of microbatches in each.
        microbatches: Option<u32>,
    },
    /// A job started.
    Started {
        /// The step.
        step: &'a str,
        /// Its time.
        epoch: Epoch,
    },
    /// Progress of a long job.
    Within {
        /// The step.
        step: &'a str,
        /// Its time.
        epoch: Epoch,
        /// Units done.
        done: usize,
        /// Units in total.
        planned: usize,
        /// What the units are.
        unit: &'static str,
    },
    /// Metrics of an optimizer step of a training.
    Measured {
        /// The step.
        step: &'a str,
        /// Its time.
        epoch: Epoch,
        /// Names and values of the metrics.
        values: &'a [(&'static str, Option<f64>)],
    },
    /// New rows are on disk. [`Event::Done`] of the same microbatch follows. Restored rows are not
    /// reported.
    Rows {
        /// The step.
        step: &'a str,
        /// Their time.
        epoch: Epoch,
        /// The rows.
        rows: &'a RecordBatch,
    },
    /// A source has no more microbatches.
    Ended {
        /// The step.
        step: &'a str,
        /// The first microbatch past the end, or a later one.
        epoch: Epoch,
    },
    /// A job ended and its rows are on disk.
    Done {
        /// The step.
        step: &'a str,
        /// Its time.
        epoch: Epoch,
        /// Number of rows written.
        rows: usize,
        /// Number of rows left out.
        errors: usize,
        /// Bytes on disk.
        bytes: u64,
        /// Time from the start of the run to the start of the job.
        began: Duration,
        /// Duration of the job, including a streaming training's waiting time for its microbatches.
        busy: Duration,
        /// Whether an earlier run committed the microbatch, so that nothing was computed.
        restored: bool,
    },
}

impl<'a> Event<'a> {
    /// Returns the step of the event.
    pub fn step(&self) -> &'a str {
        match *self {
            Event::Planned { step, .. }
            | Event::Started { step, .. }
            | Event::Within { step, .. }
            | Event::Measured { step, .. }
            | Event::Rows { step, .. }
            | Event::Ended { step, .. }
            | Event::Done { step, .. } => step,
        }
    }
}

/// Receives the events of a run. It is called from compute threads and must not block.
pub trait Observer: Send + Sync {
    /// Receives an event.
    fn event(&self, event: &Event<'_>);
}

/// An observer that ignores all events.
pub struct NullObserver;
impl Observer for NullObserver {
    fn event(&self, _: &Event<'_>) {}
}
