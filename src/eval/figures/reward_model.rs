//! A judge as a reward model: Table 4 of the paper, see [`crate::eval::reward`].

use super::figure::{Compute, FigureDef, Unit};
use super::ranks::RankedStats;
use crate::eval::bootstrap::Estimate;
use crate::eval::reward;

const OF: &str = "scored answers with ranks by people";

pub(super) static PAIRWISE_ACCURACY: FigureDef = FigureDef {
    name: "pairwise_accuracy",
    of: OF,
    about: "share of the pairs that people order which the scores order in the same way",
    unit: Unit::Value,
    compute: Compute::RankedMean(|answers, _| reward::pairwise_accuracy(answers)),
};

pub(super) static PAIRWISE_TIED: FigureDef = FigureDef {
    name: "pairwise_tied",
    of: OF,
    about: "share of the same pairs that the scores tie",
    unit: Unit::Value,
    compute: Compute::RankedMean(|answers, _| reward::pairwise_tied(answers)),
};

pub(super) static FIVE_BEST: FigureDef = FigureDef {
    name: "five_best",
    of: OF,
    about: "share of the answers with a perfect score (`perfect`, 5) that people rank first",
    unit: Unit::Value,
    compute: Compute::RankedMean(|answers, options| reward::five_best(answers, options.perfect)),
};

pub(super) static EXACT_MATCH: FigureDef = FigureDef {
    name: "exact_match",
    of: OF,
    about: "share of the prompts whose whole order is correct",
    unit: Unit::Value,
    compute: Compute::RankedMean(|answers, _| reward::exact_match(answers)),
};

pub(super) static SPEARMAN: FigureDef = FigureDef {
    name: "spearman",
    of: OF,
    about: "mean over prompts of scipy's `spearmanr`",
    unit: Unit::Value,
    compute: Compute::RankedMean(|answers, _| reward::rank_spearman(answers)),
};

pub(super) static KENDALL: FigureDef = FigureDef {
    name: "kendall",
    of: OF,
    about: "mean over prompts of scipy's `kendalltau` (tau-b)",
    unit: Unit::Value,
    compute: Compute::RankedMean(|answers, _| reward::rank_kendall(answers)),
};

pub(super) static REWARD_NULLS: FigureDef = FigureDef {
    name: "reward_nulls",
    of: OF,
    about: "answers without a score",
    unit: Unit::Rows,
    compute: Compute::Ranked {
        when: |_| true,
        value: |stats, _| {
            let answers: usize = stats.prompts().map(<[_]>::len).sum();
            let known: usize = stats.prompts().map(|answers| reward::scored(answers).count()).sum();
            Some(Estimate::exact((answers - known) as f64, answers as u64))
        },
    },
};

pub(super) static SCORE_SPEARMAN: FigureDef = FigureDef {
    name: "score_spearman",
    of: "scored answers whose ranks come from scores",
    about: "`spearmanr` between those scores and the judge's, over all answers",
    unit: Unit::Value,
    compute: Compute::Ranked {
        when: has_given,
        value: |stats, options| reward::agreement(&stats.given().cloned().collect::<Vec<_>>(), &options.bootstrap),
    },
};

fn has_given(stats: &RankedStats) -> bool {
    stats.given().next().is_some()
}
