//! Training: SFT and DPO on [`Llama`](crate::model::Llama) with AdamW, in float order that never varies.
//!
//! [`sft`] and [`dpo`] are loops over a [`Trainer`], which takes one batch at a time and so also serves a stream of
//! microbatches and checkpoints. Rows are packed without padding; a DPO pair computes its prompt once, with the two
//! completions as branches, and log-probabilities are taken at completion tokens only. A batch is split into forwards
//! of bounded size whose gradients are summed in order: the same inputs give bit-identical weights on a CPU, whatever
//! the number of threads. What is measured has TRL's names and definitions (huggingface/trl, `dpo_trainer.py`).

mod adamw;
mod checkpoint;
mod dpo;
mod logprobs;
pub mod losses;
mod order;
mod pack;
mod reference;
mod schedule;
mod sft;
mod stream;
mod trainer;
mod training_loop;
mod validation;

pub use adamw::{AdamW, AdamWConfig};
pub use checkpoint::{Checkpoint, Checkpoints};
pub use dpo::{DpoConfig, dpo, usable_pairs};
pub use logprobs::{Scored, Scoring, logprobs};
pub use order::{ReplaySampler, order};
pub use reference::{Reference, reference};
pub use schedule::{Decay, Schedule, Warmup};
pub use sft::{BatchSize, SftConfig, sft, usable_examples};
pub use stream::dpo_stream;
pub use trainer::{Limits, Objective, Trainer};
pub use validation::{Keep, Measure, Validation};

use std::sync::Arc;

use crate::error::Result;
use crate::model::{Completion, Message, Tokenizer, Unwritten};

/// A sequence to learn from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// Token ids, the end token included where the model should learn to end.
    pub tokens: Vec<u32>,
    /// How many of the first tokens carry no loss. The very first token never does: nothing predicts it.
    pub context: usize,
}

impl Example {
    /// An answer to learn after a prompt: what is learnt are the answer's tokens and the token that ends an assistant's
    /// turn, see [`Tokenizer::encode_completion`].
    ///
    /// # Errors
    /// As [`Tokenizer::encode_completion`].
    pub fn answer(tokenizer: &Tokenizer, prompt: &[Message], answer: &str) -> Result<Self> {
        let turn = [Message::new("assistant", answer)];
        let Completion { prompt: mut tokens, answer, .. } =
            tokenizer.encode_completion(prompt, &turn, Unwritten::Refuse)?;
        let context = tokens.len();
        tokens.extend(answer);
        Ok(Self { tokens, context })
    }

    /// Plain text to learn after a context, which may be empty and is not learnt; what ends an assistant's turn ends it too.
    ///
    /// # Errors
    /// Whatever the tokenizer reports.
    pub fn text(tokenizer: &Tokenizer, context: &str, text: &str) -> Result<Self> {
        let mut tokens: Vec<u32> = tokenizer.bos_id().into_iter().collect();
        tokens.extend(tokenizer.encode_text(context)?);
        let before = tokens.len();
        let follows = if context.is_empty() { tokenizer.encode_text(text)? } else { tokenizer.encode_later(text)? };
        tokens.extend(follows);
        tokens.extend(tokenizer.end_of_turn());
        Ok(Self { tokens, context: before })
    }
}

/// A preference: one prompt, a better and a worse completion of it, as sampled (token ids, end token included).
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// Names the pair in problems and errors.
    pub id: String,
    /// Token ids of the rendered prompt.
    pub prompt: Vec<u32>,
    /// Token ids of the preferred completion.
    pub chosen: Vec<u32>,
    /// Token ids of the other completion.
    pub rejected: Vec<u32>,
    /// Log-probabilities of the completions' tokens under the frozen reference; [`reference()`] computes them.
    pub reference: Option<Reference>,
    /// The judge's score of chosen less that of rejected: for the losses that aim at it.
    pub margin: f64,
    /// How far two judges rank the prompt's answers alike, C of CREAM in [0, 1]; 1 where nobody has compared them.
    pub consistency: f64,
}

/// A row that was left out of training, and why. It ends up in the `errors` dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The pair's id, or the example's place, counted from 0.
    pub id: String,
    /// `empty_prompt`, `empty_completion`, `equal_completions`, `too_long`, `unknown_token`, `bad_reference`,
    /// `bad_margin` or `bad_consistency`.
    pub code: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

/// What training did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trained {
    /// One entry per optimizer step.
    pub metrics: Vec<StepMetrics>,
    /// The ids of the pairs that each step was taken on, in their order; empty for SFT, whose examples have none.
    pub pairs: Vec<Vec<Arc<str>>>,
    /// The rows that were left out.
    pub problems: Vec<Problem>,
    /// The step whose weights the model has now, from 1: the last one, unless validation chose another.
    pub chosen: usize,
}

/// The measurements of one optimizer step, with TRL's names and definitions: the numbers of the `metrics` schema.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepMetrics {
    /// Optimizer step, from 1.
    pub step: u32,
    /// Passes over the data so far.
    pub epoch: f64,
    /// The loss that was minimised, NLL and replay terms included with their weights.
    pub loss: f64,
    /// L2 norm over all gradients before clipping.
    pub grad_norm: f64,
    /// Learning rate that this step used.
    pub learning_rate: f64,
    /// Tokens seen so far; as in TRL a pair counts its prompt twice, though it is computed once.
    pub num_tokens: f64,
    /// Mean of `beta (log pi - log ref)` of the chosen completions.
    pub rewards_chosen: Option<f64>,
    /// The same of the rejected completions.
    pub rewards_rejected: Option<f64>,
    /// Mean of chosen reward less rejected reward.
    pub rewards_margins: Option<f64>,
    /// Share of pairs whose chosen reward is strictly above the rejected one.
    pub rewards_accuracies: Option<f64>,
    /// Mean summed log-probability of the chosen completions under the policy, before the step.
    pub logps_chosen: Option<f64>,
    /// The same of the rejected completions.
    pub logps_rejected: Option<f64>,
    /// Mean negative log-likelihood of a token of the chosen completions, where the term is used; unweighted.
    pub nll_loss: Option<f64>,
    /// SFT loss of the replayed rows, where replay is used; unweighted.
    pub replay_loss: Option<f64>,
    /// Loss on the held-out rows after the step, where they were measured; without replay.
    pub eval_loss: Option<f64>,
    /// As `rewards_chosen`, of the held-out pairs after the step.
    pub eval_rewards_chosen: Option<f64>,
    /// As `rewards_rejected`, of the held-out pairs after the step.
    pub eval_rewards_rejected: Option<f64>,
    /// As `rewards_margins`, of the held-out pairs after the step.
    pub eval_rewards_margins: Option<f64>,
    /// As `rewards_accuracies`, of the held-out pairs after the step.
    pub eval_rewards_accuracies: Option<f64>,
}

impl StepMetrics {
    /// Names and values in the order of the `metrics` schema.
    pub fn columns(&self) -> [(&'static str, Option<f64>); 19] {
        [
            ("step", Some(self.step.into())),
            ("epoch", Some(self.epoch)),
            ("loss", Some(self.loss)),
            ("grad_norm", Some(self.grad_norm)),
            ("learning_rate", Some(self.learning_rate)),
            ("num_tokens", Some(self.num_tokens)),
            ("rewards/chosen", self.rewards_chosen),
            ("rewards/rejected", self.rewards_rejected),
            ("rewards/margins", self.rewards_margins),
            ("rewards/accuracies", self.rewards_accuracies),
            ("logps/chosen", self.logps_chosen),
            ("logps/rejected", self.logps_rejected),
            ("nll_loss", self.nll_loss),
            ("replay_loss", self.replay_loss),
            ("eval_loss", self.eval_loss),
            ("eval_rewards/chosen", self.eval_rewards_chosen),
            ("eval_rewards/rejected", self.eval_rewards_rejected),
            ("eval_rewards/margins", self.eval_rewards_margins),
            ("eval_rewards/accuracies", self.eval_rewards_accuracies),
        ]
    }

    /// The inverse of [`StepMetrics::columns`], a column at a time. False if there is none of that name, or it must
    /// have a value and is given none.
    #[must_use]
    pub fn set(&mut self, name: &str, value: Option<f64>) -> bool {
        match (name, value) {
            ("step", Some(v)) => self.step = v as u32,
            ("epoch", Some(v)) => self.epoch = v,
            ("loss", Some(v)) => self.loss = v,
            ("grad_norm", Some(v)) => self.grad_norm = v,
            ("learning_rate", Some(v)) => self.learning_rate = v,
            ("num_tokens", Some(v)) => self.num_tokens = v,
            ("rewards/chosen", v) => self.rewards_chosen = v,
            ("rewards/rejected", v) => self.rewards_rejected = v,
            ("rewards/margins", v) => self.rewards_margins = v,
            ("rewards/accuracies", v) => self.rewards_accuracies = v,
            ("logps/chosen", v) => self.logps_chosen = v,
            ("logps/rejected", v) => self.logps_rejected = v,
            ("nll_loss", v) => self.nll_loss = v,
            ("replay_loss", v) => self.replay_loss = v,
            ("eval_loss", v) => self.eval_loss = v,
            ("eval_rewards/chosen", v) => self.eval_rewards_chosen = v,
            ("eval_rewards/rejected", v) => self.eval_rewards_rejected = v,
            ("eval_rewards/margins", v) => self.eval_rewards_margins = v,
            ("eval_rewards/accuracies", v) => self.eval_rewards_accuracies = v,
            _ => return false,
        }
        true
    }
}

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
