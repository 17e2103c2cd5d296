//! Metrics of optimizer steps, and the result of a training.

use std::sync::Arc;

use super::rows::Problem;

/// The result of a training.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trained {
    /// Metrics of each optimizer step.
    pub metrics: Vec<StepMetrics>,
    /// The ids of each step's pairs, in their order. Empty for SFT, whose examples have no ids.
    pub pairs: Vec<Vec<Arc<str>>>,
    /// Rows that were left out.
    pub problems: Vec<Problem>,
    /// The step whose weights the model has now, from 1. It is the last step unless validation chose another.
    pub chosen: usize,
}

/// Metrics of an optimizer step, with TRL's names and definitions: the numbers of the `metrics` schema.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepMetrics {
    /// Optimizer step, from 1.
    pub step: u32,
    /// Passes over the data so far.
    pub epoch: f64,
    /// The minimised loss, including the weighted NLL and replay terms.
    pub loss: f64,
    /// L2 norm over all gradients before clipping.
    pub grad_norm: f64,
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// Tokens seen so far. As in TRL, a pair counts its prompt twice, although it is computed once.
    pub num_tokens: f64,
    /// Mean of `beta (log pi - log ref)` of the chosen completions.
    pub rewards_chosen: Option<f64>,
    /// The same of the rejected completions.
    pub rewards_rejected: Option<f64>,
    /// Mean of chosen reward minus rejected reward.
    pub rewards_margins: Option<f64>,
    /// Share of pairs whose chosen reward is strictly above the rejected one.
    pub rewards_accuracies: Option<f64>,
    /// Mean summed log-probability of the chosen completions under the policy, before the step.
    pub logps_chosen: Option<f64>,
    /// The same of the rejected completions.
    pub logps_rejected: Option<f64>,
    /// Mean negative log-likelihood of a token of the chosen completions, without its weight, if the term is used.
    pub nll_loss: Option<f64>,
    /// SFT loss of the replayed rows, without its weight, if replay is used.
    pub replay_loss: Option<f64>,
    /// Loss on the held-out rows after the step, without replay, if they were measured.
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

    /// Sets a column by its name, the inverse of [`StepMetrics::columns`]. Returns false if no column has the name,
    /// or if the column needs a value and gets none.
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
