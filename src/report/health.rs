//! What the bounds of `[health]` came to: training by training, or in a run without one for what was judged.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::dataflow::{Operator, readings};
use crate::error::Result;
use crate::pipeline::{Gate, Plan, Verdict};
use crate::store::Run;

/// An iteration of a training, or of a step that judges, with what was measured of it.
struct Measured {
    step: String,
    iteration: u32,
    /// With what to do about a value beyond a bound.
    readings: Vec<(Gate, f64, String)>,
}

/// The measured values of every training that is done, or of what was judged in a run without one, from the committed rows: the
/// same after a resume.
#[derive(Default)]
pub struct Health {
    rounds: Vec<Measured>,
}

impl Health {
    /// Measures.
    ///
    /// # Errors
    /// A committed file cannot be read.
    pub fn of(plan: &Plan<dyn Operator>, run: &Run) -> Result<Self> {
        let mut rounds = Vec::new();
        for (round, readings) in readings(plan, run)? {
            let gate = |(name, value)| {
                let gate = plan.health.iter().find(|g| g.kind.name == name)?;
                let advice = if gate.verdict(value) == Verdict::Pass { String::new() } else { round.advice(gate) };
                Some((*gate, value, advice))
            };
            let readings: Vec<(Gate, f64, String)> = readings.into_iter().filter_map(gate).collect();
            if !readings.is_empty() {
                rounds.push(Measured { step: round.step.name.clone(), iteration: round.iteration, readings });
            }
        }
        Ok(Self { rounds })
    }

    /// As in `summary.json`: a list of step, iteration, gate, value, bounds and verdict.
    pub fn json(&self) -> Value {
        let all = self.rounds.iter().flat_map(|Measured { step, iteration, readings }| {
            readings.iter().map(move |(gate, value, _)| {
                json!({
                    "step": step, "iteration": iteration, "gate": gate.kind.name, "value": value, "warn": gate.warn,
                    "stop": gate.stop, "verdict": gate.verdict(*value).as_str(),
                })
            })
        });
        all.collect()
    }

    /// A line for each training with its values, and one for each value beyond a bound.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for Measured { step, iteration, readings } in &self.rounds {
            let mut line = format!("{step} {iteration}:");
            for (i, (gate, value, _)) in readings.iter().enumerate() {
                // Writing to a string cannot fail.
                let _ = write!(line, "{} {} {value:.3}", if i > 0 { "," } else { "" }, gate.kind.name);
            }
            lines.push(line);
            for (gate, value, advice) in readings.iter().filter(|(g, v, _)| g.verdict(*v) != Verdict::Pass) {
                lines.push(format!("{step} {iteration}: {}; {advice}", gate.words(*value)));
            }
        }
        lines
    }
}
