//! The reference of DPO: log-probabilities of the completions' tokens under a frozen model. They are computed before
//! training starts and stored in the pairs, so that training holds a single model.

use super::logprobs::{Branches, branch_logprobs, frozen};
use super::pack::ForwardLimits;
use super::progress::Progress;
use super::rows::{Pair, Reference};
use super::usable::usable_pairs;
use crate::error::Result;
use crate::model::Llama;

/// Computes the reference of every usable pair that lacks it, with the log-probabilities of `llama`, and returns the
/// number of these pairs. Pairs share a forward as far as `limits` allow, and a prompt is computed once for both
/// completions. No gradient is kept. On a CPU the bits do not depend on which pairs share a forward. Pairs that
/// [`usable_pairs`] leaves out of `llama`'s training stay as they are.
///
/// # Errors
/// An error of candle or of `progress`. The pairs are then unchanged.
pub fn reference(
    llama: &Llama,
    pairs: &mut [Pair],
    limits: ForwardLimits,
    progress: &mut dyn Progress,
) -> Result<usize> {
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
