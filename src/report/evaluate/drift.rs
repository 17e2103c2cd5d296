//! Measures how a run's answers and scores change between iterations, from committed rows.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::data::did_you_mean;
use crate::error::{Error, Result};
use crate::eval::bootstrap::Bootstrap;
use crate::eval::figures::{self, AnswerStats, Change, FIGURES, Figure, FigureDef, FigureOptions, Unit};
use crate::report::inspect::show::aligned;
use crate::store::Run;

/// Distinct-n is computed over this number of answers of each iteration, so that iterations are comparable.
const DISTINCT_OF: usize = 1000;

/// A figure without a column in the table, which has the words and the tokens.
const WITHOUT_COLUMN: &str = "characters";

struct Round {
    step: String,
    iteration: u32,
    answers: u64,
    figures: Vec<Figure>,
    warning: Option<String>,
}

/// Figures of the steps with answers, by iteration.
pub struct Drift(Vec<Round>);

impl Drift {
    /// Measures the named steps. Without names it measures every step with scored answers, or every step
    /// with answers if none is scored. `growth` is the smallest relative growth in length that causes a
    /// warning.
    ///
    /// # Errors
    /// A step does not exist or has no answers, or a file is damaged.
    pub fn of(run: &Run, steps: &[String], bootstrap: &Bootstrap, growth: f64) -> Result<Self> {
        let has = |step: &String, column: &str| -> Result<bool> {
            let Some(file) = run.files(step).into_iter().next() else { return Ok(false) };
            Ok(run.load_entry(&file)?.column_by_name(column).is_some())
        };
        let mut answers = Vec::new();
        for step in run.steps_in_order() {
            if has(&step, "response")? && has(&step, "prompt_id")? {
                answers.push((has(&step, "score")? && !has(&step, "rank")?, step));
            }
        }
        let names: Vec<&str> = answers.iter().map(|a| a.1.as_str()).collect();
        let chosen: Vec<String> = if steps.is_empty() {
            let scored = answers.iter().any(|a| a.0);
            answers.iter().filter(|a| a.0 == scored).map(|a| a.1.clone()).collect()
        } else {
            for step in steps {
                if !answers.iter().any(|a| a.1 == *step) {
                    return Err(Error::user(format!("`{}` has no step `{step}` with answers", run.dir().display()))
                        .help(did_you_mean(step, "steps with answers", &names)));
                }
            }
            steps.to_vec()
        };
        if chosen.is_empty() {
            return Err(Error::user(format!("`{}` has no answers yet", run.dir().display())));
        }
        let options = FigureOptions { bootstrap: *bootstrap, ..FigureOptions::default() };
        let mut rounds = Vec::new();
        for step in chosen {
            let iterations: BTreeSet<u32> = run.files(&step).iter().map(|f| f.iteration).collect();
            let mut before: Option<(u32, AnswerStats)> = None;
            for iteration in iterations {
                let (mut now, mut n) = (AnswerStats::default(), 0);
                for batch in run.batches(&step, Some(iteration)) {
                    let rows = batch?.1;
                    n += rows.num_rows() as u64;
                    now.take(&rows, DISTINCT_OF)?;
                }
                let mut figures = figures::of_answers(&now, &options);
                let mut warning = None;
                if let Some((_, before)) = before.as_ref().filter(|(i, _)| i + 1 == iteration && now.scored()) {
                    let change = Change { before, now: &now };
                    let (changes, warned) = figures::of_change(&change, iteration, growth, &options);
                    figures.extend(changes);
                    warning = warned;
                }
                rounds.push(Round { step: step.clone(), iteration, answers: n, figures, warning });
                before = Some((iteration, now));
            }
        }
        Ok(Self(rounds))
    }

    /// Returns one sentence for each iteration whose answers grew faster than their score.
    pub fn warnings(&self) -> impl Iterator<Item = String> + '_ {
        self.0.iter().filter_map(|r| r.warning.as_ref().map(|w| format!("step `{}`: {w}", r.step)))
    }

    /// Returns an object for each step and iteration: its figures with low, high and n, and the warning, if
    /// any.
    pub fn json(&self) -> Value {
        let finite = |v: f64| Some(v).filter(|v| v.is_finite());
        let round = |r: &Round| {
            let mut row = json!({"step": r.step, "iteration": r.iteration, "answers": r.answers});
            for Figure { def, estimate } in &r.figures {
                row[def.name] = match estimate {
                    Some(e) => {
                        json!({"value": finite(e.value), "low": finite(e.low), "high": finite(e.high), "n": e.n})
                    }
                    None => Value::Null,
                };
            }
            row["warning"] = json!(r.warning);
            row
        };
        self.0.iter().map(round).collect()
    }

    /// Formats one line for each step and iteration.
    pub fn table(&self) -> String {
        let value = |r: &Round, def: &FigureDef| {
            r.figures.iter().find(|f| f.def.name == def.name).and_then(|f| f.estimate).map(|e| e.value)
        };
        let columns = FIGURES.iter().filter(|def| def.unit != Unit::Rows && def.name != WITHOUT_COLUMN);
        let mut there: Vec<&FigureDef> =
            columns.copied().filter(|def| self.0.iter().any(|r| value(r, def).is_some())).collect();
        // Lengths are read together.
        there.sort_by_key(|def| def.unit != Unit::Length);
        let cell = |r: &Round, def: &FigureDef| match (value(r, def), def.unit) {
            (None, _) => String::new(),
            (Some(v), Unit::Rows) => format!("{v}"),
            (Some(v), Unit::Length) => format!("{v:.1}"),
            (Some(v), Unit::Growth) => format!("{:+.1}%", 100. * v),
            (Some(v), Unit::Value) => format!("{v:.3}"),
        };
        let row = |r: &Round| {
            let first = [r.step.clone(), r.iteration.to_string(), r.answers.to_string()];
            first.into_iter().chain(there.iter().map(|def| cell(r, def))).collect::<Vec<_>>()
        };
        let head: Vec<&str> =
            ["step", "iteration", "answers"].into_iter().chain(there.iter().map(|def| def.name)).collect();
        let right: Vec<bool> = (0..head.len()).map(|c| c > 0).collect();
        aligned(&head, &right, &self.0.iter().map(row).collect::<Vec<_>>()).join("\n")
    }
}
