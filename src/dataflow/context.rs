//! Methods of [`Context`]: rows, models and random keys for a job, and its progress reports.

use std::any::Any;
use std::sync::Arc;

use arrow::array::{RecordBatch, StringArray, UInt32Array};
use arrow::compute::concat_batches;

use super::items::RngSource;
use super::joined::Joined;
use super::ledger::Output;
use super::operator::{Context, ModelAt};
use super::progress::Event;
use crate::data::{Epoch, RngKey, named};
use crate::error::{Error, Result};
use crate::pipeline::{ModelSource, Placement};
use crate::store::Run;

impl Context<'_> {
    /// The run directory.
    pub fn run(&self) -> &Run {
        &self.shared.run
    }
    /// Returns the runtime environment that the operators share.
    ///
    /// # Errors
    /// A bug: it has another type.
    pub fn env<T: Any>(&self) -> Result<&T> {
        self.shared.env.get()
    }
    /// Returns the random key of this step for a row.
    pub fn key(&self, row: &str, sample: u32) -> RngKey {
        RngSource { seed: self.shared.plan.seed, step: &self.step.name }.key(self.epoch.iteration, row, sample)
    }
    /// Whether the run is being stopped.
    pub fn cancelled(&self) -> bool {
        self.shared.stop.is_set()
    }
    /// Reports the progress of this job to the observer.
    pub fn progress(&self, done: usize, planned: usize, unit: &'static str) {
        let (step, epoch) = (self.step.name.as_str(), self.epoch);
        self.shared.observer.event(&Event::Within { step, epoch, done, planned, unit });
    }
    /// Reports the metrics of an optimizer step to the observer.
    pub fn measured(&self, values: &[(&'static str, Option<f64>)]) {
        self.shared.observer.event(&Event::Measured { step: &self.step.name, epoch: self.epoch, values });
    }
    /// Returns the iteration of an input's rows: the current one if the input runs in the loop, else 0.
    pub fn iteration_of(&self, input: &str) -> u32 {
        let step = self.shared.plan.step(input);
        if step.is_some_and(|s| s.placement != Placement::Once) { self.epoch.iteration } else { 0 }
    }
    /// Reads all rows of an input, one batch per microbatch, in order.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn whole(&self, input: &str) -> Result<RecordBatch> {
        let step = self.shared.plan.step(input);
        let step = step.ok_or_else(|| Error::bug(format!("step `{input}` is not in the plan")))?;
        let batches: Vec<RecordBatch> = self.microbatches(input).map(|b| Ok(b?.1)).collect::<Result<_>>()?;
        let schema = batches.first().map_or_else(|| step.schema.arrow(), RecordBatch::schema);
        Ok(concat_batches(&schema, &batches)?)
    }
    /// Reads the rows of an input one microbatch at a time, each with its number.
    pub fn microbatches<'a>(&'a self, input: &'a str) -> impl Iterator<Item = Result<(u32, RecordBatch)>> + 'a {
        let iteration = self.iteration_of(input);
        self.run().batches(input, Some(iteration)).map(|b| b.map(|(epoch, rows)| (epoch.microbatch, rows)))
    }
    /// Reads the rows of this and earlier iterations, at most `iterations` of them, the oldest first.
    pub fn window<'a>(
        &'a self,
        input: &'a str,
        iterations: u32,
    ) -> impl Iterator<Item = Result<(Epoch, RecordBatch)>> + 'a {
        let last = self.iteration_of(input);
        let first = (last + 1).saturating_sub(iterations.max(1)).max(last.min(1));
        (first..=last).flat_map(move |iteration| self.run().batches(input, Some(iteration)))
    }
    /// Returns the rows joined to the microbatch.
    ///
    /// # Errors
    /// A bug: the step joins nothing.
    pub fn joined(&self) -> Result<&Joined> {
        self.joined.as_ref().ok_or_else(|| Error::bug(format!("step `{}` joins nothing", self.step.name)))
    }
    /// Returns the model that a key other than `model` names; `None` if the step has no such key.
    ///
    /// # Errors
    /// A bug: the step that makes it comes first in the plan, but has not made it.
    pub fn other_model(&self, key: &str) -> Result<Option<ModelAt>> {
        let Some((_, meant)) = self.step.models.iter().find(|(k, _)| *k == key) else { return Ok(None) };
        self.shared.model_at(meant, self.model.as_ref()).map(Some)
    }
    /// Returns the source of a `[model.NAME]`.
    ///
    /// # Errors
    /// A bug: the plan has no such model.
    pub fn model_source(&self, name: &str) -> Result<&ModelSource> {
        self.shared.plan.model(name).ok_or_else(|| Error::bug(format!("model `{name}` is not in the plan")))
    }
    /// Returns the announcement of a model that this step has committed.
    ///
    /// # Errors
    /// A bug: the model is not committed.
    pub fn announce(&self, name: &str) -> Result<Output> {
        let entry = self.run().model(name).ok_or_else(|| Error::bug(format!("model `{name}` is not committed")))?;
        let text = |s: &str| Arc::new(StringArray::from(vec![s])) as _;
        let version: UInt32Array = vec![self.epoch.iteration + 1].into();
        let columns = vec![text(&entry.name), text(&entry.path), text(&entry.hash), Arc::new(version) as _];
        Ok(named::MODELS.batch(columns)?.into())
    }
}
