//! Lengths of answers.

use super::answers::AnswerStats;
use super::figure::{Compute, FigureDef, Unit};
use crate::eval::text::Length;

pub(super) static TOKENS: FigureDef = FigureDef {
    name: "tokens",
    of: "generated answers",
    about: "mean length in tokens",
    unit: Unit::Length,
    compute: Compute::AnswerMean { when: AnswerStats::tokenised, value: |answer| Some(answer.tokens? as f64) },
};

pub(super) static CUT: FigureDef = FigureDef {
    name: "cut",
    of: "generated answers",
    about: "share of answers that `max_tokens` cut",
    unit: Unit::Value,
    compute: Compute::AnswerMean {
        when: AnswerStats::tokenised,
        value: |answer| Some(f64::from(u8::from(answer.finish? == "length"))),
    },
};

pub(super) static CHARACTERS: FigureDef = FigureDef {
    name: "characters",
    of: "answers",
    about: "mean length in characters, as AlpacaEval counts them",
    unit: Unit::Length,
    compute: Compute::AnswerMean {
        when: |_| true,
        value: |answer| Some(Length::from_text(answer.text).characters as f64),
    },
};

pub(super) static WORDS: FigureDef = FigureDef {
    name: "words",
    of: "answers",
    about: "mean length in words",
    unit: Unit::Length,
    compute: Compute::AnswerMean { when: |_| true, value: |answer| Some(Length::from_text(answer.text).words as f64) },
};
