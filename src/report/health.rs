//! What the bounds of `[health]` came to, training by training.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::dataflow::{Known, Operator, Round, Stage};
use crate::error::Result;
use crate::pipeline::{Gate, Plan, Verdict};
use crate::store::Run;

/// A training of an iteration, with what was measured of it.
struct Measured {
    step: String,
    iteration: u32,
    readings: Vec<(Gate, f64)>,
}

/// The measured values of every training that is done, from the committed rows: the same after a resume.
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
        for step in &plan.steps {
            let Stage::Train(train) = step.op.stage() else { continue };
            for iteration in step.iterations.clone() {
                let round = Round { plan, run, step, iteration };
                let mut readings = train.health(round, Known::Rows)?;
                readings.extend(train.health(round, Known::Training)?);
                let gate = |(name, value)| Some((*plan.health.iter().find(|g| g.kind.name == name)?, value));
                let readings: Vec<(Gate, f64)> = readings.into_iter().filter_map(gate).collect();
                if !readings.is_empty() {
                    rounds.push(Measured { step: step.name.clone(), iteration, readings });
                }
            }
        }
        Ok(Self { rounds })
    }

    /// As in `summary.json`: a list of step, iteration, gate, value, bounds and verdict.
    pub fn json(&self) -> Value {
        let all = self.rounds.iter().flat_map(|Measured { step, iteration, readings }| {
            readings.iter().map(move |(gate, value)| {
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
            for (i, (gate, value)) in readings.iter().enumerate() {
                // Writing to a string cannot fail.
                let _ = write!(line, "{} {} {value:.3}", if i > 0 { "," } else { "" }, gate.kind.name);
            }
            lines.push(line);
            for (gate, value) in readings.iter().filter(|(g, v)| g.verdict(*v) != Verdict::Pass) {
                lines.push(format!("{step} {iteration}: {}; {}", gate.words(*value), gate.kind.advice));
            }
        }
        lines
    }
}
