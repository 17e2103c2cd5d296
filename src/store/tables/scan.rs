//! Rows as they lie on the disk, to be looked at: those of a run's step, its errors or metrics, or of any Parquet files.

use std::path::{Path, PathBuf};

use super::part::Part;
use crate::data::{nearest, nearest_path};
use crate::error::{Error, Result};
use crate::store::files::listing::{files, is};
use crate::store::journal::entry::Stored;
use crate::store::journal::find::near_run;
use crate::store::journal::run::Run;

/// Which rows of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Of {
    /// What a step made.
    Step(String),
    /// What a step, or every step, left out.
    Errors(Option<String>),
    /// The metrics of a training step.
    Metrics(String),
}

/// A table that is spread over files.
#[derive(Debug)]
pub struct Scan {
    given: PathBuf,
    run: Option<(Run, Of)>,
    /// Where it is not a run's.
    parts: Vec<Part>,
    manifest_bytes: u64,
}

/// Help for something that is not there: the run that was meant, if one is near.
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
    /// Finds what `given` names: `RUN/STEP`, `RUN/errors`, `RUN/errors/STEP`, `RUN/metrics/STEP` (with `data/` before it or
    /// not; RUN is a directory or a name in `runs`), or else a Parquet file or a directory of them.
    ///
    /// # Errors
    /// There is nothing of that name; what there is is told.
    pub fn open(given: &Path) -> Result<Self> {
        for base in [PathBuf::new(), PathBuf::from("runs")] {
            let path = base.join(given);
            if path.join("manifest.jsonl").is_file() {
                let run = Run::open(&path)?;
                return Err(Error::user(format!("`{}` is a run: say what of it", path.display())).help(there_is(&run)));
            }
            for dir in path.ancestors().skip(1).take(4).filter(|dir| dir.join("manifest.jsonl").is_file()) {
                let rest = path.strip_prefix(dir).unwrap_or(Path::new(""));
                let words: Vec<_> = rest.iter().map(|w| w.to_string_lossy().into_owned()).collect();
                let of = match &words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                    ["errors"] | ["data", "errors"] => Of::Errors(None),
                    ["errors", step] | ["data", "errors", step] => Of::Errors(Some((*step).to_owned())),
                    ["metrics", step] => Of::Metrics((*step).to_owned()),
                    [step] | ["data", step] if !matches!(*step, "data" | "metrics" | "models" | "checkpoints") => {
                        Of::Step((*step).to_owned())
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
                return Ok(Self::of(&path, found.into_iter().map(Part::file).collect()));
            }
        }
        Err(Error::user(format!("there is nothing at `{}`", given.display())).help(nothing_at(given)))
    }

    /// A table of these parts, that is called so.
    pub fn of(given: &Path, parts: Vec<Part>) -> Self {
        Self { given: given.to_owned(), run: None, parts, manifest_bytes: 0 }
    }

    /// Whether the step is one of the run.
    fn check(&self) -> Result<()> {
        let Some((run, of)) = &self.run else { return Ok(()) };
        let (what, name, known) = match of {
            Of::Step(step) => ("step", step, steps(run)),
            Of::Errors(None) => return Ok(()),
            Of::Errors(Some(step)) => ("step", step, steps(run)),
            Of::Metrics(step) => {
                let mut known: Vec<String> = run.metrics().into_iter().map(|m| m.step).collect();
                known.dedup();
                // A training that is still to end has no metrics yet.
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
            .help(near + &there_is(run)))
    }

    /// What it was opened as.
    pub fn given(&self) -> &Path {
        &self.given
    }

    /// Whether more may come: it is a run's, and the run is not finished.
    pub fn live(&self) -> bool {
        self.run.as_ref().is_some_and(|(run, _)| !run.finished())
    }

    /// Reads the manifest again if it has grown.
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

    /// The files there are now, in order; of one iteration or all.
    ///
    /// # Errors
    /// The step was not kept.
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
            Of::Step(step) => {
                if run.dropped(step) {
                    return Err(not_kept(step));
                }
                run.files(step).iter().map(|f| (f.iteration, run.part(f))).collect()
            }
            Of::Errors(of) => {
                let entries = run.entries().into_iter().filter(|f| of.as_ref().is_none_or(|step| f.step == *step));
                let errors = entries.filter_map(|f| f.errors.map(|e| (f.iteration, e)));
                let part = |e: Stored| Part::file(file(&e.path)).committed(e.rows, e.bytes);
                errors.map(|(iteration, e)| (iteration, part(e))).collect()
            }
            Of::Metrics(step) => {
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

/// The steps of a run: those with rows, and those that its pipeline file names.
fn steps(run: &Run) -> Vec<String> {
    let mut steps = run.steps();
    let text = run.pipeline_text().unwrap_or_default();
    let table = text.parse::<toml::Table>().unwrap_or_default();
    let named = table.get("step").and_then(toml::Value::as_table).into_iter().flat_map(|t| t.keys().cloned());
    let more: Vec<String> = named.filter(|name| !steps.contains(name) && !run.dropped(name)).collect();
    steps.extend(more);
    steps
}

fn there_is(run: &Run) -> String {
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
