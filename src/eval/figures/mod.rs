//! The figures of an evaluation. A figure is a [`FigureDef`] in a file here, with its meaning and its computation, and
//! its line in [`FIGURES`].

mod agreement;
mod answers;
mod changes;
mod comparisons;
mod distinct;
mod figure;
mod lengths;
mod ranks;
mod reward_model;
mod scores;
mod sums;
mod wins;

use super::bootstrap::Estimate;

pub use answers::{AnswerRow, AnswerStats};
pub use comparisons::{Comparison, ComparisonStats};
pub use figure::{Change, Compute, Figure, FigureDef, FigureOptions, Unit};
pub use ranks::RankedStats;

/// Every figure, in the order of the output.
pub static FIGURES: &[&FigureDef] = &[
    &wins::WIN_RATE,
    &wins::WINS,
    &wins::TIES,
    &wins::LOSSES,
    &wins::NULLS,
    &agreement::AGREEMENT,
    &agreement::FIRST,
    &agreement::SECOND,
    &agreement::ORDER,
    &lengths::TOKENS,
    &lengths::CUT,
    &lengths::CHARACTERS,
    &lengths::WORDS,
    &distinct::DISTINCT_1,
    &distinct::DISTINCT_2,
    &scores::SCORE,
    &scores::UNSCORED,
    &changes::SCORE_SHIFT,
    &changes::SCORE_VARIATION,
    &changes::LENGTH_GROWTH,
    &changes::SCORE_GROWTH,
    &reward_model::PAIRWISE_ACCURACY,
    &reward_model::PAIRWISE_TIED,
    &reward_model::FIVE_BEST,
    &reward_model::EXACT_MATCH,
    &reward_model::SPEARMAN,
    &reward_model::KENDALL,
    &reward_model::REWARD_NULLS,
    &reward_model::SCORE_SPEARMAN,
];

impl FigureDef {
    /// The figure with this name.
    pub fn by_name(name: &str) -> Option<&'static Self> {
        FIGURES.iter().find(|def| def.name == name).copied()
    }
}

impl Default for ComparisonStats {
    /// No comparisons yet.
    fn default() -> Self {
        Self::new(FIGURES.iter().filter_map(|def| match def.compute {
            Compute::ComparisonMean(value) => Some((def.name, value)),
            _ => None,
        }))
    }
}

impl Default for AnswerStats {
    /// No answers yet.
    fn default() -> Self {
        Self::new(FIGURES.iter().filter_map(|def| match def.compute {
            Compute::AnswerMean { value, .. } => Some((def.name, value)),
            _ => None,
        }))
    }
}

/// The figures of comparisons.
pub fn of_comparisons(stats: &ComparisonStats, options: &FigureOptions) -> Vec<Figure> {
    figures(|def| match &def.compute {
        Compute::ComparisonMean(_) => {
            let sums = stats.sums(def.name).filter(|sums| !sums.is_empty())?;
            Some(sums.estimate(&options.bootstrap))
        }
        Compute::Comparisons(value) => Some(value(stats, options)),
        _ => None,
    })
}

/// The figures of answers.
pub fn of_answers(stats: &AnswerStats, options: &FigureOptions) -> Vec<Figure> {
    figures(|def| match &def.compute {
        Compute::AnswerMean { when, .. } if when(stats) => {
            Some(stats.sums(def.name).and_then(|sums| sums.estimate(&options.bootstrap)))
        }
        Compute::Answers { when, value } if when(stats) => Some(value(stats, options)),
        _ => None,
    })
}

/// How the scored answers of `iteration` differ from those of the iteration before, and a warning if the length has
/// grown by `growth` (a share) or more, and more than the score.
pub fn of_change(
    change: &Change<'_>,
    iteration: u32,
    growth: f64,
    options: &FigureOptions,
) -> (Vec<Figure>, Option<String>) {
    let figures = figures(|def| match &def.compute {
        Compute::Change { when, value } if when(change) => Some(value(change, options)),
        _ => None,
    });
    (figures, changes::warning(change, iteration, growth))
}

/// The figures of scored answers with ranks by people.
pub fn of_ranks(stats: &RankedStats, options: &FigureOptions) -> Vec<Figure> {
    figures(|def| match &def.compute {
        Compute::RankedMean(sum) => {
            let prompts: Vec<_> = stats.prompts().map(|answers| sum(answers, options)).collect();
            Some(options.bootstrap.ratio(&prompts))
        }
        Compute::Ranked { when, value } if when(stats) => Some(value(stats, options)),
        _ => None,
    })
}

/// The figures that `estimate` has, in the order of [`FIGURES`]. It returns nothing for a figure that is left out.
fn figures(estimate: impl Fn(&'static FigureDef) -> Option<Option<Estimate>>) -> Vec<Figure> {
    FIGURES.iter().filter_map(|&def| Some(Figure { def, estimate: estimate(def)? })).collect()
}
