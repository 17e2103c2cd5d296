//! The loop of all trainings around their steps: metrics, progress, validation, checkpoints, and resuming from one.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::Write;

use candle_core::Tensor;

use super::checkpoint::Checkpoint;
use super::metrics::{StepMetrics, Trained};
use super::progress::Progress;
use super::rows::Problem;
use super::trainer::Trainer;
use super::validation::{Evaluate, KeepWeights, ValidationRules};
use crate::error::{Error, ErrorKind, Result};
use crate::model::Llama;

/// A hash of a training's rows in their order.
#[derive(Default)]
pub(super) struct DataFingerprint {
    pub rows: usize,
    hasher: blake3::Hasher,
}

impl DataFingerprint {
    pub fn from_rows(rows: impl IntoIterator<Item = impl Debug>) -> Result<Self> {
        let mut seen = Self::default();
        rows.into_iter().try_for_each(|row| seen.add(&row))?;
        Ok(seen)
    }
    pub fn add(&mut self, row: &impl Debug) -> Result<()> {
        self.rows += 1;
        // `Debug` writes every field, floats exactly.
        writeln!(self.hasher, "{row:?}")?;
        Ok(())
    }
    pub fn hash(&self) -> String {
        self.hasher.finalize().to_hex().to_string()
    }
}

/// A running training.
pub(super) struct TrainingLoop<'a, 'p> {
    llama: &'a Llama,
    pub trainer: Trainer<'a>,
    pub progress: &'p mut dyn Progress,
    /// The rows so far; checkpoints store their hash.
    pub seen: DataFingerprint,
    settings: String,
    metrics: Vec<StepMetrics>,
    validation: Option<(ValidationRules, Evaluate<'a>)>,
    /// The best weights so far, if the training keeps the best.
    best: Option<BTreeMap<String, Tensor>>,
    /// Steps of the last checkpoint.
    saved: usize,
}

impl<'a, 'p> TrainingLoop<'a, 'p> {
    /// `settings` are all settings that affect the result, without the rows.
    pub fn new(
        trainer: Trainer<'a>,
        llama: &'a Llama,
        settings: &impl Debug,
        validation: Option<(ValidationRules, Evaluate<'a>)>,
        progress: &'p mut dyn Progress,
    ) -> Self {
        let start = progress.checkpoints().map(|c| c.start()).unwrap_or_default();
        let settings = blake3::hash(format!("{settings:?} {} {start}", trainer.total()).as_bytes()).to_hex();
        Self {
            llama,
            trainer,
            progress,
            seen: DataFingerprint::default(),
            settings: settings.to_string(),
            metrics: Vec::new(),
            validation,
            best: None,
            saved: 0,
        }
    }

    /// The latest checkpoint, if it was made with these settings.
    pub fn latest(&mut self) -> Result<Option<Checkpoint>> {
        let Some(checkpoints) = self.progress.checkpoints() else { return Ok(None) };
        let Some(found) = checkpoints.latest()? else { return Ok(None) };
        if found.settings != self.settings {
            tracing::warn!(
                "a training's checkpoint was made with other settings, or by another version: it starts from the first step"
            );
            return Ok(None);
        }
        Ok(Some(found))
    }

    /// Resumes from a checkpoint if its rows are `rows`. Returns whether it does.
    pub fn resume(&mut self, checkpoint: &Checkpoint, rows: &DataFingerprint) -> Result<bool> {
        let why = if rows.rows != checkpoint.rows || rows.hash() != checkpoint.data {
            "was made from other rows".to_owned()
        } else {
            match self.restore(checkpoint) {
                Ok(()) => return Ok(true),
                Err(e) if e.kind() == ErrorKind::User => format!("does not fit: {e}"),
                Err(e) => return Err(e),
            }
        };
        tracing::warn!("a training's checkpoint {why}; the training starts from the first step");
        Ok(false)
    }

    /// Resumes from the latest checkpoint if it was made with these settings and the rows `seen`.
    pub fn resume_latest(&mut self) -> Result<()> {
        if let Some(checkpoint) = self.latest()? {
            let seen = std::mem::take(&mut self.seen);
            self.resume(&checkpoint, &seen)?;
            self.seen = seen;
        }
        Ok(())
    }

    fn restore(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.fits(&checkpoint.weights)?;
        let keeps = self.validation.as_ref().filter(|(rules, _)| rules.keep == KeepWeights::Best);
        let best = keeps.and_then(|(rules, _)| rules.best(&checkpoint.metrics));
        let best = match (best, &checkpoint.best) {
            (Some((at, _)), _) if at + 1 == checkpoint.steps() => Some(copy(&checkpoint.weights)?),
            (Some(_), Some(best)) => {
                self.fits(best)?;
                Some(best.clone())
            }
            (Some(_), None) => return Err(Error::user("the best weights are not there")),
            (None, _) => None,
        };
        // `restore` checks the moments before it takes them, and nothing has been changed until here: a checkpoint that
        // does not fit leaves the training untouched.
        self.trainer.restore(&checkpoint.moments, checkpoint.steps(), checkpoint.num_tokens())?;
        self.set(&checkpoint.weights)?;
        (self.best, self.saved) = (best, checkpoint.steps());
        self.metrics.clone_from(&checkpoint.metrics);
        Ok(())
    }

    fn fits(&self, weights: &BTreeMap<String, Tensor>) -> Result<()> {
        for (name, var) in self.llama.variables() {
            if weights.get(name).is_none_or(|w| w.dims() != var.dims() || w.dtype() != var.dtype()) {
                return Err(Error::user(format!("weight `{name}` is missing or of another shape")));
            }
        }
        Ok(())
    }

    fn set(&self, weights: &BTreeMap<String, Tensor>) -> Result<()> {
        for (name, var) in self.llama.variables() {
            if let Some(w) = weights.get(name) {
                var.set(&w.to_device(var.device())?)?;
            }
        }
        Ok(())
    }

    /// Steps taken, including those of an earlier process.
    pub fn steps(&self) -> usize {
        self.metrics.len()
    }

    /// Whether to take another step. False once patience has run out.
    pub fn should_continue(&mut self) -> Result<bool> {
        // An earlier process may have been stopped between a step and its measurement.
        let measured = self.measure_if_due();
        self.keep_if_stopped(measured)?;
        Ok(!self.validation.as_ref().is_some_and(|(rules, _)| rules.stops(&self.metrics)))
    }

    /// Takes a step of `total` with `take`. `epoch` is the number of passes over the data after it. If the training
    /// is being stopped, its state is saved first.
    pub fn step(
        &mut self,
        epoch: f64,
        total: usize,
        take: impl FnOnce(&mut Trainer<'a>, &mut dyn Progress) -> Result<StepMetrics>,
    ) -> Result<()> {
        let taken = self.take(epoch, total, take);
        self.keep_if_stopped(taken)
    }

    fn take(
        &mut self,
        epoch: f64,
        total: usize,
        take: impl FnOnce(&mut Trainer<'a>, &mut dyn Progress) -> Result<StepMetrics>,
    ) -> Result<()> {
        let metrics = StepMetrics { epoch, ..take(&mut self.trainer, self.progress)? };
        self.metrics.push(metrics.clone());
        self.progress.step(&metrics, self.metrics.len(), total)?;
        self.measure_if_due()?;
        self.progress.recorded(&self.metrics)?;
        let every = self.progress.checkpoints().map_or(0, |c| c.every());
        if every > 0 && self.steps().is_multiple_of(every) {
            self.save()?;
        }
        Ok(())
    }

    fn measure_if_due(&mut self) -> Result<()> {
        match &self.validation {
            Some((rules, _)) if self.steps().is_multiple_of(rules.every) => self.measure(),
            _ => Ok(()),
        }
    }

    /// Measures the last step, if there is one that is not measured yet.
    fn measure(&mut self) -> Result<()> {
        let (Some((rules, evaluate)), Some(last)) = (&self.validation, self.metrics.last_mut()) else { return Ok(()) };
        if rules.measure.value(last).is_some() {
            return Ok(());
        }
        evaluate(self.llama, last, self.progress)?;
        if rules.keep == KeepWeights::Best
            && rules.best(&self.metrics).is_some_and(|(at, _)| at + 1 == self.metrics.len())
        {
            self.best = Some(copy(&weights(self.llama))?);
        }
        Ok(())
    }

    fn keep_if_stopped<T>(&mut self, result: Result<T>) -> Result<T> {
        let stopped = result.as_ref().err().is_some_and(|e| e.kind() == ErrorKind::Cancelled);
        let keeps = self.progress.checkpoints().is_some_and(|c| c.every() > 0);
        if stopped
            && keeps
            && self.steps() > self.saved
            && let Err(e) = self.save()
        {
            tracing::warn!("the training's state could not be kept: {e}");
        }
        result
    }

    fn save(&mut self) -> Result<()> {
        let steps = self.steps();
        let best_is_last = self
            .validation
            .as_ref()
            .is_some_and(|(rules, _)| rules.best(&self.metrics).is_some_and(|(at, _)| at + 1 == steps));
        let checkpoint = Checkpoint {
            weights: weights(self.llama),
            moments: self.trainer.moments(),
            best: self.best.clone().filter(|_| !best_is_last),
            settings: self.settings.clone(),
            rows: self.seen.rows,
            data: self.seen.hash(),
            metrics: self.metrics.clone(),
        };
        if let Some(checkpoints) = self.progress.checkpoints() {
            checkpoints.save(&checkpoint)?;
            self.saved = steps;
        }
        Ok(())
    }

    /// Ends the training and leaves the weights to keep in the model.
    pub fn finish(mut self, problems: Vec<Problem>) -> Result<Trained> {
        let measured = self.measure();
        self.keep_if_stopped(measured)?;
        let mut chosen = self.steps();
        if let Some((rules, _)) = &self.validation
            && let (Some(best), Some((at, _))) = (&self.best, rules.best(&self.metrics))
        {
            self.set(best)?;
            chosen = at + 1;
        }
        Ok(Trained { metrics: self.metrics, pairs: Vec::new(), problems, chosen })
    }
}

fn weights(llama: &Llama) -> BTreeMap<String, Tensor> {
    llama.variables().iter().map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect()
}

fn copy(weights: &BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>> {
    weights.iter().map(|(name, w)| Ok((name.clone(), w.copy()?))).collect()
}
