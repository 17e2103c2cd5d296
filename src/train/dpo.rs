//! Direct preference optimisation: passes over pairs that have their reference's log-probabilities.

use std::sync::Arc;

use super::adamw::AdamWConfig;
use super::metrics::Trained;
use super::objective::Objective;
use super::order::{ReplaySampler, order};
use super::pack::ForwardLimits;
use super::progress::Progress;
use super::rows::{Example, Pair, Problem, check_reference};
use super::schedule::{Decay, Schedule, Warmup};
use super::trainer::Trainer;
use super::training_loop::{DataFingerprint, TrainingLoop};
use super::usable::{nothing_left, usable_examples, usable_pairs};
use super::validation::Validation;
use crate::error::Result;
use crate::model::backprop::ForwardOptions;
use crate::model::{Config, Llama};

/// The settings of [`dpo`].
#[derive(Clone, Debug, PartialEq)]
pub struct DpoConfig {
    /// The objective to minimise.
    pub objective: Objective,
    /// Replayed rows of each optimizer step; see [`ReplaySampler`].
    pub replay_batch: usize,
    /// Passes over the pairs.
    pub epochs: u32,
    /// Pairs of a batch.
    pub batch_size: usize,
    /// Batches of an optimizer step.
    pub accumulation: usize,
    /// Learning rate by step.
    pub schedule: Schedule,
    /// The optimizer.
    pub optimizer: AdamWConfig,
    /// Maximum length of prompt and completion together, in tokens; the model's limit if absent. Longer pairs are
    /// left out, never cut.
    pub max_length: Option<usize>,
    /// Rows of a forward; see [`ForwardLimits`].
    pub max_rows_per_forward: usize,
    /// Dropout, drawn with `seed`, and recomputation of activations in the backward pass to save memory.
    pub options: ForwardOptions,
    /// Whether to shuffle every pass; see [`order`], purpose `train.dpo`.
    pub shuffle: bool,
    /// Key of the orders.
    pub seed: u64,
    /// Held-out pairs to measure while training.
    pub validation: Option<Validation<Pair>>,
}

impl Default for DpoConfig {
    /// The paper's settings (beta 0.1, 16 pairs, 1e-6 to 1e-7), one pass, no warm-up.
    fn default() -> Self {
        Self {
            objective: Objective::default(),
            replay_batch: 0,
            epochs: 1,
            batch_size: 16,
            accumulation: 1,
            schedule: Schedule {
                decay: Decay::Cosine,
                learning_rate: 1e-6,
                final_learning_rate: 1e-7,
                warmup: Warmup::Steps(0),
            },
            optimizer: AdamWConfig::default(),
            max_length: None,
            max_rows_per_forward: ForwardLimits::default().max_rows,
            options: ForwardOptions::default(),
            shuffle: true,
            seed: 0,
            validation: None,
        }
    }
}

/// Trains `llama` to prefer the chosen completions, relative to the reference whose log-probabilities the pairs have
/// ([`reference`](super::reference()) computes them).
///
/// # Errors
/// No pair can be used, a usable pair has no reference, a loss or gradient is not finite, a variable gets no
/// gradient, or an error of `progress`.
pub fn dpo(
    llama: &Llama,
    pairs: &[Pair],
    replay: &[Example],
    config: &DpoConfig,
    progress: &mut dyn Progress,
) -> Result<Trained> {
    let (usable, mut problems) = usable_pairs(llama.config(), pairs, config.max_length);
    nothing_left("pairs", &usable, &problems)?;
    let usable: Vec<&Pair> = usable.into_iter().map(|i| &pairs[i]).collect();
    for pair in &usable {
        check_reference(pair)?;
    }
    let mut steps = Steps::new(llama.config(), replay, config, &mut problems)?;
    let (size, accumulation) = (steps.size, config.accumulation.max(1));
    let (per_pass, batches) = (usable.len().div_ceil(size), usable.len().div_ceil(config.batch_size.max(1)));
    let total = per_pass * config.epochs as usize;
    let mut training = steps.start(llama, total, None, progress)?;
    training.seen = DataFingerprint::from_rows(&usable)?;
    training.resume_latest()?;
    let mut sampler = BatchSampler::new(usable.len(), size, config);
    while training.steps() < total && training.should_continue()? {
        let (pass, i) = (training.steps() / per_pass, training.steps() % per_pass);
        let rows: Vec<&Pair> = sampler.step(training.steps()).iter().map(|&p| usable[p]).collect();
        let epoch = pass as f64 + ((i + 1) * accumulation).min(batches) as f64 / batches as f64;
        steps.take(&mut training, &rows, epoch, total, None)?;
    }
    let mut trained = training.finish(problems)?;
    // Steps that an earlier process took are among them: places are a function of the step.
    let ids: Vec<Arc<str>> = usable.iter().map(|p| p.id.as_str().into()).collect();
    let of = |step| sampler.step(step).iter().map(|&p| Arc::clone(&ids[p])).collect();
    trained.pairs = (0..trained.metrics.len()).map(of).collect();
    Ok(trained)
}

/// Chooses the pairs of a step: the next ones in the order of its pass.
struct BatchSampler {
    pairs: usize,
    /// Pairs of a step.
    size: usize,
    /// Seed of the orders; none if the pairs keep their order.
    seed: Option<u64>,
    pass: (Option<u32>, Vec<usize>),
}

impl BatchSampler {
    fn new(pairs: usize, size: usize, config: &DpoConfig) -> Self {
        let seed = config.shuffle.then_some(config.seed);
        Self { pairs, size, seed, pass: (None, (0..pairs).collect()) }
    }

    /// The indices of the pairs of optimizer step `step`, counted from 0.
    fn step(&mut self, step: usize) -> &[usize] {
        let per_pass = self.pairs.div_ceil(self.size);
        let (pass, i) = ((step / per_pass) as u32, step % per_pass);
        if let Some(seed) = self.seed.filter(|_| self.pass.0 != Some(pass)) {
            self.pass = (Some(pass), order(self.pairs, seed, "train.dpo", pass));
        }
        &self.pass.1[i * self.size..self.pairs.min((i + 1) * self.size)]
    }
}

/// The settings, replay and batch size that all steps of a DPO training share.
pub(super) struct Steps<'a> {
    config: &'a DpoConfig,
    replay_rows: Vec<&'a Example>,
    replay: ReplaySampler,
    /// Pairs of an optimizer step.
    pub size: usize,
}

impl<'a> Steps<'a> {
    /// Adds the problems of replayed rows to `problems`.
    pub fn new(
        model: &Config,
        replay: &'a [Example],
        config: &'a DpoConfig,
        problems: &mut Vec<Problem>,
    ) -> Result<Self> {
        let replaying = config.objective.replay_weight != 0. && config.replay_batch > 0;
        let replay_rows: Vec<&Example> = if replaying {
            let (usable, bad) = usable_examples(model, replay, config.max_length);
            nothing_left("replay rows", &usable, &bad)?;
            problems.extend(bad.into_iter().map(|p| Problem { id: format!("replay {}", p.id), ..p }));
            usable.into_iter().map(|i| &replay[i]).collect()
        } else {
            Vec::new()
        };
        let size = config.batch_size.max(1).saturating_mul(config.accumulation.max(1));
        let replay = ReplaySampler::new(replay_rows.len(), config.seed);
        Ok(Self { config, replay_rows, replay, size })
    }

    /// The training before its first step: of `total` steps, or of pairs that come in `microbatches`.
    pub fn start<'p>(
        &self,
        llama: &'a Llama,
        total: usize,
        microbatches: Option<usize>,
        progress: &'p mut dyn Progress,
    ) -> Result<TrainingLoop<'a, 'p>> {
        let config = self.config;
        let limits = ForwardLimits { max_rows: config.max_rows_per_forward, max_items: config.batch_size.max(1) };
        let validation = config.validation.as_ref();
        let validation = validation.map(|v| v.pairs(llama.config(), &config.objective, limits)).transpose()?;
        let trainer = Trainer::new(llama, config.optimizer, config.schedule, total, limits)?;
        let trainer = trainer.recording(config.options, config.seed);
        // The replayed rows are part of the settings: a checkpoint made with other rows must not be used.
        let settings = (config, microbatches, DataFingerprint::from_rows(&self.replay_rows)?.hash());
        Ok(TrainingLoop::new(trainer, llama, &settings, validation, progress))
    }

    /// The next step, at the schedule's rate unless one is given.
    pub fn take(
        &mut self,
        training: &mut TrainingLoop<'a, '_>,
        pairs: &[&Pair],
        epoch: f64,
        total: usize,
        rate: Option<f64>,
    ) -> Result<()> {
        let replayed = self.replay.draw(training.steps(), self.config.replay_batch);
        let replayed: Vec<&Example> = replayed.into_iter().map(|i| self.replay_rows[i]).collect();
        training.step(epoch, total, |trainer, progress| {
            if let Some(rate) = rate {
                trainer.next_rate(rate);
            }
            trainer.dpo_step(pairs, &replayed, &self.config.objective, progress)
        })
    }
}
