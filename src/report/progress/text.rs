//! Formats progress: a screen of bars and figures, lines for a log, and JSON with the same figures. Lines
//! fit the given width, and texts of models and files are escaped.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::left::TimeLeft;
use super::scores::{ScoreCounts, ScoredSample};
use super::state::{ProgressState, StepState, Training};
use crate::data::{counted, plural};
use crate::report::inspect::contents::size;
use crate::report::inspect::show::{fitted, printable, width as places};

/// Width of a step's name before its bar.
const NAME: usize = 12;
/// Separator between the figures of a line.
const DOT: &str = " · ";

/// Style of a piece of a line on a terminal with colours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Paint {
    /// No style.
    Plain,
    /// Important text.
    Bold,
    /// Unimportant text.
    Dim,
    /// Finished work.
    Done,
    /// Running work.
    Running,
}

/// A styled piece of a line; the terminal adds the colours.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    /// The text, on a single line.
    pub text: String,
    /// The style.
    pub paint: Paint,
}

fn piece(text: impl Into<String>, paint: Paint) -> Piece {
    Piece { text: text.into(), paint }
}

/// Formats seconds, rounded up to at least 1: `45s`, `4m 10s`, `2h 05m`, `3d 4h`.
pub fn duration(seconds: f64) -> String {
    let s = seconds.ceil().clamp(1., 1e15) as u64;
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m {:02}s", s / 60, s % 60),
        3600..86_400 => format!("{}h {:02}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d {}h", s / 86_400, s % 86_400 / 3600),
    }
}

/// Joins parts with `between` into lines of at most `width` columns; all lines but the first are indented.
fn folded(parts: &[String], between: &str, width: usize, indent: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for part in parts {
        match lines.last_mut() {
            Some(line) if places(line) + places(between) + places(part) <= width => {
                line.push_str(between);
                line.push_str(part);
            }
            Some(_) => lines.push(fitted(&format!("{}{part}", " ".repeat(indent)), width)),
            None => lines.push(fitted(part, width)),
        }
    }
    lines
}

/// Wraps a comma-separated text into lines of at most `width` columns.
pub fn wrapped(text: &str, width: usize) -> Vec<String> {
    folded(&text.split(", ").map(str::to_owned).collect::<Vec<_>>(), ", ", width, 2)
}

impl TimeLeft {
    /// Formats the remaining time; the short form omits the reason why it is unknown.
    fn words(&self, short: bool) -> Option<String> {
        match self {
            TimeLeft::Nothing => None,
            TimeLeft::Seconds(s) if short => Some(format!("{} left", duration(*s))),
            TimeLeft::Seconds(s) => Some(format!("about {} left", duration(*s))),
            TimeLeft::Unknown(_) if short => Some("time left unknown".to_owned()),
            TimeLeft::Unknown(steps) => {
                let more = if steps.len() > 1 { format!(" and {} more", steps.len() - 1) } else { String::new() };
                let verb = if steps.len() > 1 { "have" } else { "has" };
                let first = steps.first().map_or("", String::as_str);
                Some(format!("time left unknown until {first}{more} {verb} run"))
            }
        }
    }
}

impl ProgressState {
    /// Formats the screen for a terminal of this width and height: a bar for each step, figures, an
    /// example, and the status line at the bottom.
    pub fn screen(&self, now: Duration, width: usize, height: usize) -> Vec<Vec<Piece>> {
        let figures = self.figures();
        let figures = figures.iter().flat_map(|parts| folded(parts, ", ", width, 2));
        let mut below: Vec<Piece> = figures.map(|line| piece(line, Paint::Plain)).collect();
        below.extend(self.sample_lines(width).into_iter().map(|line| piece(line, Paint::Dim)));
        below.push(piece(self.status_line(now, width), Paint::Bold));
        // One line stays free for the text printed above, and one for the cursor.
        let room = height.saturating_sub(below.len() + 2).max(1);
        let mut lines = self.bars(width, room);
        lines.extend(below.into_iter().map(|piece| vec![piece]));
        lines
    }

    /// Formats the bars of at most `room` steps. If there are more, running steps come first, then pending
    /// ones, and the rest are counted.
    fn bars(&self, width: usize, room: usize) -> Vec<Vec<Piece>> {
        let mut shown: Vec<usize> = (0..self.steps.len()).collect();
        let mut rest = String::new();
        if shown.len() > room {
            let over = |at: usize| self.total(at).is_some_and(|total| total <= self.steps[at].done.microbatches);
            let runs = |at: usize| self.jobs.keys().any(|(of, _)| *of == at);
            shown.sort_by_key(|&at| (!runs(at), over(at)));
            let hidden = shown.split_off(room.saturating_sub(1).max(1));
            let done = hidden.iter().filter(|&&at| over(at)).count();
            rest = format!("{:>NAME$} {}, {done} of them done", "", counted(hidden.len(), "more step"));
            shown.sort_unstable();
        }
        let mut lines: Vec<Vec<Piece>> = shown.into_iter().map(|at| self.bar(at, width)).collect();
        if !rest.is_empty() && room > 1 {
            lines.push(vec![piece(fitted(&rest, width), Paint::Dim)]);
        }
        lines
    }

    fn bar(&self, at: usize, width: usize) -> Vec<Piece> {
        let step = &self.steps[at];
        let length = match width {
            0..70 => 10,
            70..100 => 16,
            _ => 24,
        };
        let within = self.jobs.iter().filter(|((of, _), _)| *of == at).find_map(|(_, job)| job.how_far());
        let (done, total) = (step.done.microbatches, self.total(at));
        let part = within.map_or(0., |w| w.done as f64 / w.planned.max(1) as f64);
        let share = total.map_or(0., |t| (f64::from(done) + part) / f64::from(t.max(1)));
        let full = ((share * length as f64).floor() as usize).min(length);
        let over = total.is_some_and(|total| done >= total);
        let count = total.map_or_else(|| done.to_string(), |total| format!("{done}/{total}"));
        let begun = done > 0 || self.jobs.keys().any(|(of, _)| *of == at);
        let words = match within {
            Some(w) => format!("{}/{} {}", w.done, w.planned, w.unit),
            None if begun => step.words(step.done.rows),
            None => String::new(),
        };
        let room = width.saturating_sub(NAME + length + 2);
        let tail = fitted(format!("{count:>7}  {words}").trim_end(), room);
        let name = format!("{:>NAME$} ", fitted(&step.outline.name, NAME));
        vec![
            piece(name, if begun { Paint::Plain } else { Paint::Dim }),
            piece("█".repeat(full), if over { Paint::Done } else { Paint::Running }),
            piece("░".repeat(length - full), Paint::Dim),
            piece(format!(" {tail}"), Paint::Plain),
        ]
    }

    /// The status line with iteration, running steps, elapsed and remaining time, in the longest form that
    /// fits.
    fn status_line(&self, now: Duration, width: usize) -> String {
        let forms = [false, true].map(|short| self.status_parts(Some(now), short).join(DOT));
        let [long, short] = forms;
        if places(&long) <= width { long } else { fitted(&short, width) }
    }

    /// The parts of the status; the elapsed time is omitted without `now`.
    fn status_parts(&self, now: Option<Duration>, short: bool) -> Vec<String> {
        let mut parts = Vec::new();
        if self.iterations > 0 {
            parts.push(match self.iteration() {
                None => "before the loop".to_owned(),
                Some(i) if i > self.iterations => "after the loop".to_owned(),
                Some(i) => format!("iteration {i} of {}", self.iterations),
            });
        }
        parts.push(match (&self.running()[..], short) {
            ([], _) => "no step is running".to_owned(),
            ([first, rest @ ..], true) if !rest.is_empty() => format!("{first} +{}", rest.len()),
            (all, true) => all.join(", "),
            (all, false) => format!("running {}", all.join(", ")),
        });
        let so_far = if short { "" } else { " so far" };
        parts.extend(now.map(|now| format!("{}{so_far}", duration(now.as_secs_f64()))));
        parts.extend(self.left().words(short));
        parts
    }

    /// Groups of figures, one for each line: the training, the scores of each step, the models on servers, the
    /// machine.
    fn figures(&self) -> Vec<Vec<String>> {
        let mut all = Vec::new();
        if let Some(training) = &self.training {
            all.push(self.training_parts(training));
        }
        all.extend(self.steps.iter().filter_map(StepState::score_parts));
        all.extend(self.servers.iter().map(|server| server.parts(self.charged)));
        let machine = self.machine_parts();
        if !machine.is_empty() {
            all.push(machine);
        }
        all
    }

    fn training_parts(&self, training: &Training) -> Vec<String> {
        let step = &self.steps[training.step].outline.name;
        let value = |name: &str| training.values.iter().find(|(n, _)| *n == name).and_then(|(_, v)| *v);
        let shown = [
            ("loss", "loss", 4),
            ("rewards/margins", "margin", 3),
            ("rewards/accuracies", "accuracy", 2),
            ("eval_loss", "held-out loss", 4),
        ];
        let shown = shown.into_iter().filter_map(|(name, word, digits)| Some((word, value(name)?, digits)));
        let mut parts: Vec<String> = shown.map(|(word, v, digits)| format!("{word} {v:.digits$}")).collect();
        let at = value("step").unwrap_or_default();
        let head = match (self.steps[training.step].outline.in_loop, training.iteration) {
            (true, iteration) => format!("{step} {iteration}: step {at}"),
            (false, _) => format!("{step}: step {at}"),
        };
        parts.insert(0, head);
        parts
    }

    fn machine_parts(&self) -> Vec<String> {
        let rate = |rate: Option<f64>, what: &str| rate.map(|r| format!("{r:.0} tokens/s {what}"));
        let sampled = rate(self.sampled.per_second(self.charged), "sampled");
        let trained = rate(self.trained.per_second(self.charged), "trained");
        let memory = self.memory.map(|bytes| format!("memory {}", size(bytes)));
        sampled.into_iter().chain(trained).chain(memory).collect()
    }

    /// Formats the example answer in three lines; empty if there is none yet.
    pub fn sample_lines(&self, width: usize) -> Vec<String> {
        let Some(ScoredSample { step, prompt, response, score, judgement, .. }) = &self.sample else {
            return Vec::new();
        };
        let line = |head: &str, text: &str| fitted(&format!("{head:>NAME$} {}", printable(text.trim())), width);
        let said = if judgement.trim().is_empty() { String::new() } else { format!(": {}", judgement.trim()) };
        let score = format!("{score:.2}{said}");
        let step = fitted(step, NAME);
        vec![line("prompt", prompt), line("answer", response), line(&step, &score)]
    }

    /// The status with all figures for a log, on one line if it fits, otherwise on several lines of at most
    /// `width` columns.
    pub fn status_lines(&self, width: usize) -> Vec<String> {
        // Log lines already begin with the elapsed time.
        let status = self.status_parts(None, false);
        let mut groups = vec![status.join(DOT)];
        let figures = self.figures();
        groups.extend(figures.iter().map(|parts| parts.join(", ")));
        let one = groups.join(DOT);
        if places(&one) <= width {
            return vec![one];
        }
        let mut lines = folded(&status, DOT, width, 2);
        lines.extend(figures.iter().flat_map(|parts| folded(parts, ", ", width, 2)));
        lines
    }

    /// Describes a step when one of its microbatches is done.
    pub fn step_words(&self, step: &str, iteration: u32) -> String {
        let Some(at) = self.steps.iter().position(|s| s.outline.name == step) else { return String::new() };
        let state = &self.steps[at];
        let here = state.by_iteration.get(&iteration).copied().unwrap_or_default();
        let of = self.microbatches(at);
        let noun = if of.unwrap_or(here.microbatches) == 1 { "microbatch".to_owned() } else { plural("microbatch") };
        let of = of.map(|n| format!("/{n}")).unwrap_or_default();
        let mut words = format!("{}{of} {noun}, {}", here.microbatches, state.words(here.rows));
        if let Some(mean) = state.scores.get(&iteration).and_then(ScoreCounts::mean) {
            words += &format!(", mean score {mean:.2}");
        }
        words
    }

    /// Whether all microbatches of a step in an iteration are done.
    pub fn is_complete(&self, step: &str, iteration: u32) -> bool {
        let Some(at) = self.steps.iter().position(|s| s.outline.name == step) else { return false };
        let here = self.steps[at].by_iteration.get(&iteration).map_or(0, |c| c.microbatches);
        self.microbatches(at) == Some(here)
    }

    /// Describes a training between two of its steps.
    pub fn training_words(&self, step: &str, done: usize, planned: usize, unit: &str) -> String {
        let mut words = format!("{done}/{planned} {unit}");
        let of_step = |t: &&Training| self.steps[t.step].outline.name == step;
        if let Some(training) = self.training.as_ref().filter(of_step) {
            self.training_parts(training).iter().skip(1).for_each(|part| words += &format!(", {part}"));
        }
        words
    }

    /// Returns the same figures as JSON; unknown figures are null.
    pub fn json(&self, now: Duration) -> Value {
        let (left, unknown) = match self.left() {
            TimeLeft::Nothing => (Some(0.), Vec::new()),
            TimeLeft::Seconds(s) => (Some(s), Vec::new()),
            TimeLeft::Unknown(steps) => (None, steps),
        };
        let training = self.training.as_ref().map(|t| {
            let values: Map<String, Value> = t.values.iter().map(|(name, v)| ((*name).to_owned(), json!(v))).collect();
            json!({ "step": self.steps[t.step].outline.name, "iteration": t.iteration, "metrics": values })
        });
        let scores: Vec<Value> = self.steps.iter().filter_map(StepState::scores_json).collect();
        let servers: Vec<Value> = self.servers.iter().map(|server| server.json(self.charged)).collect();
        json!({
            "event": "status", "seconds": now.as_secs_f64(), "iteration": self.iteration().map(|i| i.min(self.iterations)),
            "iterations": self.iterations, "running": self.running(), "seconds_left": left, "unknown_until": unknown,
            "training": training, "scores": scores, "sampled_tokens_per_second": self.sampled.per_second(self.charged),
            "trained_tokens_per_second": self.trained.per_second(self.charged), "servers": servers,
            "memory_bytes": self.memory,
            "sample": self.sample.as_ref().map(|s| json!({
                "step": s.step, "prompt": s.prompt, "response": s.response, "score": s.score, "judgement": s.judgement,
            })),
        })
    }
}

impl StepState {
    /// Formats rows and their rate. A training produces a single row, so it gets no row rate.
    fn words(&self, rows: u64) -> String {
        let counted = counted(rows, "row");
        match self.timing.rows_per_second().filter(|rate| *rate >= 0.05) {
            _ if self.restored > 0 && self.restored == self.done.microbatches => format!("{counted}, restored"),
            Some(rate) if self.done.rows > u64::from(self.done.microbatches) => format!("{counted}, {rate:.1} rows/s"),
            _ => counted,
        }
    }

    fn last_scores(&self) -> Option<(u32, &ScoreCounts, Option<f64>)> {
        let (&iteration, last) = self.scores.iter().next_back()?;
        let before = self.scores.range(..iteration).next_back().and_then(|(_, s)| s.mean());
        Some((iteration, last, before))
    }

    /// Formats the score figures of the last iteration.
    fn score_parts(&self) -> Option<Vec<String>> {
        let (_, scores, before) = self.last_scores()?;
        let mean = scores.mean().map_or_else(|| "no mean yet".to_owned(), |mean| format!("mean {mean:.2}"));
        let before = before.map(|mean| format!(" (before {mean:.2})")).unwrap_or_default();
        let mut parts = vec![format!("{}: {mean}{before} of {}", self.outline.name, scores.scored)];
        parts.extend(scores.histogram());
        if scores.judgements > 0 {
            let share = 100. * scores.unread as f64 / scores.judgements as f64;
            parts.push(format!(
                "unread {} of {} ({share:.0}%)",
                scores.unread,
                counted(scores.judgements, "judgement")
            ));
        }
        Some(parts)
    }

    fn scores_json(&self) -> Option<Value> {
        let (iteration, scores, before) = self.last_scores()?;
        Some(json!({
            "step": self.outline.name, "iteration": iteration, "answers": scores.answers, "scored": scores.scored,
            "mean": scores.mean(), "mean_before": before, "judgements": scores.judgements, "unread": scores.unread,
            "scale": scores.scale.map(|(least, greatest)| [least, greatest]), "histogram": scores.bins,
        }))
    }
}
