//! Checks that compare the manifest with itself, with the plan, and with the rows that name models.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::schema::{is_reference, schema};
use crate::data::{Columns, Epoch, counted, is_hash, named};
use crate::dataflow::{Operator, model_name};
use crate::pipeline::Plan;
use crate::report::owner;
use crate::store::journal::entry::Entry;
use crate::store::journal::manifest::Line;
use crate::store::{Artifact, FileEntry, Finding, Inspected, read_parquet};

/// Runs all checks.
pub(super) fn all(dir: &Path, found: &Inspected, plan: Option<&Plan<dyn Operator>>) -> Vec<Finding> {
    let lineage = lineage(found, plan);
    let (names, announcements) = (names(found, plan), announcements(dir, found, plan));
    [lineage, names, announcements, references(dir, found), gaps(found), lost_lines(found)].concat()
}

/// Finds rows whose lineage names files or models that are missing from the manifest.
fn lineage(found: &Inspected, plan: Option<&Plan<dyn Operator>>) -> Vec<Finding> {
    let hashes: BTreeSet<&str> =
        found.rows().map(|f| f.hash.as_str()).chain(found.models().map(|m| m.hash.as_str())).collect();
    let mut findings = Vec::new();
    for file in found.rows() {
        let step = plan.and_then(|p| p.step(owner(&file.step)));
        // A repair removes the lines of steps that are not kept, so an unfinished run may lack them.
        let forgets = |i: &crate::pipeline::Input| plan.and_then(|p| p.step(&i.step)).is_some_and(|s| !s.keep);
        let forgotten = !found.finished() && step.is_some_and(|s| s.inputs.iter().any(forgets));
        // The lineage of references begins with the hash of weights that may be from outside the run;
        // `references` checks it.
        let foreign = usize::from(is_reference(&file.step));
        for of in file.lineage.iter().skip(foreign) {
            let why = if is_hash(of) {
                (!hashes.contains(of.as_str()) && !forgotten)
                    .then(|| format!("it was made from {}, which is missing from the manifest", &of[..12]))
            } else {
                plan.filter(|p| p.model(of).is_none())
                    .map(|_| format!("it was made by the model `{of}`, which is missing from the pipeline file"))
            };
            findings.extend(
                why.map(|why| Finding::new(Artifact::Lineage(file.step.clone(), file.epoch()), &file.path, why)),
            );
        }
    }
    findings
}

/// Finds lines about steps, models or a seed that the plan does not have; such a line is itself damaged.
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
        Some(Finding::new(Artifact::Line(number), path, format!("the pipeline file has no {what}")))
    };
    found.entries().filter_map(finding).collect()
}

/// Finds rows that announce other models than those in the manifest.
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
                let why = format!("the manifest lacks the model that `{}` announces", file.path);
                let artifact = Artifact::Model(file.step.clone(), file.iteration);
                findings.push(Finding::new(artifact, format!("models/{name}"), why));
            }
        }
    }
    findings
}

/// Finds references whose line names other weights than their rows.
fn references(dir: &Path, found: &Inspected) -> Vec<Finding> {
    let damaged: BTreeSet<&str> = found.findings.iter().map(|f| f.path.as_str()).collect();
    let mut findings = Vec::new();
    for file in found.rows().filter(|f| is_reference(&f.step) && !damaged.contains(f.path.as_str())) {
        let Ok(rows) = read_parquet(&dir.join(&file.path)) else { continue };
        let Ok(models) = Columns(&rows).text("model") else { continue };
        let named = file.lineage.first().map(String::as_str);
        if let Some(other) = models.iter().find(|m| *m != named) {
            let (named, other) = (named.unwrap_or("no weights"), other.unwrap_or_default());
            let why = format!("the manifest names the weights `{named}`, its rows `{other}`");
            findings.push(Finding::new(Artifact::Lineage(file.step.clone(), file.epoch()), &file.path, why));
        }
    }
    findings
}

/// Finds missing lines whose existence other lines imply: the metrics of a model, and, in a finished run,
/// the announcement of a model and microbatches between others.
fn gaps(found: &Inspected) -> Vec<Finding> {
    const NO_LINE: &str = "the manifest has no line for it";
    let mut findings = Vec::new();
    for model in found.models() {
        let of = |e: &Entry| matches!(e, Entry::Metrics(m) if m.step == model.step && m.iteration == model.iteration);
        if !found.entries().any(|(_, e)| of(e)) {
            let path = format!("metrics/{}/iteration={}/metrics.parquet", model.step, model.iteration);
            findings.push(Finding::new(Artifact::Metrics(model.step.clone(), model.iteration), path, NO_LINE));
        }
    }
    if !found.finished() {
        return findings;
    }
    for model in found.models() {
        let epoch = Epoch::new(model.iteration, 0);
        if !found.rows().any(|f| f.step == model.step && f.epoch() == epoch) {
            let path = format!("data/{}/iteration={}/microbatch=00000.parquet", model.step, model.iteration);
            findings.push(Finding::new(Artifact::Rows(model.step.clone(), epoch), path, NO_LINE));
        }
    }
    let mut numbers: BTreeMap<(&str, u32), BTreeSet<u32>> = BTreeMap::new();
    for file in found.rows() {
        numbers.entry((&file.step, file.iteration)).or_default().insert(file.microbatch);
    }
    for ((step, iteration), numbers) in numbers {
        let last = numbers.last().copied().unwrap_or(0);
        // Each gap yields one finding: a damaged microbatch number could be huge.
        let starts = numbers.iter().filter(|n| **n < last && !numbers.contains(&(*n + 1))).map(|n| n + 1);
        let starts = starts.chain((!numbers.contains(&0)).then_some(0));
        findings.extend(starts.map(|microbatch| {
            let path = format!("data/{step}/iteration={iteration}/microbatch={microbatch:05}.parquet");
            let artifact = Artifact::Rows(step.to_owned(), Epoch::new(iteration, microbatch));
            Finding::new(artifact, path, NO_LINE)
        }));
    }
    findings
}

/// Finds lines that were lost since the run finished, or that the last line does not count. Their content
/// is unknown, so the run cannot count as finished.
fn lost_lines(found: &Inspected) -> Vec<Finding> {
    // An unreadable line counts here, because it has a finding of its own; duplicate lines count once.
    let is_content = |line: &&Line| line.entry.as_ref().map_or(true, Entry::is_content);
    let count = |end: usize| -> u64 {
        let lines = found.lines.iter().filter(|line| line.number < end).filter(is_content);
        lines.map(|line| &line.bytes[..]).collect::<BTreeSet<_>>().len() as u64
    };
    let lost = |(number, entry): (usize, &Entry)| {
        let Entry::Finished { lines: Some(lines), step: None, .. } = entry else { return None };
        let counts = counted(*lines, "other line");
        let why = match (count(usize::MAX), count(number)) {
            (all, _) if all < *lines => {
                format!("line {number} was written after {counts}, of which {} are missing", lines - all)
            }
            // Lines that a finished run restores follow its last line.
            (_, before) if before > *lines => format!("line {number} counts {counts}, but {before} precede it"),
            _ => return None,
        };
        Some(Finding::new(Artifact::Line(number), "manifest.jsonl", why))
    };
    found.entries().find_map(lost).into_iter().collect()
}
