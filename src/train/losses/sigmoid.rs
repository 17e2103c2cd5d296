//! The loss of DPO.

use candle_core::{Result, Tensor};

use super::loss::{Loss, LossInput};
use super::math::smoothed;
use super::parameters::LABEL_SMOOTHING;
use super::scores::Scores;

pub(super) const LOSS: Loss = Loss {
    name: "sigmoid",
    equation: "-(1 - e) log s(beta D) - e log s(-beta D)",
    paper: "DPO, arXiv 2305.18290 eq. 7; smoothing as cDPO, ericmitchell.ai/cdpo.pdf",
    reads: &[LossInput::Reference, LossInput::Parameter(&LABEL_SMOOTHING)],
    each: sigmoid,
};

fn sigmoid(s: &Scores) -> Result<Tensor> {
    smoothed(&s.logit()?, s.get(&LABEL_SMOOTHING))
}
