//! What those who watch a run are told: the progress bars, the trace, the tests.

use std::time::Duration;

use arrow::array::RecordBatch;

use crate::data::Epoch;

/// One thing that happened.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// A step of an iteration is known to have so many microbatches (none if unknown yet).
    Planned {
        /// The step.
        step: &'a str,
        /// Iterations it runs in.
        iterations: u32,
        /// Microbatches in each.
        microbatches: Option<u32>,
    },
    /// A job began.
    Started {
        /// The step.
        step: &'a str,
        /// When in the run's clock.
        epoch: Epoch,
    },
    /// How far a long job is.
    Within {
        /// The step.
        step: &'a str,
        /// When in the run's clock.
        epoch: Epoch,
        /// Units done.
        done: usize,
        /// Units in all.
        planned: usize,
        /// What is counted.
        unit: &'static str,
    },
    /// What a training measured at an optimizer step, with the names of its metrics.
    Measured {
        /// The step.
        step: &'a str,
        /// When in the run's clock.
        epoch: Epoch,
        /// Names and values.
        values: &'a [(&'static str, Option<f64>)],
    },
    /// Rows that were made now are on disk; [`Event::Done`] of the same microbatch follows. Restored rows are not read.
    Rows {
        /// The step.
        step: &'a str,
        /// When in the run's clock.
        epoch: Epoch,
        /// The rows.
        rows: &'a RecordBatch,
    },
    /// A source that was asked for a microbatch has no more of them.
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
        /// When in the run's clock.
        epoch: Epoch,
        /// Rows written.
        rows: usize,
        /// Rows that were left out.
        errors: usize,
        /// Bytes on disk.
        bytes: u64,
        /// From the run's start to the job's start.
        began: Duration,
        /// How long it took; what a streaming training waits for its microbatches is counted.
        busy: Duration,
        /// Whether an earlier run had committed it, so that nothing was computed.
        restored: bool,
    },
}

impl<'a> Event<'a> {
    /// The step that it is about.
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

/// Somebody who watches. Called from compute threads; must not block.
pub trait Observer: Send + Sync {
    /// Takes an event.
    fn event(&self, event: &Event<'_>);
}

/// Nobody.
pub struct Silent;
impl Observer for Silent {
    fn event(&self, _: &Event<'_>) {}
}
