//! [`Progress`]: follows a training, and may stop it.

use super::checkpoint::Checkpoints;
use super::metrics::StepMetrics;
use crate::error::Result;

/// Follows a training, and may stop it.
pub trait Progress {
    /// Called after step `done` of `total`.
    ///
    /// # Errors
    /// An error, for example [`Error::cancelled`](crate::error::Error::cancelled), stops the training and is
    /// returned. The weights are those after this step.
    fn step(&mut self, metrics: &StepMetrics, done: usize, total: usize) -> Result<()>;

    /// Called after each step with the metrics of all steps so far, including the validation after the last one.
    ///
    /// # Errors
    /// As [`Progress::step`].
    fn recorded(&mut self, metrics: &[StepMetrics]) -> Result<()> {
        let _ = metrics;
        Ok(())
    }

    /// Called before a forward of this many rows. A step of a large batch has several forwards.
    ///
    /// # Errors
    /// An error stops the training and is returned. The weights are those after the last complete step.
    fn forward(&mut self, rows: usize) -> Result<()> {
        let _ = rows;
        Ok(())
    }

    /// The store of the training's checkpoints, if it has one.
    fn checkpoints(&mut self) -> Option<&mut dyn Checkpoints> {
        None
    }
}

/// Reports nothing.
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
