//! The reference of DPO: log-probabilities of the completions' tokens under a frozen model. They are found before
//! training starts and travel with the pairs, so that training holds one model only.

use super::logprobs::{Branches, branch_logprobs, frozen};
use super::pack::Limits;
use super::progress::Progress;
use super::rows::{Pair, Reference};
use super::usable::usable_pairs;
use crate::error::Result;
use crate::model::Llama;

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
