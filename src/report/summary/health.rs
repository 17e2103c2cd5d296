//! Results of the `[health]` gates: for each training, or for the judged steps of a run without trainings.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::written::written_list;
use crate::dataflow::{Operator, gate_values};
use crate::error::Result;
use crate::pipeline::{GateVerdict, Plan};
use crate::store::Run;

/// The measured value of one gate for an iteration of a training or for a judging step: an item of `health`
/// in `summary.json`. A non-finite number is stored as null.
#[derive(Serialize, Deserialize)]
struct Reading {
    step: String,
    iteration: u32,
    gate: String,
    value: Option<f64>,
    warn: Option<f64>,
    stop: Option<f64>,
    verdict: String,
    /// What is wrong with a value beyond a bound; `advice` suggests a remedy.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    words: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    advice: String,
}

impl Reading {
    fn passes(&self) -> bool {
        self.verdict == GateVerdict::Pass.as_str()
    }
}

/// Gate values of every finished training, or of the judged steps of a run without trainings. They are
/// computed from committed rows, so a resume does not change them.
#[derive(Default)]
pub struct Health {
    gate_values: Vec<Reading>,
}

impl Health {
    /// Measures the gates of a run.
    ///
    /// # Errors
    /// A committed file cannot be read.
    pub fn of(plan: &Plan<dyn Operator>, run: &Run) -> Result<Self> {
        let mut all = Vec::new();
        for (round, gate_values) in gate_values(plan, run)? {
            for (name, value) in gate_values {
                let Some(gate) = plan.health.iter().find(|g| g.kind.name == name) else { continue };
                let verdict = gate.verdict(value);
                let (words, advice) = match verdict {
                    GateVerdict::Pass => (String::new(), String::new()),
                    GateVerdict::Warn | GateVerdict::Stop => (gate.words(value), round.advice(gate)),
                };
                all.push(Reading {
                    step: round.step.name.clone(),
                    iteration: round.iteration,
                    gate: gate.kind.name.to_owned(),
                    value: Some(value),
                    warn: Some(gate.warn),
                    stop: gate.stop,
                    verdict: verdict.as_str().to_owned(),
                    words,
                    advice,
                });
            }
        }
        Ok(Self { gate_values: all })
    }

    /// Reads the list that a run wrote to `summary.json`.
    ///
    /// # Errors
    /// The list has unexpected keys.
    pub(crate) fn written(summary: &Value) -> Result<Self> {
        Ok(Self { gate_values: written_list(summary, "health")? })
    }

    /// Returns the list for `summary.json`: step, iteration, gate, value, bounds and verdict, with words
    /// and advice where the value is beyond a bound.
    pub fn json(&self) -> Value {
        json!(self.gate_values)
    }

    /// Returns one line with the values of each training, and one line for each value beyond a bound.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let same_round = |a: &Reading, b: &Reading| (&a.step, a.iteration) == (&b.step, b.iteration);
        for round in self.gate_values.chunk_by(same_round) {
            let mut line = format!("{} {}:", round[0].step, round[0].iteration);
            for (i, reading) in round.iter().enumerate() {
                let comma = if i > 0 { "," } else { "" };
                // Writing to a string cannot fail.
                let _ = match reading.value {
                    Some(value) => write!(line, "{comma} {} {value:.3}", reading.gate),
                    None => write!(line, "{comma} {} not a number", reading.gate),
                };
            }
            lines.push(line);
            for reading in round.iter().filter(|reading| !reading.passes()) {
                let Reading { step, iteration, gate, words, advice, .. } = reading;
                lines.push(match words.as_str() {
                    // Summaries of earlier versions have no words.
                    "" => format!("{step} {iteration}: {gate} is beyond its bound"),
                    words => format!("{step} {iteration}: {words}; {advice}"),
                });
            }
        }
        lines
    }
}
