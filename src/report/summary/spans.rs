//! When each job of a run ran.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::data::Epoch;
use crate::dataflow::{Event, Observer};

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

/// Watches a run and keeps when each of its jobs ran.
#[derive(Default)]
pub struct Spans(Mutex<Vec<Span>>);

impl Spans {
    /// All jobs in the order in which they ended.
    pub fn all(&self) -> Vec<Span> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Observer for Spans {
    fn event(&self, event: &Event<'_>) {
        let Event::Done { step, epoch, began, busy, .. } = *event else { return };
        let span = Span { step: step.to_owned(), epoch, began, ended: began + busy };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(span);
    }
}
