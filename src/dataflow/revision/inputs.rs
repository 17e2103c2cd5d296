//! The inputs of a revision: the step, its microbatches, and the files they were made from.

use std::sync::Arc;

use crate::cancel::CancelFlag;
use crate::data::{Epoch, did_you_mean, named};
use crate::dataflow::decision_inputs::{DecisionInputs, candidates_of};
use crate::dataflow::join::Joins;
use crate::dataflow::operator::{Keyed, Operator, RuntimeEnv, Shared, Stage};
use crate::dataflow::progress::NullObserver;
use crate::error::{Error, Result};
use crate::pipeline::{Plan, Step};
use crate::store::{Corrections, FileEntry, Run};

/// Returns the step that makes pairs from scores: the one with this name, or the only one.
///
/// # Errors
/// No such step exists, or several exist and none is named.
pub fn revisable<'a>(plan: &'a Plan<dyn Operator>, name: Option<&str>) -> Result<&'a Step<dyn Operator>> {
    // Groups that span microbatches cannot be recomputed from the affected microbatches alone.
    let whole = |s: &Step<dyn Operator>| matches!(s.op.stage(), Stage::Keyed(keyed) if keyed.complete());
    let all: Vec<_> = plan.steps.iter().filter(|s| whole(s) && s.schema.name == named::PAIRS.name).collect();
    let names: Vec<&str> = all.iter().map(|s| s.name.as_str()).collect();
    match (name, &all[..]) {
        (None, [one]) => Ok(one),
        (None, []) => Err(Error::user("no step of the run makes pairs of scores, as `select` does")),
        (None, _) => {
            Err(Error::user(format!("several steps make pairs: {}", names.join(", "))).help("name one with --step"))
        }
        (Some(name), _) => all.iter().copied().find(|s| s.name == name).ok_or_else(|| {
            let error = Error::user(format!("`{name}` is not a step of the run that makes pairs of scores"));
            if names.is_empty() { error } else { error.help(did_you_mean(name, "there are", &names)) }
        }),
    }
}

/// The inputs of a revision.
pub(super) struct RevisionInputs {
    pub(super) shared: Shared,
    pub(super) joins: Joins,
    /// Name of the step that makes pairs.
    pub(super) step: String,
    /// Name of the step that holds their scores.
    pub(super) input: String,
    pub(super) parts: Vec<RevisedPart>,
    pub(super) corrections: Arc<Corrections>,
}

/// A microbatch of pairs with the files it was made from.
pub(super) struct RevisedPart {
    pub(super) pairs: FileEntry,
    pub(super) scores: FileEntry,
    pub(super) candidates: Option<FileEntry>,
}

impl RevisionInputs {
    pub(super) fn new(
        plan: &Arc<Plan<dyn Operator>>,
        run: &Arc<Run>,
        step: &str,
        corrections: Arc<Corrections>,
    ) -> Result<Self> {
        if !run.finished() {
            return Err(Error::user(format!("the run `{}` is not finished", run.dir().display()))
                .help("`reflux run` with its pipeline file goes on with it"));
        }
        let step = revisable(plan, Some(step))?;
        let input = step.inputs.iter().find(|i| i.key == "from" && !i.whole);
        let input = &input.ok_or_else(|| Error::bug("a keyed step has an input that streams"))?.step;
        if let Some((least, most)) = plan.step(input).and_then(|s| s.op.scale())
            && let Some(error) = corrections.outside(least, most)
        {
            return Err(error.help(format!("the scores of `{input}` go from {least} to {most}")));
        }
        let parts = parts(run, &step.name, input)?;
        let shared = Shared {
            plan: Arc::clone(plan),
            run: Arc::clone(run),
            env: RuntimeEnv::new(()),
            observer: Arc::new(NullObserver),
            stop: CancelFlag::default(),
        };
        Ok(Self { shared, joins: Joins::default(), step: step.name.clone(), input: input.clone(), parts, corrections })
    }

    pub(super) fn run(&self) -> &Run {
        &self.shared.run
    }
    pub(super) fn step(&self) -> Result<&Step<dyn Operator>> {
        self.shared.plan.step(&self.step).ok_or_else(|| Error::bug(format!("step `{}` is not in the plan", self.step)))
    }
    pub(super) fn keyed(&self) -> Result<&dyn Keyed> {
        match self.step()?.op.stage() {
            Stage::Keyed(keyed) => Ok(keyed),
            _ => Err(Error::bug(format!("`{}` is not a keyed step", self.step))),
        }
    }
    /// Returns the step's decision inputs if they are stored for every microbatch.
    pub(super) fn candidates(&self) -> Result<Option<&dyn DecisionInputs>> {
        let all = self.parts.iter().all(|part| part.candidates.is_some());
        Ok(self.keyed()?.candidates().filter(|_| all))
    }
    /// Checks that every correction names a known answer.
    pub(super) fn all_known(&self, known: impl Fn(&str) -> bool) -> Result<()> {
        let help = || format!("`{}` holds the scores of the run `{}`", self.input, self.run().name());
        self.corrections.unknown(known).map_or(Ok(()), |error| Err(error.help(help())))
    }
}

fn parts(run: &Run, step: &str, input: &str) -> Result<Vec<RevisedPart>> {
    let place = run.dir().display();
    let mut parts = Vec::new();
    for pairs in run.files(step) {
        // A dataset made before the loop enters it in every iteration.
        let at = [pairs.epoch(), Epoch::new(0, pairs.microbatch)];
        let scores = at.iter().find_map(|&e| run.committed(input, e));
        let scores = scores.ok_or_else(|| Error::user(format!("`{place}`: no scores found for `{}`", pairs.path)))?;
        let candidates = run.committed(&candidates_of(step), pairs.epoch());
        parts.push(RevisedPart { pairs, scores, candidates });
    }
    if parts.is_empty() {
        return Err(Error::user(format!("`{place}` has no rows of the step `{step}`"))
            .help("a step with `keep = false` cannot be revised"));
    }
    Ok(parts)
}
