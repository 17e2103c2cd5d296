//! The reference of DPO: log-probabilities of the completions' tokens under a frozen model. They are found before
//! training starts and travel with the pairs, so that training holds one model only.

use super::dpo::usable_pairs;
use super::logprobs::{Branches, branch_logprobs, frozen};
use super::trainer::Limits;
use super::{Pair, Progress};
use crate::error::Result;
use crate::model::Llama;

/// Natural log-probability of every token of a pair's completions under the frozen reference, at temperature 1 over the
/// full vocabulary.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reference {
    /// Of the preferred completion, token by token.
    pub chosen: Vec<f32>,
    /// Of the other completion.
    pub rejected: Vec<f32>,
}

impl Reference {
    /// The sums over each completion, `(log ref(y_w|x), log ref(y_l|x))`, in f64 and in the order in which the policy's
    /// are summed: a policy that is its own reference differs from it by exactly nothing.
    pub fn sums(&self) -> (f64, f64) {
        (sum(&self.chosen), sum(&self.rejected))
    }

    /// The same where tokens beyond the shorter completion count `alpha`, as those of LD-DPO do.
    pub(super) fn weighted_sums(&self, alpha: Option<f64>) -> (f64, f64) {
        let Some(alpha) = alpha else { return self.sums() };
        let shared = self.chosen.len().min(self.rejected.len());
        let weight = |i: usize| if i < shared { 1. } else { alpha };
        let of = |all: &[f32]| all.iter().enumerate().map(|(i, &l)| f64::from(l) * weight(i)).sum();
        (of(&self.chosen), of(&self.rejected))
    }
}

/// Sum of log-probabilities, first to last, in f64.
pub(super) fn sum(logprobs: &[f32]) -> f64 {
    logprobs.iter().map(|&l| f64::from(l)).sum()
}

/// Fills in the reference of every usable pair that lacks it, with the log-probabilities that `llama` gives; returns how
/// many pairs that were. Pairs go through the model together as far as `limits` allow, a prompt once for both of its
/// completions; no gradient is kept. On a CPU the bits do not depend on what goes together. Pairs that
/// [`usable_pairs`] leaves out of `llama`'s training stay as they are.
///
/// # Errors
/// Whatever candle reports, or what `progress` returns; the pairs are then as they were.
pub fn reference(llama: &Llama, pairs: &mut [Pair], limits: Limits, progress: &mut dyn Progress) -> Result<usize> {
    let view = frozen(llama)?;
    let llama = view.as_ref().unwrap_or(llama);
    let (mut lacking, _) = usable_pairs(llama.config(), pairs, None);
    lacking.retain(|&i| pairs[i].reference.is_none());
    let branches =
        |&i: &usize| Branches { prompt: &pairs[i].prompt, completions: vec![&pairs[i].chosen, &pairs[i].rejected] };
    let rows: Vec<Branches<'_>> = lacking.iter().map(branches).collect();
    let mut logprobs = branch_logprobs(llama, &rows, limits, progress)?.into_iter();
    for &i in &lacking {
        let (chosen, rejected) = (logprobs.next().unwrap_or_default(), logprobs.next().unwrap_or_default());
        pairs[i].reference = Some(Reference { chosen, rejected });
    }
    Ok(lacking.len())
}
