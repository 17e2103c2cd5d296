//! DPO with log-ratios per token.

use candle_core::{Result, Tensor};

use super::loss::{Loss, LossInput};
use super::math::log_sigmoid;
use super::scores::Scores;

pub(super) const LOSS: Loss = Loss {
    name: "sigmoid_norm",
    equation: "-log s(beta (r_w / |y_w| - r_l / |y_l|))",
    paper: "length-normalised DPO as in Tulu 3, arXiv 2411.15124",
    reads: &[LossInput::Reference],
    each: sigmoid_norm,
};

fn sigmoid_norm(s: &Scores) -> Result<Tensor> {
    log_sigmoid(&(s.mean_ratio()? * s.beta())?)?.neg()
}
