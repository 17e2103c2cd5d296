//! SimPO, which needs no reference.

use candle_core::{Result, Tensor};

use super::loss::{Loss, LossInput};
use super::math::smoothed;
use super::parameters::{LABEL_SMOOTHING, Parameter};
use super::scores::Scores;

/// The target margin between the mean log-probabilities, times beta.
const GAMMA: Parameter =
    Parameter { key: "simpo_gamma", about: "gamma of the simpo loss", default: 0.5, range: (0., 1e6) };

pub(super) const LOSS: Loss = Loss {
    name: "simpo",
    equation: "-(1 - e) log s(beta (m_w - m_l) - gamma) - e log s(gamma - beta (m_w - m_l)); no reference",
    paper: "SimPO, arXiv 2405.14734 eq. 6",
    reads: &[LossInput::Parameter(&LABEL_SMOOTHING), LossInput::Parameter(&GAMMA)],
    each: simpo,
};

fn simpo(s: &Scores) -> Result<Tensor> {
    let means = (s.chosen.div(&s.chosen_tokens)? - s.rejected.div(&s.rejected_tokens)?)?;
    smoothed(&((means * s.beta())? - s.get(&GAMMA))?, s.get(&LABEL_SMOOTHING))
}
