//! CREAM.

use candle_core::{Result, Tensor};

use super::loss::{Input, Loss};
use super::math::log_sigmoid;
use super::scores::Scores;

pub(super) const LOSS: Loss = Loss {
    name: "cream",
    equation: "-C log s(beta D) - (1 - C) log s(-beta D)",
    paper: "CREAM, arXiv 2410.12735: the less two judges agree on a prompt's answers, the less its pair teaches",
    reads: &[Input::Reference, Input::Consistency],
    each: cream,
};

fn cream(s: &Scores) -> Result<Tensor> {
    let (logit, c) = (s.logit()?, &s.consistency);
    (log_sigmoid(&logit)? * c)?.neg()? - (log_sigmoid(&logit.neg()?)? * (1. - c)?)?
}
