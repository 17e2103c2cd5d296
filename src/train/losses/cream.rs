//! CREAM.

use candle_core::{Result, Tensor};

use super::columns::PairColumn;
use super::loss::{Loss, LossInput};
use super::math::log_sigmoid;
use super::scores::Scores;

/// Agreement of two judges on the ranking of the prompt's answers. 1 without a comparison.
const CONSISTENCY: PairColumn = PairColumn {
    name: "consistency",
    default: 1.,
    range: (0., 1.),
    needs: &["consistency"],
    unfilled: ("does not say how far two judges agree", "give its `select` consistency = \"STEP\""),
    missing: (
        "no_consistency",
        "this loss reads how far two judges agree, and the pair does not say; give `select` a `consistency`",
    ),
    bad: ("bad_consistency", "must be from 0 to 1"),
};

pub(super) const LOSS: Loss = Loss {
    name: "cream",
    equation: "-C log s(beta D) - (1 - C) log s(-beta D)",
    paper: "CREAM, arXiv 2410.12735: the less two judges agree on a prompt's answers, the less its pair teaches",
    reads: &[LossInput::Reference, LossInput::Column(&CONSISTENCY)],
    each: cream,
};

fn cream(s: &Scores) -> Result<Tensor> {
    let (logit, c) = (s.logit()?, s.column(&CONSISTENCY)?);
    (log_sigmoid(&logit)? * c)?.neg()? - (log_sigmoid(&logit.neg()?)? * (1. - c)?)?
}
