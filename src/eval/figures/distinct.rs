//! Variety of answers.

use super::answers::AnswerStats;
use super::figure::{Compute, FigureDef, Unit};
use crate::eval::bootstrap::Estimate;
use crate::eval::text::distinct_n;

pub(super) static DISTINCT_1: FigureDef = FigureDef {
    name: "distinct_1",
    of: "the first answers (`distinct_of`, 1000)",
    about: "distinct-1: different words divided by all words",
    unit: Unit::Value,
    compute: Compute::Answers { when: |_| true, value: |stats, _| distinct(stats, 1) },
};

pub(super) static DISTINCT_2: FigureDef = FigureDef {
    name: "distinct_2",
    of: "the first answers",
    about: "distinct-2: the same for pairs of adjacent words",
    unit: Unit::Value,
    compute: Compute::Answers { when: |_| true, value: |stats, _| distinct(stats, 2) },
};

fn distinct(stats: &AnswerStats, n: usize) -> Option<Estimate> {
    distinct_n(stats.texts(), n).map(|(value, all)| Estimate::exact(value, all))
}
