//! Holds what trainings measure of an iteration against the bounds of `[health]`.

use super::operator::{Operator, Shared, Stage};
use crate::error::{Error, Result};
use crate::pipeline::{Plan, Step, Verdict};
use crate::store::Run;

/// An iteration of a training.
#[derive(Clone, Copy)]
pub struct Round<'a> {
    /// The plan.
    pub plan: &'a Plan<dyn Operator>,
    /// The run directory.
    pub run: &'a Run,
    /// The training step.
    pub step: &'a Step<dyn Operator>,
    /// Which of its iterations.
    pub iteration: u32,
}

/// What is to be measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Known {
    /// What the rows say that it is trained on.
    Rows,
    /// What the training itself says.
    Training,
}

/// Values by the name of their gate.
pub type Readings = Vec<(&'static str, f64)>;

/// Measures, warns of what is beyond a bound, and stops the run where that is asked for.
pub(super) fn check(shared: &Shared, step: &Step<dyn Operator>, iteration: u32, known: Known) -> Result<()> {
    let Stage::Train(train) = step.op.stage() else { return Ok(()) };
    let readings = train.health(Round { plan: &shared.plan, run: &shared.run, step, iteration }, known)?;
    let mut stops = Vec::new();
    for (name, value) in readings {
        let Some(gate) = shared.plan.health.iter().find(|g| g.kind.name == name) else { continue };
        match gate.verdict(value) {
            Verdict::Pass => {}
            Verdict::Warn => {
                tracing::warn!("`{}`, iteration {iteration}: {}; {}", step.name, gate.words(value), gate.kind.advice);
            }
            Verdict::Stop => stops.push((gate, value)),
        }
    }
    let Some((first, _)) = stops.first() else { return Ok(()) };
    let words: Vec<String> = stops.iter().map(|(gate, value)| gate.words(*value)).collect();
    let when = if known == Known::Rows && !step.op.streams() { "is not trained" } else { "goes no further" };
    let help = format!(
        "{}; the rows are in the run's data. The same command with --set health.{}.stop=.. and a wider bound goes on from here",
        first.kind.advice, first.kind.name
    );
    Err(Error::user(format!("iteration {iteration} {when}: {}", words.join("; "))).help(help))
}
