//! `[health]`: bounds on measurements of an iteration's rows and training, which warn or stop the run.

use super::fields::Fields;

/// A quantity that is measured.
#[derive(Debug)]
pub struct GateKind {
    /// Its key in `[health]`.
    pub name: &'static str,
    /// The quantity, with its unit.
    pub about: &'static str,
    /// Whether small values are bad; otherwise large ones are.
    pub low_is_bad: bool,
    /// Default bound of the warning.
    pub warn: f64,
    /// What to do about it.
    pub advice: &'static str,
}

/// Every gate. All but the last are known before an iteration's training starts, or after it under a
/// streaming data schedule.
pub static GATES: [GateKind; 7] = [
    GateKind {
        name: "pair_yield",
        about: "preference pairs per prompt whose answers were judged",
        low_is_bad: true,
        warn: 0.25,
        advice: "see data/errors for why prompts gave no pair; more samples, a higher temperature, a lower min_margin or more \
                 training on judged answers give more",
    },
    GateKind {
        name: "parse_failures",
        about: "share of judgements without a readable score",
        low_is_bad: false,
        warn: 0.2,
        advice: "look at the judgements' texts: raise the judge's max_tokens, mend its pattern or rubric, or train it on judged \
                 answers",
    },
    GateKind {
        name: "score_entropy",
        about: "entropy of the judgements' scores, rounded to whole points, in bits: 0 where all are the same",
        low_is_bad: true,
        warn: 0.5,
        advice: "the judge gives (nearly) everyone the same score: train it on judged answers of all scores, replay them while \
                 training on pairs, or name another judge",
    },
    GateKind {
        name: "margin",
        about: "difference of the scores of a pair, the median, as a share of the judge's scale",
        low_is_bad: true,
        warn: 0.02,
        advice: "the judge hardly tells the answers apart, and such pairs teach noise: set min_margin on the step that selects, \
                 take more samples of a judgement, or name another judge",
    },
    GateKind {
        name: "length_gap",
        about: "how much longer chosen answers are than rejected ones, as a share of the latter, in tokens",
        low_is_bad: false,
        warn: 0.3,
        advice: "the judge may reward length: select with length_control or length_penalty",
    },
    GateKind {
        name: "duplicates",
        about: "share of answers whose text equals another answer's in the iteration",
        low_is_bad: false,
        warn: 0.9,
        advice: "the policy says the same again and again: raise the temperature of `generate`, or look at the prompts",
    },
    GateKind {
        name: "chosen_logprob",
        about: "how far the log-probability of chosen answers has fallen below the reference's in the last quarter of a \
                training on pairs, in nats a token; known when it has ended",
        low_is_bad: false,
        warn: 0.5,
        advice: "the policy unlearns what it should prefer: lower the learning rate, raise beta, or add nll_weight",
    },
];

/// A gate with its bounds.
#[derive(Clone, Copy, Debug)]
pub struct Gate {
    /// The measured quantity.
    pub kind: &'static GateKind,
    /// Bound of the warning.
    pub warn: f64,
    /// Bound that stops the run.
    pub stop: Option<f64>,
}

/// The result of comparing a value with its bounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GateVerdict {
    /// Within all bounds.
    Pass,
    /// Beyond the bound of the warning.
    Warn,
    /// Beyond the bound that stops the run.
    Stop,
}

impl GateVerdict {
    /// Returns the name used in `summary.json`.
    pub fn as_str(self) -> &'static str {
        match self {
            GateVerdict::Pass => "pass",
            GateVerdict::Warn => "warn",
            GateVerdict::Stop => "stop",
        }
    }
}

impl Gate {
    /// Compares a value with the bounds.
    pub fn verdict(&self, value: f64) -> GateVerdict {
        let beyond = |bound: f64| if self.kind.low_is_bad { value < bound } else { value > bound };
        match self.stop {
            Some(stop) if beyond(stop) => GateVerdict::Stop,
            _ if beyond(self.warn) => GateVerdict::Warn,
            _ => GateVerdict::Pass,
        }
    }
    /// Describes a value beyond its bound: `pair_yield is 0.120, below health.pair_yield.stop = 0.3`.
    pub fn words(&self, value: f64) -> String {
        let (key, bound) = match (self.verdict(value), self.stop) {
            (GateVerdict::Stop, Some(stop)) => ("stop", stop),
            _ => ("warn", self.warn),
        };
        let side = if self.kind.low_is_bad { "below" } else { "above" };
        format!("{0} is {value:.3}, {side} health.{0}.{key} = {bound}", self.kind.name)
    }
}

/// Reads the keys of the section.
pub(super) fn section(f: &mut Fields<'_>) -> Vec<Gate> {
    let gate = |kind: &'static GateKind| {
        f.table(kind.name, kind.about, |f| {
            let (warn, stop) = if kind.low_is_bad {
                ("values below it cause a warning", "values below it stop the run; never, if not set")
            } else {
                ("values above it cause a warning", "values above it stop the run; never, if not set")
            };
            let warn = f.float("warn", warn, Some(kind.warn), -1e9..=1e9);
            Gate { kind, warn, stop: f.optional_float("stop", stop, -1e9..=1e9) }
        })
    };
    GATES.iter().map(gate).collect()
}
