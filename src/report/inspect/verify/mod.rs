//! What of a damaged run has to be made again: what is damaged itself, and all that was made of it.
//!
//! With the run's plan that is followed edge by edge; without one (its pipeline file is damaged) everything that was committed
//! after the first damaged file goes, as nothing is made of what comes later.

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

/// A run that was looked through.
pub struct Verdict {
    name: String,
    found: Inspected,
    /// Lines of the manifest that go if the run is repaired.
    goes: BTreeSet<usize>,
    seed: Option<u64>,
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
        let plan = plan.filter(|_| found.findings.iter().all(|f| f.thing != Artifact::Pipeline));
        let more = checks::all(dir, &found, plan);
        found.findings.extend(more);
        found.findings.dedup();
        let goes = all_that_goes(dir, &found, plan);
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
        if self.found.no_summary {
            lines.push("missing: summary.json: the next run makes it again".to_owned());
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

/// The manifest's lines that go. Lines that are out of order may leave others without what they name: what is left is looked
/// through again until nothing is missing, so that one repair is enough.
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
