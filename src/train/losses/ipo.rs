//! IPO.

use candle_core::{Result, Tensor};

use super::loss::{Loss, LossInput};
use super::scores::Scores;

pub(super) const LOSS: Loss = Loss {
    name: "ipo",
    equation: "(r_w / |y_w| - r_l / |y_l| - 1 / (2 beta))^2",
    paper: "IPO, arXiv 2310.12036 eq. 17; per token, as its authors told TRL",
    reads: &[LossInput::Reference],
    each: ipo,
};

fn ipo(s: &Scores) -> Result<Tensor> {
    (s.mean_ratio()? - 1. / (2. * s.beta()))?.sqr()
}
