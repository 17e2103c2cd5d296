//! Records when each job of a run ran.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reflux::data::Epoch;
use reflux::dataflow::{Event, Observer};

/// Start and end of a job, relative to the start of the run.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// The step.
    pub step: String,
    /// The microbatch.
    pub epoch: Epoch,
    /// When the job started.
    pub began: Duration,
    /// When the job ended.
    pub ended: Duration,
}

/// Observes a run and records when each job ran.
#[derive(Default)]
pub struct Spans(Mutex<Vec<Span>>);

impl Spans {
    /// Returns all jobs in the order in which they ended.
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
