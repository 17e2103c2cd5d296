//! The steps of a run and what each of them committed in each iteration: figures that several sections draw.

use std::collections::BTreeMap;

use serde::Serialize;

use super::source::PageSource;
use crate::pipeline::Placement;

/// A step of the plan.
#[derive(Serialize)]
pub(super) struct StepFacts {
    name: String,
    op: &'static str,
    about: &'static str,
    settings: String,
    schema: &'static str,
    model: Option<String>,
    /// `once`, `ahead`, `loop` or `observer`.
    placement: &'static str,
    keep: bool,
    inputs: Vec<InputFacts>,
    /// Its counts by iteration.
    counts: Vec<StepCount>,
}

/// An edge of the dataflow.
#[derive(Serialize)]
struct InputFacts {
    step: String,
    key: &'static str,
    whole: bool,
}

/// What a step committed in an iteration.
#[derive(Default, Serialize)]
struct StepCount {
    iteration: u32,
    microbatches: u64,
    rows: u64,
    left_out: u64,
    bytes: u64,
    /// Compute time over all threads; absent if an earlier process computed all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds: Option<f64>,
    /// Time of its first and last work since the process began.
    #[serde(skip_serializing_if = "Option::is_none")]
    span: Option<[f64; 2]>,
    /// Microbatches that an earlier process committed.
    #[serde(skip_serializing_if = "is_zero")]
    restored: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Returns the steps of a plan in its order.
pub(super) fn step_facts(source: &PageSource<'_>) -> Vec<StepFacts> {
    let mut counts = counts(source);
    let facts = source.plan.steps.iter().map(|step| StepFacts {
        name: step.name.clone(),
        op: step.kind.name,
        about: step.kind.about,
        settings: step.op.explain(),
        schema: step.schema.name,
        model: step.model.as_ref().map(ToString::to_string),
        placement: match step.placement {
            Placement::Once => "once",
            Placement::Ahead => "ahead",
            Placement::Loop => "loop",
            Placement::Observer => "observer",
        },
        keep: step.keep,
        inputs: step
            .inputs
            .iter()
            .map(|input| InputFacts { step: input.step.clone(), key: input.key, whole: input.whole })
            .collect(),
        counts: counts.remove(&step.name).unwrap_or_default().into_values().collect(),
    });
    facts.collect()
}

/// Counts rows by the manifest, and times by the summary.
fn counts(source: &PageSource<'_>) -> BTreeMap<String, BTreeMap<u32, StepCount>> {
    let mut all = BTreeMap::<String, BTreeMap<u32, StepCount>>::new();
    for file in source.run.entries() {
        let count = all.entry(file.step).or_default().entry(file.iteration).or_default();
        count.iteration = file.iteration;
        count.microbatches += 1;
        count.rows += file.rows;
        count.left_out += file.errors.as_ref().map_or(0, |e| e.rows);
        count.bytes += file.bytes + file.errors.as_ref().map_or(0, |e| e.bytes);
    }
    for step in source.listed("steps") {
        let place = step["step"].as_str().zip(step["iteration"].as_u64().and_then(|i| u32::try_from(i).ok()));
        let Some(count) = place.and_then(|(name, iteration)| all.get_mut(name)?.get_mut(&iteration)) else { continue };
        count.restored = step["restored"].as_u64().unwrap_or_default();
        count.seconds = step["busy_seconds"].as_f64().filter(|_| count.restored < count.microbatches);
        count.span = step["began_seconds"].as_f64().zip(step["ended_seconds"].as_f64()).map(|(from, to)| [from, to]);
    }
    all
}
