//! Replays a run: copies the rows that a changed file or a named step does not affect into a new run, which
//! [`super::run`] then completes.

use std::path::Path;

use super::inputs;
use super::operator::Operator;
use crate::data::{counted, did_you_mean};
use crate::error::{Error, Result};
use crate::pipeline::replay::{RerunSet, changed, owner, roots};
use crate::pipeline::{Plan, Step};
use crate::store::{ChangedInput, FileEntry, InputEntry, Run, RunFork};

/// A replay: what it copies from its source run and what it makes.
pub struct Replay<'a> {
    source: &'a Run,
    plan: &'a Plan<dyn Operator>,
    from: Vec<String>,
    rerun: RerunSet,
    /// External inputs that differ from what the source read.
    inputs: Vec<ChangedInput>,
}

impl<'a> Replay<'a> {
    /// Prepares a replay of `source`, which was made by the plan `before`, under `plan`. The steps `from`
    /// and everything that depends on them are made again; if `from` is empty, the steps in which the two
    /// plans differ.
    ///
    /// # Errors
    /// A step of `from` does not exist; the plans differ in a step that does not depend on `from`, or do
    /// not differ at all; the source run is missing rows that the replay starts from.
    pub fn new(
        source: &'a Run,
        before: &Plan<dyn Operator>,
        plan: &'a Plan<dyn Operator>,
        from: &[String],
    ) -> Result<Self> {
        let step_names = || plan.steps.iter().map(|s| s.name.as_str());
        if let Some(unknown) = from.iter().find(|name| plan.step(name).is_none()) {
            let steps: Vec<&str> = step_names().collect();
            return Err(Error::user(format!("the pipeline has no step `{unknown}` to replay from"))
                .help(did_you_mean(unknown, "its steps", &steps)));
        }
        let inputs = inputs::changed(source, plan)?;
        let changed = changed(before, plan, &inputs.iter().map(|i| i.table.clone()).collect());
        let from = if from.is_empty() { roots(plan, &changed) } else { from.to_vec() };
        if from.is_empty() && before.iterations == plan.iterations && before.steps.len() == plan.steps.len() {
            return Err(Error::user("nothing has changed, so no step has to be made again")
                .help("name a step with --from, or change something with --set or --file"));
        }
        let rerun = RerunSet::from(plan, from.iter().map(String::as_str));
        let outside: Vec<_> =
            plan.steps.iter().filter(|s| changed.contains_key(&s.name) && !rerun.whole(plan, &s.name)).collect();
        if let Some(step) = outside.first() {
            let tables: Vec<String> = changed[&step.name].iter().map(|t| format!("[{t}]")).collect();
            let all: Vec<String> = roots(plan, &changed).iter().map(|s| format!("--from {s}")).collect();
            return Err(Error::user(format!(
                "the change in {} is one of the step `{}`, which is not made again from its start by {}",
                tables.join(", "),
                step.name,
                from.iter().map(|s| format!("--from {s}")).collect::<Vec<_>>().join(" ")
            ))
            .help(format!(
                "{} makes again what the change touches{}",
                all.join(" "),
                describe_changed(&inputs)
            )));
        }
        let replay = Self { source, plan, from, rerun, inputs };
        for name in &replay.from {
            replay.ready(name)?;
        }
        Ok(replay)
    }

    /// Checks that the inputs of a step exist.
    fn ready(&self, name: &str) -> Result<()> {
        let Some(step) = self.plan.step(name) else { return Ok(()) };
        for input in &step.inputs {
            let made = self.rerun.first(&input.step) <= *step.iterations.start();
            if !made && self.source.entries().iter().all(|f| f.step != input.step) {
                return Err(Error::user(format!(
                    "the run `{}` did not get to the rows of `{}`, from which `{name}` is made",
                    self.source.dir().display(),
                    input.step
                ))
                .help("go on with it first: `reflux run` with its pipeline file"));
            }
        }
        Ok(())
    }

    fn takes(&self, dataset: &str, iteration: u32) -> bool {
        self.rerun.takes(self.plan, dataset, iteration)
    }

    /// Describes what is copied and what is made, one line per step.
    pub fn lines(&self) -> Vec<String> {
        let entries = self.source.entries();
        let width = self.plan.steps.iter().map(|s| s.name.len()).max().unwrap_or(0);
        let line = |step: &Step<dyn Operator>| {
            let of = |f: &&FileEntry| {
                owner(self.plan, &f.step).is_some_and(|s| s.name == step.name) && self.takes(&f.step, f.iteration)
            };
            let taken: Vec<&FileEntry> = entries.iter().filter(of).collect();
            let there = |iteration: u32| taken.iter().any(|f| f.iteration == iteration);
            let (kept, made): (Vec<u32>, Vec<u32>) = step.iterations.clone().partition(|&i| there(i));
            let rows: u64 = taken.iter().filter(|f| f.step == step.name).map(|f| f.rows).sum();
            let kept = (!kept.is_empty())
                .then(|| format!("taken over: {} ({})", describe_iterations(&kept), counted(rows, "row")));
            let made = (!made.is_empty()).then(|| format!("made: {}", describe_iterations(&made)));
            let both: Vec<String> = kept.into_iter().chain(made).collect();
            format!("  {:width$}  {}", step.name, both.join("; "))
        };
        let head = format!("replay of {}", self.source.dir().display());
        let from = if self.from.is_empty() { String::new() } else { format!(" from {}", self.from.join(", ")) };
        let open = if self.source.finished() { "" } else { " (unfinished: what it lacks is made)" };
        let inputs = self.inputs.iter().map(|i| format!("  changed since: {}", i.what));
        std::iter::once(format!("{head}{open}{from}")).chain(inputs).chain(self.plan.steps.iter().map(line)).collect()
    }

    /// Creates the run in `dir` with the copied rows; [`super::run`] completes it. Returns false if that
    /// was done before. `weights` computes the hash of a model's weights.
    ///
    /// # Errors
    /// As [`RunFork::begin`].
    pub fn begin(&self, dir: &Path, weights: &dyn Fn(&Path) -> Result<String>) -> Result<bool> {
        let takes = |dataset: &str, iteration: u32| self.takes(dataset, iteration);
        let keeps = |input: &InputEntry| {
            inputs::is_read(self.plan, input) && self.inputs.iter().all(|changed| changed.table != input.table)
        };
        let take = RunFork { source: self.source, from: &self.from, takes: &takes, keeps: &keeps, weights };
        take.begin(dir, &self.plan.resolved, self.plan.seed)
    }
}

/// Describes the changed inputs, for the end of a help text.
fn describe_changed(inputs: &[ChangedInput]) -> String {
    let what: Vec<&str> = inputs.iter().map(|i| i.what.as_str()).collect();
    if what.is_empty() { String::new() } else { format!("; changed since the run read it: {}", what.join(", ")) }
}

/// Describes iterations: `iterations 1 to 3`, or `once` for steps that run before the loop.
fn describe_iterations(iterations: &[u32]) -> String {
    match iterations {
        [0] => "once".to_owned(),
        [one] => format!("iteration {one}"),
        [first, .., last] => format!("iterations {first} to {last}"),
        [] => String::new(),
    }
}
