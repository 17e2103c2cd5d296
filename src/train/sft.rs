//! Supervised fine-tuning: passes over examples in seeded order.

use super::adamw::AdamWConfig;
use super::metrics::Trained;
use super::order::order;
use super::pack::{ForwardLimits, runs};
use super::progress::Progress;
use super::rows::Example;
use super::schedule::{Decay, Schedule, Warmup};
use super::trainer::Trainer;
use super::training_loop::{DataFingerprint, TrainingLoop};
use super::usable::{nothing_left, usable_examples};
use super::validation::Validation;
use crate::error::Result;
use crate::model::Llama;
use crate::model::backprop::ForwardOptions;

/// Size of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BatchSize {
    /// A number of sequences.
    Sequences(usize),
    /// As many sequences as have together at most this many tokens, including context; at least one.
    Tokens(usize),
}

/// The settings of [`sft`].
#[derive(Clone, Debug, PartialEq)]
pub struct SftConfig {
    /// Passes over the examples.
    pub epochs: u32,
    /// Size of a batch.
    pub batch: BatchSize,
    /// Batches of an optimizer step. The loss is the mean over the tokens of all of them.
    pub accumulation: usize,
    /// Learning rate by step.
    pub schedule: Schedule,
    /// The optimizer.
    pub optimizer: AdamWConfig,
    /// Maximum length of a sequence in tokens; the model's limit if absent. Longer ones are left out, never cut.
    pub max_length: Option<usize>,
    /// Rows of a forward; see [`ForwardLimits`].
    pub max_rows_per_forward: usize,
    /// Dropout, drawn with `seed`, and recomputation of activations in the backward pass to save memory.
    pub options: ForwardOptions,
    /// Whether to shuffle every pass; see [`order`], purpose `train.sft`.
    pub shuffle: bool,
    /// Key of the orders.
    pub seed: u64,
    /// Held-out rows to measure while training.
    pub validation: Option<Validation<Example>>,
}

impl Default for SftConfig {
    /// The paper's rates and batch (5.5e-6 to 1.1e-6 by cosine, 16 sequences), one pass, no warm-up.
    fn default() -> Self {
        Self {
            epochs: 1,
            batch: BatchSize::Sequences(16),
            accumulation: 1,
            schedule: Schedule {
                decay: Decay::Cosine,
                learning_rate: 5.5e-6,
                final_learning_rate: 1.1e-6,
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

/// Trains on the completion tokens of `examples`: the loss of a step is the mean over its tokens.
///
/// Sequences are packed, so batches are not grouped by length: there is no padding to save, and grouping would bias
/// them.
///
/// # Errors
/// No example can be used, a loss or gradient is not finite, a variable gets no gradient, or what `progress` returns.
pub fn sft(llama: &Llama, examples: &[Example], config: &SftConfig, progress: &mut dyn Progress) -> Result<Trained> {
    let (usable, problems) = usable_examples(llama.config(), examples, config.max_length);
    nothing_left("examples", &usable, &problems)?;
    let accumulation = config.accumulation.max(1);
    let (max_tokens, max_sequences) = match config.batch {
        BatchSize::Sequences(n) => (usize::MAX, n.max(1)),
        BatchSize::Tokens(n) => (n, usize::MAX),
    };
    // All passes are listed in advance, because the schedule needs the number of batches. The lists are small.
    let passes: Vec<Vec<Vec<&Example>>> = (0..config.epochs)
        .map(|pass| {
            let places = if config.shuffle {
                order(usable.len(), config.seed, "train.sft", pass)
            } else {
                (0..usable.len()).collect()
            };
            let rows: Vec<&Example> = places.into_iter().map(|i| &examples[usable[i]]).collect();
            let tokens: Vec<usize> = rows.iter().map(|e| e.tokens.len()).collect();
            runs(&tokens, max_tokens, max_sequences).into_iter().map(|run| rows[run].to_vec()).collect()
        })
        .collect();
    let total = passes.iter().map(|batches| batches.len().div_ceil(accumulation)).sum();
    let limits = ForwardLimits { max_rows: config.max_rows_per_forward, max_items: max_sequences };
    let trainer = Trainer::new(llama, config.optimizer, config.schedule, total, limits)?;
    let trainer = trainer.recording(config.options, config.seed);
    let validation = config.validation.as_ref().map(|v| v.examples(llama.config(), limits)).transpose()?;
    let mut training = TrainingLoop::new(trainer, llama, config, validation, progress);
    training.seen = DataFingerprint::from_rows(usable.iter().map(|&i| &examples[i]))?;
    training.resume_latest()?;
    let steps = passes.iter().enumerate().flat_map(|(pass, batches)| {
        let seen = move |i: usize| ((i + 1) * accumulation).min(batches.len()) as f64 / batches.len() as f64;
        batches.chunks(accumulation).enumerate().map(move |(i, step)| (pass as f64 + seen(i), step))
    });
    for (epoch, step) in steps.skip(training.steps()) {
        if !training.should_continue()? {
            break;
        }
        training.step(epoch, total, |trainer, progress| trainer.sft_step(&step.concat(), progress))?;
    }
    training.finish(problems)
}
