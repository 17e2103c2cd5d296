//! Progress for people (bars on a terminal, plain lines otherwise) and for machines (JSON lines), on standard error.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;

use super::terminal::{self, Bar};
use crate::data::Epoch;
use crate::dataflow::{Event, Observer};

/// How progress is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Style {
    /// Not at all.
    Quiet,
    /// A bar for each step.
    Bars,
    /// A line when a step has done an iteration, and now and then in between.
    Lines {
        /// A line for every microbatch.
        all: bool,
    },
    /// A JSON object for every microbatch.
    Json,
}

impl Style {
    /// By the flags and by what standard error is.
    pub fn of(quiet: bool, json: bool, verbose: u8) -> Self {
        match (quiet, json) {
            (true, _) => Style::Quiet,
            (_, true) => Style::Json,
            _ if terminal::stderr_is_terminal() && verbose == 0 => Style::Bars,
            _ => Style::Lines { all: verbose > 0 },
        }
    }
}

/// Between two lines of one step, unless it has done an iteration.
const PATIENCE: Duration = Duration::from_secs(10);

/// Shows a run's progress.
pub struct Progress {
    style: Style,
    start: Instant,
    steps: Mutex<BTreeMap<String, Step>>,
}

#[derive(Default)]
struct Step {
    /// Microbatches of an iteration, if known.
    microbatches: Option<u32>,
    iterations: u32,
    bar: Option<Bar>,
    done: u64,
    rows: u64,
    /// Microbatches and their rows by iteration.
    by_iteration: BTreeMap<u32, (u32, u64)>,
    told: Option<Instant>,
    /// Rates are over what this process computed, while it did.
    busy: Duration,
    computed_rows: u64,
}

/// A microbatch that is on disk.
struct Done {
    epoch: Epoch,
    rows: usize,
    errors: usize,
    busy: Duration,
    restored: bool,
}

impl Progress {
    /// Shows progress in this style from now on.
    pub fn new(style: Style) -> Self {
        Self { style, start: Instant::now(), steps: Mutex::default() }
    }

    /// Takes the bars off the screen.
    pub fn finish(&self) {
        let steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        steps.values().filter_map(|s| s.bar.as_ref()).for_each(Bar::abandon);
    }

    fn bar(name: &str, total: Option<u64>) -> Bar {
        let template = if total.is_some() {
            "{prefix:>12} {bar:24} {pos:>4}/{len:<4} {msg} {elapsed:>5} eta {eta}"
        } else {
            "{prefix:>12} {spinner} {pos:>27} {msg} {elapsed:>5}"
        };
        let bar = Bar::new(template, total);
        bar.prefix(name);
        bar
    }

    fn within(&self, step: &mut Step, name: &str, epoch: Epoch, done: usize, planned: usize, unit: &str) {
        match self.style {
            Style::Bars => {
                if let Some(bar) = &step.bar {
                    bar.message(&format!("{done}/{planned} {unit}"));
                    bar.tick();
                }
            }
            Style::Lines { all } => {
                let patient = step.told.is_some_and(|t| t.elapsed() < PATIENCE);
                if all || !patient {
                    step.told = Some(Instant::now());
                    self.line(name, epoch.iteration, &format!("{done}/{planned} {unit}"));
                }
            }
            Style::Json => self.json(json!({ "event": "within", "step": name, "iteration": epoch.iteration, "microbatch": epoch.microbatch, "done": done, "planned": planned, "unit": unit })),
            Style::Quiet => {}
        }
    }

    fn done(&self, step: &mut Step, name: &str, done: &Done) {
        let &Done { epoch, rows, errors, busy, restored } = done;
        step.done += 1;
        step.rows += rows as u64;
        if !restored {
            step.computed_rows += rows as u64;
            step.busy += busy;
        }
        let here = step.by_iteration.entry(epoch.iteration).or_default();
        *here = (here.0 + 1, here.1 + rows as u64);
        let (in_iteration, rows_here) = *here;
        let rate = step.computed_rows as f64 / step.busy.as_secs_f64().max(1e-3);
        let words = |rows: u64| {
            match (restored, rate >= 0.05) {
                (true, _) => format!("{rows} rows, restored"),
                (false, true) => format!("{rows} rows, {rate:.1} rows/s"),
                // A training makes one row; its pace is not told in rows.
                (false, false) => format!("{rows} rows"),
            }
        };
        match self.style {
            Style::Bars => {
                if let Some(bar) = &step.bar {
                    bar.position(step.done);
                    bar.message(&words(step.rows));
                }
            }
            Style::Lines { all } => {
                let closed = step.microbatches == Some(in_iteration);
                let patient = step.told.is_some_and(|t| t.elapsed() < PATIENCE);
                if all || closed || !patient {
                    step.told = Some(Instant::now());
                    let of = step.microbatches.map(|n| format!("/{n}")).unwrap_or_default();
                    let noun = if in_iteration == 1 && of.is_empty() || of == "/1" { "microbatch" } else { "microbatches" };
                    self.line(name, epoch.iteration, &format!("{in_iteration}{of} {noun}, {}", words(rows_here)));
                }
            }
            Style::Json => self.json(json!({ "event": "done", "step": name, "iteration": epoch.iteration, "microbatch": epoch.microbatch, "rows": rows, "errors": errors, "busy_seconds": busy.as_secs_f64(), "restored": restored })),
            Style::Quiet => {}
        }
    }

    fn line(&self, step: &str, iteration: u32, words: &str) {
        let when = self.start.elapsed().as_secs_f64();
        let iteration = if iteration == 0 { "before the loop".into() } else { format!("iteration {iteration}") };
        terminal::line(&format!("{when:7.1}s  {step:<12} {iteration:<16} {words}"));
    }

    fn json(&self, mut object: serde_json::Value) {
        object["seconds"] = json!(self.start.elapsed().as_secs_f64());
        terminal::event(&object);
    }
}

impl Observer for Progress {
    fn event(&self, event: &Event<'_>) {
        if self.style == Style::Quiet {
            return;
        }
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        match *event {
            Event::Planned { step, iterations, microbatches } => {
                let bar = (self.style == Style::Bars)
                    .then(|| Self::bar(step, microbatches.map(|n| u64::from(n) * u64::from(iterations))));
                let planned = Step { microbatches, iterations, bar, ..Step::default() };
                steps.insert(step.to_string(), planned);
            }
            Event::Started { .. } => {}
            Event::Within { step, epoch, done, planned, unit } => {
                if let Some(state) = steps.get_mut(step) {
                    self.within(state, step, epoch, done, planned, unit);
                }
            }
            Event::Done { step, epoch, rows, errors, busy, restored, .. } => {
                if let Some(state) = steps.get_mut(step) {
                    self.done(state, step, &Done { epoch, rows, errors, busy, restored });
                    let all = state.microbatches.map(|n| u64::from(n) * u64::from(state.iterations));
                    if let (Some(bar), true) = (&state.bar, all == Some(state.done)) {
                        bar.finish();
                    }
                }
            }
        }
    }
}
