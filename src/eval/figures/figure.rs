//! [`FigureDef`]: a figure, with everything that its computation, its output and its documentation need.

use std::fmt;

use super::answers::{AnswerRow, AnswerStats};
use super::comparisons::{Comparison, ComparisonStats};
use super::ranks::RankedStats;
use crate::eval::bootstrap::{Bootstrap, ClusterSum, Estimate};
use crate::eval::reward::RankedAnswer;

/// A figure.
pub struct FigureDef {
    /// Name in the dataset `measures`, in JSON and in tables.
    pub name: &'static str,
    /// Which rows it is a figure of, for the documentation.
    pub of: &'static str,
    /// Meaning, for the documentation.
    pub about: &'static str,
    /// What it counts, which decides how it is printed.
    pub unit: Unit,
    /// How it is computed.
    pub compute: Compute,
}

impl fmt::Debug for FigureDef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// What a figure counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// A number of rows.
    Rows,
    /// A mean length.
    Length,
    /// A mean score, a distance between scores, a share or a correlation.
    Value,
    /// A relative change.
    Growth,
}

/// How a figure is computed. A figure has a null value if no row counts for it.
pub enum Compute {
    /// A mean over comparisons with an interval over prompts. Comparisons without a value do not count. Without a
    /// value in any comparison, the figure is left out.
    ComparisonMean(fn(&Comparison<'_>) -> Option<f64>),
    /// Any figure of all comparisons.
    Comparisons(fn(&ComparisonStats, &FigureOptions) -> Option<Estimate>),
    /// A mean over answers with an interval over prompts.
    AnswerMean {
        /// Whether the figure is there at all.
        when: fn(&AnswerStats) -> bool,
        /// The value of an answer. Answers without one do not count.
        value: fn(&AnswerRow<'_>) -> Option<f64>,
    },
    /// Any figure of all answers.
    Answers {
        /// Whether the figure is there at all.
        when: fn(&AnswerStats) -> bool,
        /// The figure.
        value: fn(&AnswerStats, &FigureOptions) -> Option<Estimate>,
    },
    /// A figure of scored answers and of those of the iteration before.
    Change {
        /// Whether the figure is there at all.
        when: fn(&Change<'_>) -> bool,
        /// The figure.
        value: fn(&Change<'_>, &FigureOptions) -> Option<Estimate>,
    },
    /// A mean over scored answers with ranks by people: the sum and the weight of a prompt's answers.
    RankedMean(fn(&[RankedAnswer], &FigureOptions) -> ClusterSum),
    /// Any figure of all scored answers with ranks by people.
    Ranked {
        /// Whether the figure is there at all.
        when: fn(&RankedStats) -> bool,
        /// The figure.
        value: fn(&RankedStats, &FigureOptions) -> Option<Estimate>,
    },
}

/// The scored answers of an iteration and those of the iteration before.
#[derive(Clone, Copy)]
pub struct Change<'a> {
    /// The iteration before.
    pub before: &'a AnswerStats,
    /// The iteration.
    pub now: &'a AnswerStats,
}

/// Options of the figures.
#[derive(Clone, Copy, Debug)]
pub struct FigureOptions {
    /// How intervals are computed.
    pub bootstrap: Bootstrap,
    /// The greatest score of the rubric.
    pub perfect: f64,
    /// Width of the bins of a distribution of scores, in points.
    pub bin: f64,
}

impl Default for FigureOptions {
    /// 10,000 resamples, the paper's 5 points, bins of half a point.
    fn default() -> Self {
        Self { bootstrap: Bootstrap::default(), perfect: 5., bin: 0.5 }
    }
}

/// A computed figure. It has no value if no row counts for it.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// Its definition.
    pub def: &'static FigureDef,
    /// Its value with interval and number of rows.
    pub estimate: Option<Estimate>,
}
