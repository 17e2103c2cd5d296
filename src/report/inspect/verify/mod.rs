//! Finds which parts of a damaged run must be computed again: the damaged parts and everything derived from
//! them.
//!
//! With the run's plan, dependencies are followed edge by edge. Without a plan (the pipeline file is
//! damaged), everything that was committed after the first damaged file is removed, because rows never
//! depend on later ones.

mod checks;
mod dirty;
mod schema;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};

use crate::data::{Schema, counted};
use crate::dataflow::Operator;
use crate::error::Result;
use crate::pipeline::Plan;
use dirty::goes;
use schema::schema;

use crate::store::journal::entry::Entry;
use crate::store::{Artifact, Finding, Inspected, inspect};

/// The result of verifying a run.
pub struct Verification {
    name: String,
    found: Inspected,
    /// Numbers of the manifest lines that a repair removes.
    goes: BTreeSet<usize>,
    seed: Option<u64>,
}

impl Verification {
    /// Verifies the run in `dir`. `weights` computes the hash of a model's weights.
    ///
    /// # Errors
    /// The run does not exist or cannot be read.
    pub fn of(
        dir: &Path,
        plan: Option<&Plan<dyn Operator>>,
        weights: &dyn Fn(&Path) -> Result<String>,
    ) -> Result<Self> {
        // Plans cannot be shared between threads, but their schemas can.
        let schemas: BTreeMap<String, &'static Schema> =
            plan.into_iter().flat_map(|p| &p.steps).map(|s| (s.name.clone(), s.schema)).collect();
        let known = |step: &str| match schemas.get(step) {
            Some(schema) => Some(*schema),
            None => schema(None, step),
        };
        let mut found = inspect(dir, &known, weights)?;
        // If the pipeline file is not the run's own, its plan says nothing about the run.
        let plan = plan.filter(|_| found.findings.iter().all(|f| f.artifact != Artifact::Pipeline));
        let more = checks::all(dir, &found, plan);
        found.findings.extend(more);
        found.findings.dedup();
        let goes = all_that_goes(dir, &found, plan);
        Ok(Self { name: dir.display().to_string(), found, goes, seed: plan.map(|p| p.seed) })
    }

    /// Whether the run is undamaged.
    pub fn sound(&self) -> bool {
        self.found.findings.is_empty()
    }
    /// Number of files that could not be read, and may therefore be intact.
    pub fn unreadable(&self) -> usize {
        self.found.findings.iter().filter(|f| f.unreadable).count()
    }
    /// Number of findings.
    pub fn damaged(&self) -> usize {
        self.found.findings.len()
    }
    /// All findings.
    pub fn found(&self) -> &Inspected {
        &self.found
    }
    /// Numbers of the manifest lines that a repair removes.
    pub fn goes(&self) -> &BTreeSet<usize> {
        &self.goes
    }
    /// The seed, if the pipeline file is readable.
    pub fn seed(&self) -> Option<u64> {
        self.seed
    }

    /// Counts the microbatches by step and the models that a repair removes.
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

    /// Describes what a repair removes: `12 of 40 microbatches (scores 6, pairs 6) and the models M2, M3`.
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

    /// Returns one JSON object.
    pub fn json(&self) -> Value {
        let finding = |f: &Finding| {
            let mut json = json!({ "path": f.path, "why": f.why, "unreadable": f.unreadable });
            let (step, iteration, microbatch) = match &f.artifact {
                Artifact::Rows(step, e) | Artifact::Errors(step, e) | Artifact::Lineage(step, e) => {
                    (Some(step), Some(e.iteration), Some(e.microbatch))
                }
                Artifact::Metrics(step, i) | Artifact::Model(step, i) => (Some(step), Some(*i), None),
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
            "cut_line_bytes": self.found.cut, "no_summary": self.found.no_summary, "repair_drops": { "microbatches": steps, "models": models },
        })
    }

    /// Formats the findings as text.
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> =
            self.found.findings.iter().map(|f| format!("{}: {}: {}", kind(f), f.path, f.why)).collect();
        if self.found.cut > 0 {
            lines.push(format!(
                "cut: manifest.jsonl ends with {} of an unfinished line; the next run removes them",
                counted(self.found.cut, "byte")
            ));
        }
        if self.found.no_summary {
            lines.push("missing: summary.json: the next run writes it again".to_owned());
        }
        for stray in &self.found.strays {
            let why = if self.found.is_leftover(stray) {
                "left by a process that died; the next run removes it"
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

/// Returns the lines that a repair removes. If lines are out of order, a removal may leave references to
/// removed lines, so the remaining lines are checked until nothing is missing; one repair is then enough.
fn all_that_goes(dir: &Path, found: &Inspected, plan: Option<&Plan<dyn Operator>>) -> BTreeSet<usize> {
    let mut all = found.clone();
    loop {
        let going = goes(&all, plan);
        if going.is_empty() {
            return going;
        }
        let mut more = checks::all(dir, &all.without(&going), plan);
        more.retain(|finding| !all.findings.contains(finding));
        if more.is_empty() {
            return going;
        }
        all.findings.extend(more);
    }
}

fn kind(finding: &Finding) -> &'static str {
    if finding.unreadable { "unreadable" } else { "damaged" }
}
