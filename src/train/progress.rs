//! [`Progress`]: follows a training, and may stop it.

use super::checkpoint::Checkpoints;
use super::metrics::StepMetrics;
use crate::error::Result;

/// Who is told how training goes, and may stop it.
pub trait Progress {
    /// Step `done` of `total` is over.
    ///
    /// # Errors
    /// An error stops training and is returned, [`Error::cancelled`](crate::error::Error::cancelled) say; the weights
    /// are those after this step.
    fn step(&mut self, metrics: &StepMetrics, done: usize, total: usize) -> Result<()>;

    /// The metrics of all steps so far, after each step. Those of the step that is over have what was measured after it.
    ///
    /// # Errors
    /// As [`Progress::step`].
    fn recorded(&mut self, metrics: &[StepMetrics]) -> Result<()> {
        let _ = metrics;
        Ok(())
    }

    /// A forward of that many rows is about to run; a step of a large batch has several.
    ///
    /// # Errors
    /// An error stops training and is returned; the weights are those after the last whole step.
    fn forward(&mut self, rows: usize) -> Result<()> {
        let _ = rows;
        Ok(())
    }

    /// Where the training keeps its state and finds it again, if it is to.
    fn checkpoints(&mut self) -> Option<&mut dyn Checkpoints> {
        None
    }
}

/// Tells nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quiet;
impl Progress for Quiet {
    fn step(&mut self, _: &StepMetrics, _: usize, _: usize) -> Result<()> {
        Ok(())
    }
}

impl<F: FnMut(&StepMetrics, usize, usize) -> Result<()>> Progress for F {
    fn step(&mut self, metrics: &StepMetrics, done: usize, total: usize) -> Result<()> {
        self(metrics, done, total)
    }
}
