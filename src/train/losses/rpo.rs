//! Reward-aware preference optimisation: the difference of rewards follows the difference of the judge's scores.

use candle_core::{Result, Tensor};

use super::columns::PairColumn;
use super::loss::{Loss, LossInput};
use super::math::bernoulli_kl;
use super::parameters::Parameter;
use super::scores::Scores;

/// Factor from a difference of scores to a difference of rewards.
const MARGIN_SCALE: Parameter = Parameter {
    key: "margin_scale",
    about: "factor from a difference of scores to g of the rpo losses",
    default: 1.,
    range: (0., 1e6),
};

/// The judge's score of chosen minus its score of rejected.
const MARGIN: PairColumn = PairColumn {
    name: "margin",
    default: 0.,
    range: (f64::MIN, f64::MAX),
    needs: &["chosen_score", "rejected_score"],
    unfilled: ("has no scores of both answers", "choose another loss"),
    missing: (
        "no_score",
        "this loss aims at the difference of the answers' scores, and they have none; choose another loss",
    ),
    bad: ("bad_margin", "must be a finite number; judge the answers again"),
};

/// `g`.
fn target(s: &Scores) -> Result<Tensor> {
    s.column(&MARGIN)? * s.get(&MARGIN_SCALE)
}

pub(super) const SQUARED: Loss = Loss {
    name: "rpo_sq",
    equation: "(beta D - g)^2",
    paper: "reward-aware preference optimisation of Nemotron-4, arXiv 2406.11704, squared distance",
    reads: &[LossInput::Reference, LossInput::Parameter(&MARGIN_SCALE), LossInput::Column(&MARGIN)],
    each: rpo_sq,
};

fn rpo_sq(s: &Scores) -> Result<Tensor> {
    (s.logit()? - target(s)?)?.sqr()
}

pub(super) const BACKWARD_KL: Loss = Loss {
    name: "rpo_bwd_kl",
    equation: "KL(Bernoulli(s(g)) || Bernoulli(s(beta D)))",
    paper: "reward-aware preference optimisation of Nemotron-4, arXiv 2406.11704, backward KL",
    reads: &[LossInput::Reference, LossInput::Parameter(&MARGIN_SCALE), LossInput::Column(&MARGIN)],
    each: rpo_bwd_kl,
};

fn rpo_bwd_kl(s: &Scores) -> Result<Tensor> {
    bernoulli_kl(&target(s)?, &s.logit()?)
}

pub(super) const FORWARD_KL: Loss = Loss {
    name: "rpo_fwd_kl",
    equation: "KL(Bernoulli(s(beta D)) || Bernoulli(s(g)))",
    paper: "reward-aware preference optimisation of Nemotron-4, arXiv 2406.11704, forward KL",
    reads: &[LossInput::Reference, LossInput::Parameter(&MARGIN_SCALE), LossInput::Column(&MARGIN)],
    each: rpo_fwd_kl,
};

fn rpo_fwd_kl(s: &Scores) -> Result<Tensor> {
    bernoulli_kl(&s.logit()?, &target(s)?)
}
