//! The runs of a folder with their main figures, side by side. They are read from what each run has committed, so that
//! one that is under way has them too.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use arrow::array::Array;
use arrow::datatypes::Schema;
use chrono::{DateTime, Local};
use serde_json::{Value, json};

use super::show::{aligned, fitted, width};
use crate::data::{Columns, named};
use crate::dataflow::Operator;
use crate::error::{Context as _, Result};
use crate::pipeline::{Placement, Plan, Step};
use crate::store::Run;

/// Folders below the given one in which runs are looked for: a study has them by variant and seed.
const DEPTH: usize = 3;

/// The main figures of one run.
#[derive(Debug, Default, PartialEq)]
struct Figures {
    state: &'static str,
    /// Iterations that have begun.
    iterations: u32,
    /// Rows of the first step that makes pairs, by iteration.
    pairs: Vec<u64>,
    /// Means of the first step that gives scores within the loop, by iteration.
    scores: Vec<f64>,
    /// Of the last training: the mean over its steps.
    loss: Option<f64>,
    accuracy: Option<f64>,
}

/// A run, or why it cannot be read.
struct Listed {
    name: String,
    when: Option<SystemTime>,
    figures: Result<Figures, String>,
}

/// The runs of a folder.
pub struct Runs {
    folder: PathBuf,
    runs: Vec<Listed>,
}

impl Runs {
    /// Reads all runs below a folder. `plan_of` reads a run's own pipeline file, without which figures are counted only.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn of(folder: &Path, plan_of: &dyn Fn(&Run) -> Option<Plan<dyn Operator>>) -> Result<Self> {
        let mut places = Vec::new();
        find(folder, DEPTH, &mut places)?;
        places.sort();
        let listed = |place: PathBuf| {
            let name = place.strip_prefix(folder).unwrap_or(&place).display().to_string();
            let when = std::fs::metadata(place.join("manifest.jsonl")).and_then(|m| m.modified()).ok();
            let figures = Run::open(&place).and_then(|run| Figures::of(&run, plan_of(&run).as_ref()));
            Listed { name, when, figures: figures.map_err(|e| e.to_string()) }
        };
        Ok(Self { folder: folder.to_owned(), runs: places.into_iter().map(listed).collect() })
    }

    /// As a list of objects; figures that are not there are null.
    pub fn json(&self) -> Value {
        let run = |run: &Listed| {
            let when = run.when.map(|at| DateTime::<Local>::from(at).to_rfc3339());
            let mut row = json!({ "run": self.folder.join(&run.name), "when": when });
            match &run.figures {
                Err(error) => row["error"] = error.as_str().into(),
                Ok(f) => {
                    (row["state"], row["iterations"]) = (f.state.into(), f.iterations.into());
                    (row["pairs"], row["scores"]) = (json!(f.pairs), json!(f.scores));
                    (row["loss"], row["accuracy"]) = (json!(f.loss), json!(f.accuracy));
                }
            }
            row
        };
        self.runs.iter().map(run).collect()
    }

    /// As a table of at most `room` places, with a line below it for what it does not show.
    pub fn lines(&self, room: usize) -> Vec<String> {
        if self.runs.is_empty() {
            return vec![format!("no runs in {}", self.folder.display())];
        }
        let heads = ["run", "state", "iterations", "pairs", "scores", "loss", "accuracy", "when"];
        let rows: Vec<Vec<String>> = self.runs.iter().map(Listed::cells).collect();
        // What is left out first where room is short.
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
        let errors = self.runs.iter().filter_map(|run| Some((&run.name, run.figures.as_ref().err()?)));
        lines.extend(errors.map(|(name, why)| format!("{name}: {why}")));
        lines
    }
}

/// Places that these columns take.
fn wide(heads: &[&str], rows: &[Vec<String>], shown: &[usize]) -> usize {
    let column = |&c: &usize| rows.iter().map(|row| width(&row[c])).chain([width(heads[c])]).max().unwrap_or(0);
    shown.iter().map(column).sum::<usize>() + 2 * shown.len().saturating_sub(1)
}

/// Adds the directories that are runs. Links are not followed: they would lead to a run twice, or in a circle.
fn find(folder: &Path, depth: usize, places: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder).user(|| folder.display().to_string())? {
        let entry = entry.user(|| folder.display().to_string())?;
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let path = entry.path();
        if path.join("manifest.jsonl").is_file() {
            places.push(path);
        } else if depth > 1 {
            // A folder that may not be read has no runs that could be listed.
            let _ = find(&path, depth - 1, places);
        }
    }
    Ok(())
}

impl Listed {
    fn cells(&self) -> Vec<String> {
        let when = self.when.map(|at| DateTime::<Local>::from(at).format("%Y-%m-%d %H:%M").to_string());
        let when = when.unwrap_or_default();
        let Ok(f) = &self.figures else {
            let mut cells = vec![String::new(); 8];
            (cells[0], cells[1], cells[7]) = (self.name.clone(), "damaged".to_owned(), when);
            return cells;
        };
        let list = |all: Vec<String>| all.join(" ");
        vec![
            self.name.clone(),
            f.state.to_owned(),
            if f.iterations == 0 { String::new() } else { f.iterations.to_string() },
            list(f.pairs.iter().map(u64::to_string).collect()),
            list(f.scores.iter().map(|mean| format!("{mean:.2}")).collect()),
            f.loss.map(|loss| format!("{loss:.4}")).unwrap_or_default(),
            f.accuracy.map(|share| format!("{share:.3}")).unwrap_or_default(),
            when,
        ]
    }
}

impl Figures {
    fn of(run: &Run, plan: Option<&Plan<dyn Operator>>) -> Result<Self> {
        let state = match (run.finished(), run.writer()) {
            (true, _) => "finished",
            (false, Some(_)) => "running",
            (false, None) => "unfinished",
        };
        let iterations = run.entries().iter().map(|f| f.iteration).max().unwrap_or(0);
        let mut figures = Self { state, iterations, ..Self::default() };
        let Some(plan) = plan else { return Ok(figures) };
        if let Some(last) = &plan.loop_.as_ref().and_then(|l| plan.step(&l.next)) {
            // Observers run once more, for the model that is the result.
            figures.iterations = iterations.min(*last.iterations.end());
        }
        let of = |schema: &str| {
            let all = || plan.steps.iter().filter(|s| s.schema.name == schema && !run.files(&s.name).is_empty());
            all().find(|s| s.placement == Placement::Loop).or_else(|| all().next())
        };
        if let Some(pairs) = of(named::PAIRS.name) {
            figures.pairs = by_iteration(pairs, run, |files| Ok(Some(files.iter().map(|f| f.rows).sum())))?;
        }
        if let Some(scores) = of(named::SCORES.name) {
            figures.scores = by_iteration(scores, run, |files| mean_score(run, files))?;
        }
        if let Some(last) = run.metrics().iter().max_by_key(|m| m.iteration) {
            let rows = run.load_metrics(last)?;
            let mean = |column: &str| -> Result<Option<f64>> {
                let values: Vec<f64> = Columns(&rows).double(column)?.iter().flatten().collect();
                Ok((!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64))
            };
            (figures.loss, figures.accuracy) = (mean("loss")?, mean("rewards/accuracies")?);
        }
        Ok(figures)
    }
}

/// A figure of each iteration in which a step has files.
fn by_iteration<T>(
    step: &Step<dyn Operator>,
    run: &Run,
    figure: impl Fn(&[crate::store::FileEntry]) -> Result<Option<T>>,
) -> Result<Vec<T>> {
    let files = run.files(&step.name);
    let of = |iteration| files.iter().filter(|f| f.iteration == iteration).cloned().collect::<Vec<_>>();
    let found = step.iterations.clone().map(of).filter(|files| !files.is_empty());
    found.filter_map(|files| figure(&files).transpose()).collect()
}

/// The mean of the column `score` of these files, of which nothing else is read.
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
