//! Stored rows for inspection: those of a run's step, its errors or metrics, or of any Parquet files.

use std::path::{Path, PathBuf};

use super::part::Part;
use crate::data::{nearest, nearest_path};
use crate::error::{Error, Result};
use crate::store::files::listing::{files, is};
use crate::store::journal::entry::Stored;
use crate::store::journal::find::near_run;
use crate::store::journal::run::Run;

/// Kind of a run's rows.
#[derive(Clone, PartialEq, Eq, Debug)]
enum RunTable {
    /// The rows of a step.
    Step(String),
    /// The failed rows of a step, or of all steps.
    Errors(Option<String>),
    /// The metrics of a training step.
    Metrics(String),
}

/// A table that consists of several files.
#[derive(Debug)]
pub struct Scan {
    given: PathBuf,
    run: Option<(Run, RunTable)>,
    /// The files, if the table is not a run's.
    parts: Vec<Part>,
    manifest_bytes: u64,
}

/// Advice for a missing path: the run or file with the most similar name, if any.
fn nothing_at(given: &Path) -> String {
    let usual = "give RUN/STEP, as runs/quickstart/pairs, a Parquet file, or a directory of them";
    for run in given.ancestors().skip(1).filter(|run| !run.as_os_str().is_empty()) {
        let rest = given.strip_prefix(run).unwrap_or(Path::new(""));
        if let Some(near) = near_run(run) {
            return format!("did you mean `{}`? {usual}", Path::new(&near).join(rest).display());
        }
    }
    match nearest_path(given) {
        Some(near) => format!("did you mean `{}`? {usual}", near.display()),
        None => usual.to_owned(),
    }
}

impl Scan {
    /// Opens the table `given`: `RUN/STEP`, `RUN/errors`, `RUN/errors/STEP`, `RUN/metrics/STEP` (optionally
    /// with `data/` before the step; RUN is a directory or a name in `runs`), or else a Parquet file or a
    /// directory of them.
    ///
    /// # Errors
    /// No such table; the message lists the existing ones.
    pub fn open(given: &Path) -> Result<Self> {
        for base in [PathBuf::new(), PathBuf::from("runs")] {
            let path = base.join(given);
            if path.join("manifest.jsonl").is_file() {
                let run = Run::open(&path)?;
                return Err(Error::user(format!("`{}` is a run: say what of it", path.display())).help(available(&run)));
            }
            for dir in path.ancestors().skip(1).take(4).filter(|dir| dir.join("manifest.jsonl").is_file()) {
                let rest = path.strip_prefix(dir).unwrap_or(Path::new(""));
                let words: Vec<_> = rest.iter().map(|w| w.to_string_lossy().into_owned()).collect();
                let of = match &words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                    ["errors"] | ["data", "errors"] => RunTable::Errors(None),
                    ["errors", step] | ["data", "errors", step] => RunTable::Errors(Some((*step).to_owned())),
                    ["metrics", step] => RunTable::Metrics((*step).to_owned()),
                    [step] | ["data", step] if !matches!(*step, "data" | "metrics" | "models" | "checkpoints") => {
                        RunTable::Step((*step).to_owned())
                    }
                    _ => continue,
                };
                let scan =
                    Self { given: path.clone(), run: Some((Run::open(dir)?, of)), parts: vec![], manifest_bytes: 0 };
                scan.check()?;
                return Ok(scan);
            }
            if path.exists() {
                let mut found = files(&path)?;
                found.retain(|f| is(f, "parquet"));
                if found.is_empty() {
                    return Err(Error::user(format!("`{}` holds no Parquet file", path.display()))
                        .help("`reflux import` turns JSON lines and other formats into Parquet"));
                }
                return Ok(Self::from_parts(&path, found.into_iter().map(Part::file).collect()));
            }
        }
        Err(Error::user(format!("`{}` not found", given.display())).help(nothing_at(given)))
    }

    /// A table named `given` of these parts.
    pub fn from_parts(given: &Path, parts: Vec<Part>) -> Self {
        Self { given: given.to_owned(), run: None, parts, manifest_bytes: 0 }
    }

    /// Checks that the run has the step.
    fn check(&self) -> Result<()> {
        let Some((run, of)) = &self.run else { return Ok(()) };
        let (what, name, known) = match of {
            RunTable::Step(step) => ("step", step, steps(run)),
            RunTable::Errors(None) => return Ok(()),
            RunTable::Errors(Some(step)) => ("step", step, steps(run)),
            RunTable::Metrics(step) => {
                let mut known: Vec<String> = run.metrics().into_iter().map(|m| m.step).collect();
                known.dedup();
                // A training in progress has no metrics yet.
                if !run.finished() {
                    known.extend(steps(run));
                }
                ("metrics of", step, known)
            }
        };
        if known.contains(name) {
            return Ok(());
        }
        if run.dropped(name) {
            return Err(not_kept(name));
        }
        let words: Vec<&str> = known.iter().map(String::as_str).collect();
        let near = nearest(name, words).map(|n| format!("did you mean `{n}`? ")).unwrap_or_default();
        Err(Error::user(format!("the run `{}` has no {what} `{name}`", run.dir().display()))
            .help(near + &available(run)))
    }

    /// The name that the table was opened with.
    pub fn given(&self) -> &Path {
        &self.given
    }

    /// Whether the table may grow: it is a run's, and the run has not finished.
    pub fn live(&self) -> bool {
        self.run.as_ref().is_some_and(|(run, _)| !run.finished())
    }

    /// Reads the run's manifest again if its size has changed.
    ///
    /// # Errors
    /// The manifest is damaged.
    pub fn refresh(&mut self) -> Result<()> {
        let Some((run, _)) = &self.run else { return Ok(()) };
        let now = std::fs::metadata(run.dir().join("manifest.jsonl")).map_or(0, |m| m.len());
        if now != self.manifest_bytes {
            run.refresh()?;
            self.manifest_bytes = now;
        }
        Ok(())
    }

    /// The current files in order, of one iteration or all.
    ///
    /// # Errors
    /// The step was dropped.
    pub fn parts(&self, iteration: Option<u32>) -> Result<Vec<Part>> {
        let Some((run, of)) = &self.run else {
            if iteration.is_some() && self.parts.iter().any(|part| part.iteration().is_none()) {
                return Err(Error::user(format!(
                    "`{}` is not a run's step: it has no iterations",
                    self.given.display()
                ))
                .help("`--where COLUMN=VALUE` chooses rows by a column"));
            }
            let wanted = |part: &&Part| iteration.is_none() || part.iteration() == iteration;
            return Ok(self.parts.iter().filter(wanted).cloned().collect());
        };
        let file = |path: &str| run.dir().join(path);
        let mut parts: Vec<(u32, Part)> = match of {
            RunTable::Step(step) => {
                if run.dropped(step) {
                    return Err(not_kept(step));
                }
                run.files(step).iter().map(|f| (f.iteration, run.part(f))).collect()
            }
            RunTable::Errors(of) => {
                let entries = run.entries().into_iter().filter(|f| of.as_ref().is_none_or(|step| f.step == *step));
                let errors = entries.filter_map(|f| f.errors.map(|e| (f.iteration, e)));
                let part = |e: Stored| Part::file(file(&e.path)).committed(e.rows, e.bytes);
                errors.map(|(iteration, e)| (iteration, part(e))).collect()
            }
            RunTable::Metrics(step) => {
                let metrics = run.metrics().into_iter().filter(|m| m.step == *step);
                let mut parts: Vec<(u32, Part)> = metrics.map(|m| (m.iteration, run.metrics_part(&m))).collect();
                let running = run.running_metrics(step)?.into_iter();
                parts.extend(running.map(|(iteration, rows)| (iteration, Part::running(run, step, iteration, rows))));
                parts
            }
        };
        parts.retain(|(i, _)| iteration.is_none_or(|wanted| *i == wanted));
        Ok(parts.into_iter().map(|(_, part)| part).collect())
    }
}

/// The steps of a run: those with rows, and those in its pipeline file.
fn steps(run: &Run) -> Vec<String> {
    let mut steps = run.steps();
    let text = run.pipeline_text().unwrap_or_default();
    let table = text.parse::<toml::Table>().unwrap_or_default();
    let named = table.get("step").and_then(toml::Value::as_table).into_iter().flat_map(|t| t.keys().cloned());
    let more: Vec<String> = named.filter(|name| !steps.contains(name) && !run.dropped(name)).collect();
    steps.extend(more);
    steps
}

fn available(run: &Run) -> String {
    let mut words = steps(run);
    words.push("errors".to_owned());
    let mut trained: Vec<String> = run.metrics().into_iter().map(|m| format!("metrics/{}", m.step)).collect();
    trained.dedup();
    words.extend(trained);
    format!("there are: {}", words.join(", "))
}

fn not_kept(step: &str) -> Error {
    Error::user(format!("the rows of the step `{step}` were not kept"))
        .help("remove its `keep = false` and run again under another name")
}
