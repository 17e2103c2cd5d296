//! What of a damaged run has to be made again: what is damaged itself, and all that was made of it.
//!
//! With the run's plan that is followed edge by edge; without one (its pipeline file is damaged) everything that was committed
//! after the first damaged file goes, as nothing is made of what comes later.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};

use super::owner;
use crate::data::{Columns, Epoch, Schema, counted, named};
use crate::dataflow::{Operator, Stage, model_name};
use crate::error::Result;
use crate::pipeline::{ModelUse, Placement, Plan, Shape, Step};
use crate::store::manifest::Entry;
use crate::store::{FileEntry, Finding, Inspected, Thing, inspect, read_parquet};

/// A run that was looked through.
pub struct Verdict {
    name: String,
    found: Inspected,
    /// Lines of the manifest that go if the run is repaired.
    goes: BTreeSet<usize>,
    seed: Option<u64>,
}

/// Whether a dataset holds a training's references.
fn is_reference(step: &str) -> bool {
    step.ends_with(".reference")
}

/// What the rows of a step are, if the plan knows.
fn schema(plan: Option<&Plan<dyn Operator>>, step: &str) -> Option<&'static Schema> {
    if is_reference(step) {
        return Some(&named::REFERENCE);
    }
    if owner(step) != step {
        return Some(&named::CANDIDATES);
    }
    plan?.step(step).map(|s| s.schema)
}

impl Verdict {
    /// Looks through the run in `dir`. `weights` computes the hash of a model's weights.
    ///
    /// # Errors
    /// There is no run, or it cannot be read.
    pub fn of(
        dir: &Path,
        plan: Option<&Plan<dyn Operator>>,
        weights: &dyn Fn(&Path) -> Result<String>,
    ) -> Result<Self> {
        // Plans are not shared between threads; their schemas are.
        let schemas: BTreeMap<String, &'static Schema> =
            plan.into_iter().flat_map(|p| &p.steps).map(|s| (s.name.clone(), s.schema)).collect();
        let known = |step: &str| match schemas.get(step) {
            Some(schema) => Some(*schema),
            None => schema(None, step),
        };
        let mut found = inspect(dir, &known, weights)?;
        // A plan of a file that is not the run's says nothing about the run.
        let plan = plan.filter(|_| found.findings.iter().all(|f| f.thing != Thing::Pipeline));
        let more = [
            lineage(&found, plan),
            names(&found, plan),
            announcements(dir, &found, plan),
            references(dir, &found),
            gaps(&found),
        ]
        .concat();
        found.findings.extend(more);
        found.findings.dedup();
        let goes = goes(&found, plan);
        Ok(Self { name: dir.display().to_string(), found, goes, seed: plan.map(|p| p.seed) })
    }

    /// Whether nothing is damaged.
    pub fn sound(&self) -> bool {
        self.found.findings.is_empty()
    }
    /// How many files could not be read, and so may be as they should be.
    pub fn unreadable(&self) -> usize {
        self.found.findings.iter().filter(|f| f.unreadable).count()
    }
    /// How many things are damaged.
    pub fn damaged(&self) -> usize {
        self.found.findings.len()
    }
    /// What was found.
    pub fn found(&self) -> &Inspected {
        &self.found
    }
    /// Lines of the manifest that go if the run is repaired.
    pub fn goes(&self) -> &BTreeSet<usize> {
        &self.goes
    }
    /// The seed, where the pipeline file says it.
    pub fn seed(&self) -> Option<u64> {
        self.seed
    }

    /// What goes, counted: microbatches by step, and models.
    fn going(&self) -> (BTreeMap<&str, usize>, Vec<&str>) {
        let (mut steps, mut models) = (BTreeMap::new(), Vec::new());
        for (_, entry) in self.found.entries().filter(|(number, _)| self.goes.contains(number)) {
            match entry {
                Entry::File(f) => *steps.entry(f.step.as_str()).or_default() += 1,
                Entry::Model(m) => models.push(m.name.as_str()),
                _ => {}
            }
        }
        (steps, models)
    }

    /// `12 microbatches (scores 3, pairs 3) and the models M2, M3`.
    pub fn going_in_words(&self) -> String {
        let (steps, models) = self.going();
        let total: usize = steps.values().sum();
        let each: Vec<String> = steps.iter().map(|(step, n)| format!("{step} {n}")).collect();
        let mut words = format!("{total} of {}", counted(self.found.rows().count(), "microbatch"));
        if !each.is_empty() {
            words += &format!(" ({})", each.join(", "));
        }
        match &models[..] {
            [] => words,
            [one] => words + &format!(" and the model {one}"),
            many => words + &format!(" and the models {}", many.join(", ")),
        }
    }

    /// One JSON object.
    pub fn json(&self) -> Value {
        let finding = |f: &Finding| {
            let mut json = json!({ "path": f.path, "why": f.why, "unreadable": f.unreadable });
            let (step, iteration, microbatch) = match &f.thing {
                Thing::Rows(step, e) | Thing::Errors(step, e) | Thing::Lineage(step, e) => {
                    (Some(step), Some(e.iteration), Some(e.microbatch))
                }
                Thing::Metrics(step, i) | Thing::Model(step, i) => (Some(step), Some(*i), None),
                _ => (None, None, None),
            };
            json["step"] = json!(step);
            json["iteration"] = json!(iteration);
            json["microbatch"] = json!(microbatch);
            json
        };
        let (steps, models) = self.going();
        json!({
            "run": self.name, "sound": self.sound(), "files": self.found.files, "bytes": self.found.bytes,
            "damaged": self.found.findings.iter().map(finding).collect::<Value>(), "strays": self.found.strays,
            "cut_line_bytes": self.found.cut, "repair_drops": { "microbatches": steps, "models": models },
        })
    }

    /// The same for people.
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> =
            self.found.findings.iter().map(|f| format!("{}: {}: {}", kind(f), f.path, f.why)).collect();
        if self.found.cut > 0 {
            lines.push(format!(
                "cut: manifest.jsonl ends in {} of a line that was not finished; the next run takes them off",
                counted(self.found.cut, "byte")
            ));
        }
        for stray in &self.found.strays {
            let why = if self.found.is_leftover(stray) {
                "left by a process that died; the next run takes it away"
            } else {
                "not of this run"
            };
            lines.push(format!("stray: {stray}: {why}"));
        }
        if self.sound() {
            let (files, models) = (self.found.files, self.found.models().count());
            lines.push(format!(
                "{}: {}, {}, {}: all as committed",
                self.name,
                counted(files, "file"),
                counted(models, "model"),
                counted(self.found.bytes, "byte")
            ));
        }
        lines
    }
}

fn kind(finding: &Finding) -> &'static str {
    if finding.unreadable { "unreadable" } else { "damaged" }
}

/// Files and models that rows say they were made of, and the manifest does not have.
fn lineage(found: &Inspected, plan: Option<&Plan<dyn Operator>>) -> Vec<Finding> {
    let hashes: BTreeSet<&str> =
        found.rows().map(|f| f.hash.as_str()).chain(found.models().map(|m| m.hash.as_str())).collect();
    let is_hash = |s: &str| s.len() == 64 && s.bytes().all(|b| b.is_ascii_hexdigit());
    let mut findings = Vec::new();
    for file in found.rows() {
        let step = plan.and_then(|p| p.step(owner(&file.step)));
        // What is not kept has lost its lines where the run is to be gone on with.
        let forgets = |i: &crate::pipeline::Input| plan.and_then(|p| p.step(&i.step)).is_some_and(|s| !s.keep);
        let forgotten = !found.finished() && step.is_some_and(|s| s.inputs.iter().any(forgets));
        // References begin with the hash of weights that may be anybody's: `references` compares it.
        let foreign = usize::from(is_reference(&file.step));
        for of in file.lineage.iter().skip(foreign) {
            let why = if is_hash(of) {
                (!hashes.contains(of.as_str()) && !forgotten)
                    .then(|| format!("it was made of {}, which the manifest does not have", &of[..12]))
            } else {
                plan.filter(|p| p.model(of).is_none())
                    .map(|_| format!("it was made by the model `{of}`, which the pipeline file does not have"))
            };
            findings
                .extend(why.map(|why| Finding::new(Thing::Lineage(file.step.clone(), file.epoch()), &file.path, why)));
        }
    }
    findings
}

/// Lines about steps, models or a seed that the plan does not have: it is the line that is damaged.
fn names(found: &Inspected, plan: Option<&Plan<dyn Operator>>) -> Vec<Finding> {
    let Some(plan) = plan else { return Vec::new() };
    let unknown = |step: &str| plan.step(owner(step)).is_none();
    let manifest = "manifest.jsonl".to_owned();
    let finding = |(number, entry): (usize, &Entry)| {
        let (path, what) = match entry {
            Entry::Run { seed, .. } if *seed != plan.seed => (&manifest, format!("seed {seed}")),
            Entry::File(f) if unknown(&f.step) => (&f.path, format!("step `{}`", f.step)),
            Entry::Metrics(m) if unknown(&m.step) => (&m.path, format!("step `{}`", m.step)),
            Entry::Finished { step: Some(step), .. } | Entry::Dropped { step } if unknown(step) => {
                (&manifest, format!("step `{step}`"))
            }
            Entry::Model(m) if unknown(&m.step) || model_name(plan, &m.step, m.iteration) != m.name => {
                (&m.path, format!("model `{}` of step `{}`, iteration {}", m.name, m.step, m.iteration))
            }
            _ => return None,
        };
        Some(Finding::new(Thing::Line(number), path, format!("the pipeline file has no {what}")))
    };
    found.entries().filter_map(finding).collect()
}

/// Rows that announce other models than the manifest has.
fn announcements(dir: &Path, found: &Inspected, plan: Option<&Plan<dyn Operator>>) -> Vec<Finding> {
    let damaged: BTreeSet<&str> = found.findings.iter().map(|f| f.path.as_str()).collect();
    let dropped = found.dropped();
    let training = |f: &&FileEntry| {
        schema(plan, &f.step).is_some_and(|s| s.name == named::MODELS.name)
            && !damaged.contains(f.path.as_str())
            && !dropped.contains(f.step.as_str())
    };
    let mut findings = Vec::new();
    for file in found.rows().filter(training) {
        let Ok(rows) = read_parquet(&dir.join(&file.path)) else { continue };
        let (Ok(names), Ok(hashes)) = (Columns(&rows).text("name"), Columns(&rows).text("hash")) else { continue };
        for (name, hash) in names.iter().zip(hashes) {
            let model = found.models().find(|m| Some(m.name.as_str()) == name);
            if model
                .is_none_or(|m| Some(m.hash.as_str()) != hash || m.step != file.step || m.iteration != file.iteration)
            {
                let name = name.unwrap_or_default();
                let why = format!("the manifest does not have the model as `{}` announces it", file.path);
                let thing = Thing::Model(file.step.clone(), file.iteration);
                findings.push(Finding::new(thing, format!("models/{name}"), why));
            }
        }
    }
    findings
}

/// References whose line names other weights than their rows do.
fn references(dir: &Path, found: &Inspected) -> Vec<Finding> {
    let damaged: BTreeSet<&str> = found.findings.iter().map(|f| f.path.as_str()).collect();
    let mut findings = Vec::new();
    for file in found.rows().filter(|f| is_reference(&f.step) && !damaged.contains(f.path.as_str())) {
        let Ok(rows) = read_parquet(&dir.join(&file.path)) else { continue };
        let Ok(models) = Columns(&rows).text("model") else { continue };
        let named = file.lineage.first().map(String::as_str);
        if let Some(other) = models.iter().find(|m| *m != named) {
            let (named, other) = (named.unwrap_or("no weights"), other.unwrap_or_default());
            let why = format!("the manifest has it made with `{named}`, its rows with `{other}`");
            findings.push(Finding::new(Thing::Lineage(file.step.clone(), file.epoch()), &file.path, why));
        }
    }
    findings
}

/// What has no line where others say that it was there: the metrics of a model, and in a finished run the announcement of a
/// model and microbatches between others.
fn gaps(found: &Inspected) -> Vec<Finding> {
    const NO_LINE: &str = "the manifest has no line for it";
    let mut findings = Vec::new();
    for model in found.models() {
        let of = |e: &Entry| matches!(e, Entry::Metrics(m) if m.step == model.step && m.iteration == model.iteration);
        if !found.entries().any(|(_, e)| of(e)) {
            let path = format!("metrics/{}/iteration={}/metrics.parquet", model.step, model.iteration);
            findings.push(Finding::new(Thing::Metrics(model.step.clone(), model.iteration), path, NO_LINE));
        }
    }
    if !found.finished() {
        return findings;
    }
    for model in found.models() {
        let epoch = Epoch::new(model.iteration, 0);
        if !found.rows().any(|f| f.step == model.step && f.epoch() == epoch) {
            let path = format!("data/{}/iteration={}/microbatch=00000.parquet", model.step, model.iteration);
            findings.push(Finding::new(Thing::Rows(model.step.clone(), epoch), path, NO_LINE));
        }
    }
    let mut numbers: BTreeMap<(&str, u32), BTreeSet<u32>> = BTreeMap::new();
    for file in found.rows() {
        numbers.entry((&file.step, file.iteration)).or_default().insert(file.microbatch);
    }
    for ((step, iteration), numbers) in numbers {
        let last = numbers.last().copied().unwrap_or(0);
        // One for each gap: numbers are not to be believed to any extent.
        let starts = numbers.iter().filter(|n| **n < last && !numbers.contains(&(*n + 1))).map(|n| n + 1);
        let starts = starts.chain((!numbers.contains(&0)).then_some(0));
        findings.extend(starts.map(|microbatch| {
            let path = format!("data/{step}/iteration={iteration}/microbatch={microbatch:05}.parquet");
            let thing = Thing::Rows(step.to_owned(), Epoch::new(iteration, microbatch));
            Finding::new(thing, path, NO_LINE)
        }));
    }
    findings
}

/// What has to be made again.
#[derive(Default)]
struct Dirty {
    /// Microbatches by step.
    rows: BTreeMap<String, BTreeSet<Epoch>>,
    /// Trainings by step and iteration: model, metrics, references, announcement.
    trainings: BTreeSet<(String, u32)>,
}

impl Dirty {
    fn has(&self, step: &str, epoch: Epoch) -> bool {
        self.rows.get(step).is_some_and(|epochs| epochs.contains(&epoch))
    }
    /// Whether a microbatch of the step is dirty up to and with this time.
    fn until(&self, step: &str, epoch: Epoch) -> bool {
        self.rows.get(step).and_then(|epochs| epochs.first()).is_some_and(|first| *first <= epoch)
    }
    fn add(&mut self, step: &str, epoch: Epoch) -> bool {
        self.rows.entry(step.to_owned()).or_default().insert(epoch)
    }

    /// Whether what a step made at a time was made of something dirty.
    fn reaches(&self, plan: &Plan<dyn Operator>, step: &Step<dyn Operator>, epoch: Epoch) -> bool {
        let models = step.model.iter().chain(step.models.iter().map(|(_, m)| m));
        if models.into_iter().any(|m| self.model(plan, m, epoch.iteration)) {
            return true;
        }
        let own_order = step.kind.shape == Shape::Head;
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
            // A reduce sees everything that came before, unless its groups are whole within a microbatch.
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

/// The manifest's lines that go.
fn goes(found: &Inspected, plan: Option<&Plan<dyn Operator>>) -> BTreeSet<usize> {
    let last = found.lines.last().map_or(0, |l| l.number);
    let mut first_cut = found.findings.iter().filter_map(|f| if let Thing::Line(n) = f.thing { Some(n) } else { None });
    // Nobody knows what a line was about that cannot be read: what came after may have been made of it. The first line is
    // about nothing but the run.
    let mut cut = first_cut.by_ref().filter(|n| *n > 1).min();
    let mut lines: BTreeSet<usize> = BTreeSet::new();
    match plan {
        Some(plan) => lines.extend(descendants(found, plan)),
        None => cut = cut.into_iter().chain(first_damaged(found)).min(),
    }
    lines.extend(cut.into_iter().flat_map(|cut| cut..=last));
    // These are made good without anything being made again.
    let beside =
        |f: &Finding| matches!(f.thing, Thing::Pipeline | Thing::Summary | Thing::Checkpoint(_) | Thing::Line(1));
    if found.findings.iter().all(beside) {
        return lines;
    }
    // The run is to be gone on with: it is not finished, and what was removed when it was is needed again.
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

/// The first line about something that is damaged.
fn first_damaged(found: &Inspected) -> Option<usize> {
    let mut rows: BTreeMap<&str, Epoch> = BTreeMap::new();
    let mut trainings: BTreeSet<(&str, u32)> = BTreeSet::new();
    for finding in &found.findings {
        match &finding.thing {
            Thing::Rows(step, epoch) | Thing::Errors(step, epoch) | Thing::Lineage(step, epoch) => {
                let first = rows.entry(step).or_insert(*epoch);
                *first = (*first).min(*epoch);
            }
            Thing::Metrics(step, iteration) | Thing::Model(step, iteration) => {
                trainings.insert((step, *iteration));
            }
            Thing::Line(_) | Thing::Pipeline | Thing::Summary | Thing::Checkpoint(_) => {}
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

/// The lines of what is damaged and of all that was made of it.
fn descendants(found: &Inspected, plan: &Plan<dyn Operator>) -> BTreeSet<usize> {
    let mut dirty = Dirty::default();
    // Rows that announce a model can be made of the model again; nothing else has to be.
    let mut announced: BTreeSet<(String, Epoch)> = BTreeSet::new();
    let is_training = |step: &str| plan.step(step).is_some_and(|s| s.is_training());
    for finding in &found.findings {
        match &finding.thing {
            Thing::Rows(step, epoch) if is_training(step) && !has_errors(found, step, *epoch) => {
                announced.insert((step.clone(), *epoch));
            }
            Thing::Rows(step, epoch) | Thing::Errors(step, epoch) | Thing::Lineage(step, epoch) => {
                if is_training(owner(step)) {
                    dirty.trainings.insert((owner(step).to_owned(), epoch.iteration));
                } else {
                    dirty.add(step, *epoch);
                }
            }
            Thing::Metrics(step, iteration) | Thing::Model(step, iteration) => {
                dirty.trainings.insert((step.clone(), *iteration));
            }
            Thing::Line(_) | Thing::Pipeline | Thing::Summary | Thing::Checkpoint(_) => {}
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
        // A model whose announcement was not committed yet.
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
            Entry::Finished { step: Some(step), iteration } => {
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
