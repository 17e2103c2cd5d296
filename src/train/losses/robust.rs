//! Robust DPO.

use candle_core::{Result, Tensor};

use super::loss::{Loss, LossInput};
use super::math::log_sigmoid;
use super::parameters::LABEL_SMOOTHING;
use super::scores::Scores;

pub(super) const LOSS: Loss = Loss {
    name: "robust",
    equation: "(-(1 - e) log s(beta D) + e log s(-beta D)) / (1 - 2 e)",
    paper: "Robust DPO, arXiv 2403.00409",
    reads: &[LossInput::Reference, LossInput::Parameter(&LABEL_SMOOTHING)],
    each: robust,
};

fn robust(s: &Scores) -> Result<Tensor> {
    let (logit, e) = (s.logit()?, s.get(&LABEL_SMOOTHING));
    ((log_sigmoid(&logit)? * (e - 1.))? + (log_sigmoid(&logit.neg()?)? * e)?)? / (1. - 2. * e)
}
