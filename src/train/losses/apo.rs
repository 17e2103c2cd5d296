//! Anchored preference optimisation.

use candle_core::{Result, Tensor};

use super::loss::{Loss, LossInput};
use super::math::logistic;
use super::scores::Scores;

pub(super) const ZERO: Loss = Loss {
    name: "apo_zero",
    equation: "1 - s(beta r_w) + s(beta r_l)",
    paper: "APO, arXiv 2408.06266 eq. 7: the chosen are better than what the model says by itself",
    reads: &[LossInput::Reference],
    each: apo_zero,
};

fn apo_zero(s: &Scores) -> Result<Tensor> {
    let of = |ratio: Tensor| logistic(&(ratio * s.beta())?);
    (1. - of(s.chosen_ratio()?)?)? + of(s.rejected_ratio()?)?
}

pub(super) const DOWN: Loss = Loss {
    name: "apo_down",
    equation: "s(beta r_w) + 1 - s(beta D)",
    paper: "APO, arXiv 2408.06266 eq. 8: the chosen are worse than what the model says by itself",
    reads: &[LossInput::Reference],
    each: apo_down,
};

fn apo_down(s: &Scores) -> Result<Tensor> {
    logistic(&(s.chosen_ratio()? * s.beta())?)? + (1. - logistic(&s.logit()?)?)?
}
