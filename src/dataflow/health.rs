//! Holds what is measured of an iteration against the bounds of `[health]`: what a training learns from and did, or in a run
//! without a training what was judged last.

use std::collections::HashSet;

use super::operator::{GateValues, Measure, Operator, Phase, Shared, Stage, TrainingIteration};
use crate::error::{Error, Result};
use crate::pipeline::{Gate, Plan, Step, Verdict};
use crate::store::Run;

impl<'a> TrainingIteration<'a> {
    /// The nearest steps of which `wanted` is true, the step itself or above it along `from`.
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

    /// What to do about a value beyond a bound. Where pairs may be at fault, with the option that leaves them out.
    pub fn advice(&self, gate: &Gate) -> String {
        let mut words = gate.kind.advice.to_owned();
        let selects = self.nearest(|s| s.op.min_margin().is_some());
        if let (Some(select), "margin" | "score_entropy") = (selects.first(), gate.kind.name) {
            // A tenth of the scale of scores, or twice what is asked for where that is as much.
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

/// The steps that are measured where nothing is trained: those that judge or select and of which no other such step is made.
fn judged(plan: &Plan<dyn Operator>) -> Vec<(&Step<dyn Operator>, Measure)> {
    if plan.steps.iter().any(Step::is_training) {
        return Vec::new();
    }
    let mut used = HashSet::new();
    let mut last = Vec::new();
    // In reverse order of dependency: whatever is made of a step was seen before it.
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

/// Every round of a plan with what is measured of it, from what is committed.
///
/// # Errors
/// A committed file cannot be read.
pub fn gate_values<'a>(plan: &'a Plan<dyn Operator>, run: &'a Run) -> Result<Vec<(TrainingIteration<'a>, GateValues)>> {
    let mut all = Vec::new();
    for step in &plan.steps {
        let Stage::Train(train) = step.op.stage() else { continue };
        for iteration in step.iterations.clone() {
            let round = TrainingIteration { plan, run, step, iteration };
            let mut gate_values = train.health(round, Phase::Rows)?;
            gate_values.extend(train.health(round, Phase::Training)?);
            all.push((round, gate_values));
        }
    }
    for (step, measure) in judged(plan) {
        let round = TrainingIteration { plan, run, step, iteration: *step.iterations.start() };
        all.push((round, measure(round)?));
    }
    Ok(all)
}

/// Measures a training, warns of what is beyond a bound, and stops the run where that is asked for.
pub(super) fn check(shared: &Shared, step: &Step<dyn Operator>, iteration: u32, known: Phase) -> Result<()> {
    let Stage::Train(train) = step.op.stage() else { return Ok(()) };
    let round = TrainingIteration { plan: &shared.plan, run: &shared.run, step, iteration };
    let when = if known == Phase::Rows && !step.op.streams() { "is not trained" } else { "goes no further" };
    hold(round, train.health(round, known)?, &format!("iteration {iteration} {when}"))
}

/// As [`check`] for a plan that trains nothing, when all of its rows are committed. Nothing is left to be warned of in time, so
/// nothing is measured where no bound stops the run: the closing summary measures and warns.
pub(super) fn check_untrained(shared: &Shared) -> Result<()> {
    if shared.plan.health.iter().all(|gate| gate.stop.is_none()) {
        return Ok(());
    }
    for (step, measure) in judged(&shared.plan) {
        let round =
            TrainingIteration { plan: &shared.plan, run: &shared.run, step, iteration: *step.iterations.start() };
        hold(round, measure(round)?, &format!("the run stops at a health bound on `{}`", step.name))?;
    }
    Ok(())
}

/// Holds what was measured against the bounds; `what` is what does not happen where one stops the run.
fn hold(round: TrainingIteration<'_>, gate_values: GateValues, what: &str) -> Result<()> {
    let mut stops = Vec::new();
    for (name, value) in gate_values {
        let Some(gate) = round.plan.health.iter().find(|g| g.kind.name == name) else { continue };
        match gate.verdict(value) {
            Verdict::Pass => {}
            Verdict::Warn => {
                let (step, words, advice) = (&round.step.name, gate.words(value), round.advice(gate));
                tracing::warn!("`{step}`, iteration {}: {words}; {advice}", round.iteration);
            }
            Verdict::Stop => stops.push((gate, value)),
        }
    }
    let Some((first, _)) = stops.first() else { return Ok(()) };
    let words: Vec<String> = stops.iter().map(|(gate, value)| gate.words(*value)).collect();
    let help = format!(
        "{}; the rows are in the run's data. The same command with --set health.{}.stop=.. and a wider bound goes on from here",
        round.advice(first),
        first.kind.name
    );
    Err(Error::user(format!("{what}: {}", words.join("; "))).help(help))
}
