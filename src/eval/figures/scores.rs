//! Scores of answers.

use super::answers::AnswerStats;
use super::figure::{Compute, FigureDef, Unit};
use crate::eval::bootstrap::Estimate;

pub(super) static SCORE: FigureDef = FigureDef {
    name: "score",
    of: "scored answers",
    about: "mean score",
    unit: Unit::Value,
    compute: Compute::AnswerMean { when: AnswerStats::scored, value: |answer| answer.score },
};

pub(super) static UNSCORED: FigureDef = FigureDef {
    name: "unscored",
    of: "scored answers",
    about: "answers without a score",
    unit: Unit::Rows,
    compute: Compute::Answers {
        when: AnswerStats::scored,
        value: |stats, _| {
            let all = stats.scores().len() as u64 + stats.unscored();
            Some(Estimate::exact(stats.unscored() as f64, all))
        },
    },
};
