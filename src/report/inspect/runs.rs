//! Lists the runs of a folder with their main figures. The figures are read from what each run has
//! committed, so unfinished runs have them too.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use arrow::array::Array;
use arrow::datatypes::Schema;
use chrono::{DateTime, Local};
use serde_json::{Value, json};

use super::show::{aligned, fitted, width};
use crate::data::{Columns, join_some, named};
use crate::dataflow::Operator;
use crate::error::{ErrorContext as _, ErrorKind, Result};
use crate::pipeline::{Placement, Plan, Step};
use crate::store::{Run, RunState};

/// Maximum depth below the given folder at which runs are searched; a study stores its runs by variant and
/// seed.
const DEPTH: usize = 3;

/// The main figures of one run.
#[derive(Debug, PartialEq)]
struct RunFigures {
    state: RunState,
    /// Number of iterations that have started.
    iterations: u32,
    /// Figures of the steps with pairs and scores; `None` if the run's pipeline file, which names them,
    /// cannot be read.
    of_steps: Option<OfSteps>,
    /// Means over the steps of the last training.
    loss: Option<f64>,
    accuracy: Option<f64>,
}

/// Figures by iteration, one for each iteration of the step.
#[derive(Debug, Default, PartialEq)]
struct OfSteps {
    /// Rows of the first step with pairs.
    pairs: Vec<Option<u64>>,
    /// Mean scores of the first step with scores, in the loop if possible; `None` if no score was readable.
    scores: Vec<Option<f64>>,
}

/// A run with its figures, or the error that occurred when it was read.
struct ListedRun {
    name: String,
    when: Option<SystemTime>,
    figures: Result<RunFigures>,
}

/// The runs of a folder.
pub struct Runs {
    folder: PathBuf,
    runs: Vec<ListedRun>,
    /// Folders that may hold runs but were not searched, with the reason.
    skipped: Vec<String>,
}

impl Runs {
    /// Reads all runs below a folder. `plan_of` loads a run's own pipeline file, which defines the schemas
    /// of its steps.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn of(folder: &Path, plan_of: &dyn Fn(&Run) -> Option<Plan<dyn Operator>>) -> Result<Self> {
        let mut found = FoundRuns { folder, places: Vec::new(), skipped: Vec::new() };
        found.look(folder, DEPTH).user(|| folder.display().to_string())?;
        let FoundRuns { mut places, mut skipped, .. } = found;
        places.sort();
        skipped.sort();
        let listed = |place: PathBuf| {
            let name = place.strip_prefix(folder).unwrap_or(&place).display().to_string();
            let when = std::fs::metadata(place.join("manifest.jsonl")).and_then(|m| m.modified()).ok();
            let figures = Run::open(&place).and_then(|run| RunFigures::of(&run, plan_of(&run).as_ref()));
            ListedRun { name, when, figures }
        };
        Ok(Self { folder: folder.to_owned(), runs: places.into_iter().map(listed).collect(), skipped })
    }

    /// Describes the folders that were not searched.
    pub fn skipped(&self) -> Option<String> {
        (!self.skipped.is_empty()).then(|| format!("not searched: {}", join_some(&self.skipped)))
    }

    /// Returns a list of objects; missing figures are null. Skipped folders are not included
    /// ([`Runs::skipped`]).
    pub fn json(&self) -> Value {
        let run = |run: &ListedRun| {
            let when = run.when.map(|at| DateTime::<Local>::from(at).to_rfc3339());
            let mut row = json!({ "run": self.folder.join(&run.name), "when": when });
            match &run.figures {
                Err(error) => row["error"] = error.to_string().into(),
                Ok(f) => {
                    (row["state"], row["iterations"]) = (f.state.word().into(), f.iterations.into());
                    row["writer"] = json!(f.state.writer().and_then(|writer| writer.pid));
                    row["pairs"] = json!(f.of_steps.as_ref().map(|of| &of.pairs));
                    row["scores"] = json!(f.of_steps.as_ref().map(|of| &of.scores));
                    (row["loss"], row["accuracy"]) = (json!(f.loss), json!(f.accuracy));
                }
            }
            row
        };
        self.runs.iter().map(run).collect()
    }

    /// Formats a table at most `room` characters wide, followed by notes on runs with incomplete figures.
    pub fn lines(&self, room: usize) -> Vec<String> {
        if self.runs.is_empty() {
            let none = format!("no runs in {}", self.folder.display());
            return [none].into_iter().chain(self.skipped()).collect();
        }
        let heads = ["run", "state", "iterations", "pairs", "scores", "loss", "accuracy", "when"];
        let rows: Vec<Vec<String>> = self.runs.iter().map(ListedRun::cells).collect();
        // Columns are dropped in this order if the table is too wide.
        let mut shown: Vec<usize> = (0..heads.len()).collect();
        for left_out in [2, 7, 6, 5, 4] {
            if wide(&heads, &rows, &shown) <= room {
                break;
            }
            shown.retain(|c| *c != left_out);
        }
        let pick = |row: &Vec<String>| shown.iter().map(|&c| row[c].clone()).collect::<Vec<_>>();
        let some: Vec<Vec<String>> = rows.iter().map(pick).collect();
        let names: Vec<&str> = shown.iter().map(|&c| heads[c]).collect();
        let right: Vec<bool> = shown.iter().map(|c| [2, 5, 6].contains(c)).collect();
        let mut lines: Vec<String> =
            aligned(&names, &right, &some).iter().map(|line| fitted(line, room.max(1))).collect();
        let hidden: Vec<&str> = (0..heads.len()).filter(|c| !shown.contains(c)).map(|c| heads[c]).collect();
        if !hidden.is_empty() {
            lines.extend([String::new(), format!("not shown: {}; --json has all", hidden.join(", "))]);
        }
        lines.extend(self.runs.iter().filter_map(|run| Some(format!("{}: {}", run.name, run.note()?))));
        lines.extend(self.skipped());
        lines
    }
}

/// Width of a table with these columns.
fn wide(heads: &[&str], rows: &[Vec<String>], shown: &[usize]) -> usize {
    let column = |&c: &usize| rows.iter().map(|row| width(&row[c])).chain([width(heads[c])]).max().unwrap_or(0);
    shown.iter().map(column).sum::<usize>() + 2 * shown.len().saturating_sub(1)
}

/// Run directories found so far.
struct FoundRuns<'a> {
    folder: &'a Path,
    places: Vec<PathBuf>,
    skipped: Vec<String>,
}

impl FoundRuns<'_> {
    /// Adds the runs below a folder. Links are not followed: they could lead to the same run twice, or in a
    /// circle.
    fn look(&mut self, folder: &Path, depth: usize) -> io::Result<()> {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let (kind, path) = (entry.file_type()?, entry.path());
            if kind.is_symlink() && path.is_dir() {
                self.skip(&path, "a link");
            }
            if !kind.is_dir() {
                continue;
            }
            if path.join("manifest.jsonl").is_file() {
                self.places.push(path);
            } else if depth > 1 {
                self.look(&path, depth - 1).unwrap_or_else(|e| self.skip(&path, &e.to_string()));
            } else if has_folders(&path) {
                self.skip(&path, "too deep");
            }
        }
        Ok(())
    }

    fn skip(&mut self, path: &Path, why: &str) {
        let name = path.strip_prefix(self.folder).unwrap_or(path).display().to_string();
        self.skipped.push(format!("{name} ({why})"));
    }
}

/// Whether a folder has subfolders; an unreadable folder is assumed to have some.
fn has_folders(folder: &Path) -> bool {
    let is_folder = |entry: io::Result<std::fs::DirEntry>| entry.and_then(|e| e.file_type()).is_ok_and(|t| t.is_dir());
    std::fs::read_dir(folder).map_or(true, |mut entries| entries.any(is_folder))
}

/// Joins the figures of all iterations into one cell.
fn in_a_row<T>(figures: &[Option<T>], text: impl Fn(&T) -> String) -> String {
    let cells: Vec<String> = figures.iter().map(|f| f.as_ref().map_or_else(|| "-".to_owned(), &text)).collect();
    cells.join(" ")
}

impl ListedRun {
    /// Explains figures that are missing from the table.
    fn note(&self) -> Option<String> {
        match &self.figures {
            Err(error) => Some(error.to_string()),
            Ok(RunFigures { of_steps: None, .. }) => {
                Some("its pipeline.toml cannot be read, so its pairs and scores are unknown".to_owned())
            }
            Ok(_) => None,
        }
    }

    fn cells(&self) -> Vec<String> {
        let when = self.when.map(|at| DateTime::<Local>::from(at).format("%Y-%m-%d %H:%M").to_string());
        let when = when.unwrap_or_default();
        let f = match &self.figures {
            Ok(figures) => figures,
            Err(error) => {
                // A permission or I/O error says nothing about the state of the run.
                let state = if error.kind() == ErrorKind::System { "unreadable" } else { "damaged" };
                let mut cells = vec![String::new(); 8];
                (cells[0], cells[1], cells[7]) = (self.name.clone(), state.to_owned(), when);
                return cells;
            }
        };
        let (pairs, scores) = f.of_steps.as_ref().map_or(("?".to_owned(), "?".to_owned()), |of| {
            (in_a_row(&of.pairs, u64::to_string), in_a_row(&of.scores, |mean| format!("{mean:.2}")))
        });
        vec![
            self.name.clone(),
            f.state.word().to_owned(),
            if f.iterations == 0 { String::new() } else { f.iterations.to_string() },
            pairs,
            scores,
            f.loss.map(|loss| format!("{loss:.4}")).unwrap_or_default(),
            f.accuracy.map(|share| format!("{share:.3}")).unwrap_or_default(),
            when,
        ]
    }
}

impl RunFigures {
    fn of(run: &Run, plan: Option<&Plan<dyn Operator>>) -> Result<Self> {
        let begun = run.entries().iter().map(|f| f.iteration).max().unwrap_or(0);
        let last = plan.and_then(|plan| plan.step(&plan.loop_.as_ref()?.next));
        // Observers run once more, for the final model.
        let iterations = last.map_or(begun, |last| begun.min(*last.iterations.end()));
        let (mut loss, mut accuracy) = (None, None);
        if let Some(last) = run.metrics().iter().max_by_key(|m| m.iteration) {
            let rows = run.load_metrics(last)?;
            let mean = |column: &str| -> Result<Option<f64>> {
                let values: Vec<f64> = Columns(&rows).double(column)?.iter().flatten().collect();
                Ok((!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64))
            };
            (loss, accuracy) = (mean("loss")?, mean("rewards/accuracies")?);
        }
        let of_steps = plan.map(|plan| OfSteps::of(run, plan)).transpose()?;
        Ok(Self { state: run.run_state(), iterations, of_steps, loss, accuracy })
    }
}

impl OfSteps {
    fn of(run: &Run, plan: &Plan<dyn Operator>) -> Result<Self> {
        let first = |schema: &str| {
            let all = || plan.steps.iter().filter(|s| s.schema.name == schema && !run.files(&s.name).is_empty());
            all().find(|s| s.placement == Placement::Loop).or_else(|| all().next())
        };
        let mut figures = Self::default();
        if let Some(pairs) = first(named::PAIRS.name) {
            figures.pairs = by_iteration(pairs, run, |files| Ok(Some(files.iter().map(|f| f.rows).sum())))?;
        }
        if let Some(scores) = first(named::SCORES.name) {
            figures.scores = by_iteration(scores, run, |files| mean_score(run, files))?;
        }
        Ok(figures)
    }
}

/// Computes a figure for each iteration in which a step has files.
fn by_iteration<T>(
    step: &Step<dyn Operator>,
    run: &Run,
    figure: impl Fn(&[crate::store::FileEntry]) -> Result<Option<T>>,
) -> Result<Vec<Option<T>>> {
    let files = run.files(&step.name);
    let of = |iteration| files.iter().filter(|f| f.iteration == iteration).cloned().collect::<Vec<_>>();
    let found = step.iterations.clone().map(of).filter(|files| !files.is_empty());
    found.map(|files| figure(&files)).collect()
}

/// Mean of the column `score` of these files; no other column is read.
fn mean_score(run: &Run, files: &[crate::store::FileEntry]) -> Result<Option<f64>> {
    let (mut sum, mut count) = (0., 0u64);
    for file in files {
        let part = run.part(file);
        let field = part.schema()?.field_with_name("score").cloned();
        let Ok(field) = field else { return Ok(None) };
        for rows in part.read(&std::sync::Arc::new(Schema::new(vec![field])))? {
            let rows = rows?;
            let scores = Columns(&rows).float("score")?;
            count += (scores.len() - scores.null_count()) as u64;
            sum += scores.iter().flatten().map(f64::from).sum::<f64>();
        }
    }
    Ok((count > 0).then(|| sum / count as f64))
}
