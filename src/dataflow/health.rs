//! Compares the measurements of an iteration with the bounds of `[health]`: of the rows and the result of a
//! training or, in a run without training, of the rows that were judged last.

use std::collections::HashSet;

use super::operator::{GateValues, MeasureRows, Operator, Phase, Shared, Stage, TrainingIteration};
use crate::error::{Error, Result};
use crate::pipeline::{Gate, GateVerdict, Plan, Step};
use crate::store::Run;

impl<'a> TrainingIteration<'a> {
    /// Returns the nearest steps for which `wanted` is true: the step itself, or steps above it along
    /// `from`.
    pub fn nearest(&self, wanted: impl Fn(&Step<dyn Operator>) -> bool) -> Vec<&'a Step<dyn Operator>> {
        let (mut found, mut seen, mut todo) = (Vec::new(), HashSet::new(), vec![self.step]);
        while let Some(step) = todo.pop() {
            if wanted(step) {
                found.push(step);
                continue;
            }
            let above = step.inputs.iter().filter(|i| i.key == "from").filter_map(|i| self.plan.step(&i.step));
            todo.extend(above.filter(|s| seen.insert(s.name.as_str())));
        }
        found
    }

    /// Advises what to do about a value beyond a bound. If pairs may be the cause, it names the option that
    /// leaves them out.
    pub fn advice(&self, gate: &Gate) -> String {
        let mut words = gate.kind.advice.to_owned();
        let selects = self.nearest(|s| s.op.min_margin().is_some());
        if let (Some(select), "margin" | "score_entropy") = (selects.first(), gate.kind.name) {
            // A tenth of the score scale, or twice the current value if that is at least as much.
            let scale = self.nearest(|s| s.op.scale().is_some()).first().and_then(|s| s.op.scale());
            let tenth = scale.map_or(0.5, |(min, max)| 0.1 * f64::from(max - min));
            let now = select.op.min_margin().unwrap_or_default();
            let least = if now < tenth { tenth } else { 2. * now };
            let least = (least * 1000.).round() / 1000.;
            words += &format!("; --set step.{}.min_margin={least:?} leaves pairs out that are nearer", select.name);
        }
        words
    }
}

/// Returns the steps that are measured if nothing is trained: those that judge or select and that no other
/// such step reads.
fn judged_steps(plan: &Plan<dyn Operator>) -> Vec<(&Step<dyn Operator>, MeasureRows)> {
    if plan.steps.iter().any(Step::is_training) {
        return Vec::new();
    }
    let mut used = HashSet::new();
    let mut last = Vec::new();
    // The steps are visited in reverse order of dependency, so every reader of a step comes before it.
    for step in plan.steps.iter().rev() {
        let measure = step.op.measure();
        let is_used = used.contains(step.name.as_str());
        if measure.is_some() || is_used {
            used.extend(step.inputs.iter().map(|i| i.step.as_str()));
        }
        last.extend(measure.filter(|_| !is_used).map(|measure| (step, measure)));
    }
    last.reverse();
    last
}

/// Measures every iteration of a plan from committed files.
///
/// # Errors
/// A committed file cannot be read.
pub fn gate_values<'a>(plan: &'a Plan<dyn Operator>, run: &'a Run) -> Result<Vec<(TrainingIteration<'a>, GateValues)>> {
    let mut all = Vec::new();
    for step in &plan.steps {
        let Stage::Train(train) = step.op.stage() else { continue };
        for iteration in step.iterations.clone() {
            let training = TrainingIteration { plan, run, step, iteration };
            let mut gate_values = train.health(training, Phase::Rows)?;
            gate_values.extend(train.health(training, Phase::Training)?);
            all.push((training, gate_values));
        }
    }
    for (step, measure) in judged_steps(plan) {
        let training = TrainingIteration { plan, run, step, iteration: *step.iterations.start() };
        all.push((training, measure(training)?));
    }
    Ok(all)
}

/// Measures a training, warns about values beyond a bound, and stops the run if the bound says so.
pub(super) fn check(shared: &Shared, step: &Step<dyn Operator>, iteration: u32, phase: Phase) -> Result<()> {
    let Stage::Train(train) = step.op.stage() else { return Ok(()) };
    let training = TrainingIteration { plan: &shared.plan, run: &shared.run, step, iteration };
    let when = if phase == Phase::Rows && !step.op.streams() { "is not trained" } else { "goes no further" };
    enforce_bounds(training, train.health(training, phase)?, &format!("iteration {iteration} {when}"))
}

/// Like [`check`], for a plan that trains nothing, after all its rows are committed. It is too late for
/// warnings, so nothing is measured unless a bound can stop the run; the closing summary measures and
/// warns.
pub(super) fn check_untrained(shared: &Shared) -> Result<()> {
    if shared.plan.health.iter().all(|gate| gate.stop.is_none()) {
        return Ok(());
    }
    for (step, measure) in judged_steps(&shared.plan) {
        let training =
            TrainingIteration { plan: &shared.plan, run: &shared.run, step, iteration: *step.iterations.start() };
        enforce_bounds(training, measure(training)?, &format!("the run stops at a health bound on `{}`", step.name))?;
    }
    Ok(())
}

/// Compares measurements with the bounds. `what` names the consequence if one of them stops the run.
fn enforce_bounds(training: TrainingIteration<'_>, gate_values: GateValues, what: &str) -> Result<()> {
    let mut stops = Vec::new();
    for (name, value) in gate_values {
        let Some(gate) = training.plan.health.iter().find(|g| g.kind.name == name) else { continue };
        match gate.verdict(value) {
            GateVerdict::Pass => {}
            GateVerdict::Warn => {
                let (step, words, advice) = (&training.step.name, gate.words(value), training.advice(gate));
                tracing::warn!("`{step}`, iteration {}: {words}; {advice}", training.iteration);
            }
            GateVerdict::Stop => stops.push((gate, value)),
        }
    }
    let Some((first, _)) = stops.first() else { return Ok(()) };
    let words: Vec<String> = stops.iter().map(|(gate, value)| gate.words(*value)).collect();
    let help = format!(
        "{}; the rows are in the run's data. The same command with --set health.{}.stop=.. and a wider bound goes on from here",
        training.advice(first),
        first.kind.name
    );
    Err(Error::user(format!("{what}: {}", words.join("; "))).help(help))
}
