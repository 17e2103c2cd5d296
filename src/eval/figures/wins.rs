//! Who wins a comparison.

use super::figure::{Compute, FigureDef, Unit};
use crate::eval::bootstrap::Estimate;
use crate::eval::win_rate::ComparisonOutcome;

const OF: &str = "comparisons";

pub(super) static WIN_RATE: FigureDef = FigureDef {
    name: "win_rate",
    of: OF,
    about: "wins plus half of the ties, divided by the comparisons with an outcome",
    unit: Unit::Value,
    compute: Compute::Comparisons(|stats, options| {
        stats.record.share(|[wins, ties, ..]| wins + ties / 2., &options.bootstrap)
    }),
};

pub(super) static WINS: FigureDef = FigureDef {
    name: "wins",
    of: OF,
    about: "share of wins among the comparisons with an outcome",
    unit: Unit::Value,
    compute: Compute::Comparisons(|stats, options| stats.record.share(|[wins, ..]| wins, &options.bootstrap)),
};

pub(super) static TIES: FigureDef = FigureDef {
    name: "ties",
    of: OF,
    about: "share of ties",
    unit: Unit::Value,
    compute: Compute::Comparisons(|stats, options| stats.record.share(|[_, ties, _]| ties, &options.bootstrap)),
};

pub(super) static LOSSES: FigureDef = FigureDef {
    name: "losses",
    of: OF,
    about: "share of losses",
    unit: Unit::Value,
    compute: Compute::Comparisons(|stats, options| stats.record.share(|[_, _, losses]| losses, &options.bootstrap)),
};

pub(super) static NULLS: FigureDef = FigureDef {
    name: "nulls",
    of: OF,
    about: "comparisons without an outcome: an order without a readable verdict, or no answer to compare with",
    unit: Unit::Rows,
    compute: Compute::Comparisons(|stats, _| {
        let nulls = stats.record.count(ComparisonOutcome::Null);
        Some(Estimate::exact(nulls as f64, stats.record.n() + nulls))
    }),
};
