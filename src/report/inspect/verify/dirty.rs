//! Finds the manifest lines that a repair must remove: those of damaged files and of everything derived
//! from them.

use std::collections::{BTreeMap, BTreeSet};

use crate::data::Epoch;
use crate::dataflow::{Operator, Stage};
use crate::pipeline::{ModelUse, Placement, Plan, Shape, Step};
use crate::report::owner;
use crate::store::journal::entry::Entry;
use crate::store::{Artifact, FileEntry, Inspected};

/// Steps and trainings that must be computed again.
#[derive(Default)]
struct Dirty {
    /// Microbatches by step.
    rows: BTreeMap<String, BTreeSet<Epoch>>,
    /// Trainings by step and iteration, each with its model, metrics, references and announcement.
    trainings: BTreeSet<(String, u32)>,
}

impl Dirty {
    fn has(&self, step: &str, epoch: Epoch) -> bool {
        self.rows.get(step).is_some_and(|epochs| epochs.contains(&epoch))
    }
    /// Whether any microbatch of the step up to and including `epoch` is dirty.
    fn until(&self, step: &str, epoch: Epoch) -> bool {
        self.rows.get(step).and_then(|epochs| epochs.first()).is_some_and(|first| *first <= epoch)
    }
    fn add(&mut self, step: &str, epoch: Epoch) -> bool {
        self.rows.entry(step.to_owned()).or_default().insert(epoch)
    }

    /// Whether the output of a step at `epoch` depends on anything dirty.
    fn reaches(&self, plan: &Plan<dyn Operator>, step: &Step<dyn Operator>, epoch: Epoch) -> bool {
        let models = step.model.iter().chain(step.models.iter().map(|(_, m)| m));
        if models.into_iter().any(|m| self.model(plan, m, epoch.iteration)) {
            return true;
        }
        let own_order = step.kind.shape == Shape::IterationSource;
        if own_order && epoch > Epoch::new(0, 0) && self.before(&step.name, epoch) {
            return true;
        }
        step.inputs.iter().any(|input| {
            let once = plan.step(&input.step).is_some_and(|s| s.placement == Placement::Once);
            let iteration = if once { 0 } else { epoch.iteration };
            if input.whole || input.joined || step.is_barrier() || own_order {
                return self.until(&input.step, Epoch::new(iteration, u32::MAX));
            }
            let same = Epoch::new(iteration, epoch.microbatch);
            // A reduce depends on all earlier microbatches, unless its groups are complete within one
            // microbatch.
            let sees_before = matches!(step.op.stage(), Stage::Keyed(keyed) if !keyed.complete());
            if sees_before { self.until(&input.step, same) } else { self.has(&input.step, same) }
        })
    }
    fn before(&self, step: &str, epoch: Epoch) -> bool {
        self.rows.get(step).and_then(|epochs| epochs.first()).is_some_and(|first| *first < epoch)
    }
    fn model(&self, plan: &Plan<dyn Operator>, model: &ModelUse, iteration: u32) -> bool {
        let trained = |step: &str, iteration: u32| self.trainings.contains(&(step.to_owned(), iteration));
        match (model, &plan.loop_) {
            (ModelUse::Source(_), _) => false,
            (ModelUse::Step(step), _) => trained(step, 0),
            (ModelUse::Policy, Some(l)) if iteration > 1 => trained(&l.next, iteration - 1),
            (ModelUse::Policy, Some(l)) => matches!(&l.policy, ModelUse::Step(step) if trained(step, 0)),
            (ModelUse::Policy, None) => false,
        }
    }
}

/// Returns the numbers of the manifest lines to remove.
pub(super) fn goes(found: &Inspected, plan: Option<&Plan<dyn Operator>>) -> BTreeSet<usize> {
    let last = found.lines.last().map_or(0, |l| l.number);
    let mut first_cut =
        found.findings.iter().filter_map(|f| if let Artifact::Line(n) = f.artifact { Some(n) } else { None });
    // The content of an unreadable line is unknown, so everything after it may depend on it. The first line
    // is an exception, because it describes only the run.
    let mut cut = first_cut.by_ref().filter(|n| *n > 1).min();
    let mut lines: BTreeSet<usize> = BTreeSet::new();
    match plan {
        Some(plan) => lines.extend(descendants(found, plan)),
        None => cut = cut.into_iter().chain(first_damaged(found)).min(),
    }
    lines.extend(cut.into_iter().flat_map(|cut| cut..=last));
    lines.extend(
        found.findings.iter().filter_map(|f| if let Artifact::DuplicateLine(n) = f.artifact { Some(n) } else { None }),
    );
    // These findings are repaired without recomputing anything.
    if found.findings.iter().all(|f| is_beside(&f.artifact)) {
        return lines;
    }
    // The repaired run is unfinished, so data that were removed when it finished are needed again.
    let dropped = found.dropped();
    for (number, entry) in found.entries() {
        let removed = match entry {
            Entry::Finished { step: None, .. } | Entry::Dropped { .. } => true,
            Entry::File(f) => dropped.contains(f.step.as_str()),
            _ => false,
        };
        if removed {
            lines.insert(number);
        }
    }
    lines
}

/// Whether a finding is repaired without recomputing anything.
fn is_beside(artifact: &Artifact) -> bool {
    matches!(
        artifact,
        Artifact::Pipeline
            | Artifact::Summary
            | Artifact::Lock
            | Artifact::Checkpoint(_)
            | Artifact::Replies(_)
            | Artifact::Line(1)
            | Artifact::WrongBit(_)
            | Artifact::DuplicateLine(_)
    )
}

/// Returns the first line that describes a damaged file.
fn first_damaged(found: &Inspected) -> Option<usize> {
    let mut rows: BTreeMap<&str, Epoch> = BTreeMap::new();
    let mut trainings: BTreeSet<(&str, u32)> = BTreeSet::new();
    for finding in &found.findings {
        match &finding.artifact {
            Artifact::Rows(step, epoch) | Artifact::Errors(step, epoch) | Artifact::Lineage(step, epoch) => {
                let first = rows.entry(step).or_insert(*epoch);
                *first = (*first).min(*epoch);
            }
            Artifact::Metrics(step, iteration) | Artifact::Model(step, iteration) => {
                trainings.insert((step, *iteration));
            }
            // Nothing is derived from these.
            Artifact::Line(_)
            | Artifact::WrongBit(_)
            | Artifact::DuplicateLine(_)
            | Artifact::Pipeline
            | Artifact::Summary
            | Artifact::Lock
            | Artifact::Checkpoint(_)
            | Artifact::Replies(_) => {}
        }
    }
    let damaged = |entry: &Entry| match entry {
        Entry::File(f) => rows.get(f.step.as_str()).is_some_and(|first| f.epoch() >= *first),
        Entry::Metrics(m) => trainings.contains(&(m.step.as_str(), m.iteration)),
        Entry::Model(m) => trainings.contains(&(m.step.as_str(), m.iteration)),
        _ => false,
    };
    found.entries().find(|(_, entry)| damaged(entry)).map(|(number, _)| number)
}

/// Returns the lines of damaged files and of everything derived from them.
fn descendants(found: &Inspected, plan: &Plan<dyn Operator>) -> BTreeSet<usize> {
    let mut dirty = Dirty::default();
    // Rows that announce a model can be rebuilt from the model, so nothing else must be recomputed.
    let mut announced: BTreeSet<(String, Epoch)> = BTreeSet::new();
    let is_training = |step: &str| plan.step(step).is_some_and(|s| s.is_training());
    for finding in &found.findings {
        match &finding.artifact {
            Artifact::Rows(step, epoch) if is_training(step) && !has_errors(found, step, *epoch) => {
                announced.insert((step.clone(), *epoch));
            }
            Artifact::Rows(step, epoch) | Artifact::Errors(step, epoch) | Artifact::Lineage(step, epoch) => {
                if is_training(owner(step)) {
                    dirty.trainings.insert((owner(step).to_owned(), epoch.iteration));
                } else {
                    dirty.add(step, *epoch);
                }
            }
            Artifact::Metrics(step, iteration) | Artifact::Model(step, iteration) => {
                dirty.trainings.insert((step.clone(), *iteration));
            }
            // Nothing is derived from these.
            Artifact::Line(_)
            | Artifact::WrongBit(_)
            | Artifact::DuplicateLine(_)
            | Artifact::Pipeline
            | Artifact::Summary
            | Artifact::Lock
            | Artifact::Checkpoint(_)
            | Artifact::Replies(_) => {}
        }
    }
    let files: Vec<&FileEntry> = found.rows().collect();
    loop {
        let mut changed = false;
        for file in &files {
            let Some(step) = plan.step(owner(&file.step)) else { continue };
            let epoch = file.epoch();
            if step.is_training() {
                let reached = dirty.reaches(plan, step, Epoch::new(epoch.iteration, 0));
                changed |= reached && dirty.trainings.insert((step.name.clone(), epoch.iteration));
            } else if !dirty.has(&file.step, epoch) && dirty.reaches(plan, step, epoch) {
                changed |= dirty.add(&file.step, epoch);
            }
        }
        // The announcement of a model may not be committed yet.
        for model in found.models() {
            let Some(step) = plan.step(&model.step) else { continue };
            let reached = dirty.reaches(plan, step, Epoch::new(model.iteration, 0));
            changed |= reached && dirty.trainings.insert((step.name.clone(), model.iteration));
        }
        if !changed {
            break;
        }
    }
    let trained = |step: &str, iteration: u32| dirty.trainings.contains(&(owner(step).to_owned(), iteration));
    let line = |(number, entry): (usize, &Entry)| {
        let goes = match entry {
            Entry::File(f) => {
                dirty.has(&f.step, f.epoch())
                    || trained(&f.step, f.iteration)
                    || announced.contains(&(f.step.clone(), f.epoch()))
            }
            Entry::Model(m) => trained(&m.step, m.iteration),
            Entry::Metrics(m) => trained(&m.step, m.iteration),
            Entry::Finished { step: Some(step), iteration, .. } => {
                let iteration = iteration.unwrap_or(0);
                let rows = dirty.rows.get(step).into_iter().flatten();
                trained(step, iteration) || rows.into_iter().any(|e| e.iteration == iteration)
            }
            _ => false,
        };
        goes.then_some(number)
    };
    found.entries().filter_map(line).collect()
}

fn has_errors(found: &Inspected, step: &str, epoch: Epoch) -> bool {
    found.rows().any(|f| f.step == step && f.epoch() == epoch && f.errors.is_some())
}
