//! Changes of scores and lengths since the iteration before.

use super::answers::AnswerStats;
use super::figure::{Change, Compute, FigureDef, Unit};
use super::{lengths, scores};
use crate::eval::bootstrap::Estimate;
use crate::eval::drift::{self, IterationMeans};

const OF: &str = "scored answers and those of the iteration before";

pub(super) static SCORE_SHIFT: FigureDef = FigureDef {
    name: "score_shift",
    of: OF,
    about: "Wasserstein distance between the scores, in points",
    unit: Unit::Value,
    compute: Compute::Change {
        when: |_| true,
        value: |change, _| exact(change, drift::wasserstein(change.before.scores(), change.now.scores())),
    },
};

pub(super) static SCORE_VARIATION: FigureDef = FigureDef {
    name: "score_variation",
    of: OF,
    about: "total variation between the scores, in bins of half a point (`bin`)",
    unit: Unit::Value,
    compute: Compute::Change {
        when: |_| true,
        value: |change, options| {
            exact(change, drift::total_variation(change.before.scores(), change.now.scores(), options.bin))
        },
    },
};

pub(super) static LENGTH_GROWTH: FigureDef = FigureDef {
    name: "length_growth",
    of: OF,
    about: "growth of the mean length in tokens, as a share",
    unit: Unit::Growth,
    compute: Compute::Change {
        when: |change| means(change, 0).is_some(),
        value: |change, _| growth(change, |means| means.tokens),
    },
};

pub(super) static SCORE_GROWTH: FigureDef = FigureDef {
    name: "score_growth",
    of: OF,
    about: "growth of the mean score, as a share",
    unit: Unit::Growth,
    compute: Compute::Change {
        when: |change| means(change, 0).is_some(),
        value: |change, _| growth(change, |means| means.score),
    },
};

/// A warning if the length has grown by `least` (a share) or more in `iteration`, and more than the score.
pub(super) fn warning(change: &Change<'_>, iteration: u32, least: f64) -> Option<String> {
    let (before, now) = means(change, iteration)?;
    drift::outgrown(&before, &now, least)
}

/// A finite number as a figure of the scored answers.
fn exact(change: &Change<'_>, value: Option<f64>) -> Option<Estimate> {
    let value = value.filter(|value| value.is_finite())?;
    Some(Estimate::exact(value, change.now.scores().len() as u64))
}

fn growth(change: &Change<'_>, of: fn(&IterationMeans) -> f64) -> Option<Estimate> {
    let (before, now) = means(change, 0)?;
    exact(change, Some(drift::growth(of(&before), of(&now))))
}

/// The means of both iterations, if both have tokens and scores.
fn means(change: &Change<'_>, iteration: u32) -> Option<(IterationMeans, IterationMeans)> {
    let of = |stats: &AnswerStats, iteration: u32| {
        let known = stats.tokenised() && !stats.scores().is_empty();
        let mean = |name: &str| stats.sums(name).filter(|_| known).map(|sums| sums.mean());
        Some(IterationMeans { iteration, tokens: mean(lengths::TOKENS.name)?, score: mean(scores::SCORE.name)? })
    };
    of(change.before, iteration.saturating_sub(1)).zip(of(change.now, iteration))
}
