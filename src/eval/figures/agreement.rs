//! Agreement of verdicts with expected outcomes, and of the two orders with each other.

use super::comparisons::Comparison;
use super::figure::{Compute, FigureDef, Unit};
use crate::eval::win_rate::ComparisonOutcome;

const OF: &str = "comparisons with an expected outcome other than a tie";

pub(super) static AGREEMENT: FigureDef = FigureDef {
    name: "agreement",
    of: OF,
    about: "share whose outcome agrees with the ranks",
    unit: Unit::Value,
    compute: Compute::ComparisonMean(|c| {
        as_expected(c, Some(c.outcome.name()).filter(|_| c.outcome != ComparisonOutcome::Null))
    }),
};

pub(super) static FIRST: FigureDef = FigureDef {
    name: "agreement_first",
    of: OF,
    about: "the same for the order in which the first answer (the better one by ranks) is read first",
    unit: Unit::Value,
    compute: Compute::ComparisonMean(|c| as_expected(c, c.first_shown_first)),
};

pub(super) static SECOND: FigureDef = FigureDef {
    name: "agreement_second",
    of: OF,
    about: "the same for the order in which it is read second",
    unit: Unit::Value,
    compute: Compute::ComparisonMean(|c| as_expected(c, c.second_shown_first)),
};

pub(super) static ORDER: FigureDef = FigureDef {
    name: "order_agreement",
    of: "comparisons judged in both orders",
    about: "share in which both orders agree",
    unit: Unit::Value,
    compute: Compute::ComparisonMean(|c| Some(share(c.first_shown_first? == c.second_shown_first?))),
};

/// Whether a verdict is the expected one; nothing without a verdict or an expected winner.
fn as_expected(comparison: &Comparison<'_>, verdict: Option<&str>) -> Option<f64> {
    let expected = comparison.expected.filter(|expected| *expected != ComparisonOutcome::Tie.name())?;
    Some(share(verdict? == expected))
}

fn share(counts: bool) -> f64 {
    f64::from(u8::from(counts))
}
