//! The hinge loss of SLiC and RSO.

use candle_core::{Result, Tensor};

use super::loss::{Loss, LossInput};
use super::scores::Scores;

pub(super) const LOSS: Loss = Loss {
    name: "hinge",
    equation: "max(0, 1 - beta D)",
    paper: "SLiC, arXiv 2305.10425; RSO, arXiv 2309.06657",
    reads: &[LossInput::Reference],
    each: hinge,
};

fn hinge(s: &Scores) -> Result<Tensor> {
    (1. - s.logit()?)?.relu()
}
