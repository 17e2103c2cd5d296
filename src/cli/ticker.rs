//! Progress of a command that handles one row after another, and the errors of its rows, on standard error.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::progress::Style;
use super::terminal::{self, Bar, Label};

/// Between two lines of progress.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Tells how far a command is: a line that changes on a terminal, otherwise a new line now and then.
pub struct Ticker {
    style: Style,
    start: Instant,
    told: Instant,
    bar: Option<Bar>,
}

impl Ticker {
    /// `words` are shown until there is something to tell.
    pub fn new(style: Style, words: String) -> Self {
        let bar = (style == Style::Bars).then(|| {
            let bar = Bar::new("{spinner} {msg}", None);
            bar.keep_ticking();
            bar.message(&words);
            bar
        });
        Self { style, start: Instant::now(), told: Instant::now(), bar }
    }

    /// Takes this for the start of what the words say.
    pub fn restart(&mut self, words: &'static str) {
        if let Some(bar) = &self.bar {
            bar.message(words);
        }
        self.start = Instant::now();
        self.told = self.start;
    }

    /// Seconds since the start.
    pub fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// How far it is.
    pub fn tick(&mut self, words: impl FnOnce() -> String, event: impl FnOnce() -> Value) {
        match (&self.bar, self.style) {
            (Some(bar), _) => bar.message(&words()),
            (None, Style::Quiet) => {}
            (None, Style::Lines { all: true }) => self.line(&words()),
            (None, _) if self.told.elapsed() < LOG_INTERVAL => {}
            (None, Style::Json) => {
                self.told = Instant::now();
                self.event("progress", event());
            }
            (None, _) => self.line(&words()),
        }
    }

    /// A row that has no result, and why.
    pub fn row_error(&self, message: &str) {
        match self.style {
            Style::Json => self.event("error", json!({ "message": message })),
            _ => terminal::message(Label::Error, message, None),
        }
    }

    /// The last words, unless it is to be quiet.
    pub fn finish(self, words: impl FnOnce() -> String, event: impl FnOnce() -> Value) {
        if let Some(bar) = &self.bar {
            bar.clear();
        }
        match self.style {
            Style::Quiet => {}
            Style::Json => self.event("done", event()),
            _ => terminal::line(&words()),
        }
    }

    fn line(&mut self, words: &str) {
        self.told = Instant::now();
        terminal::line(&format!("{:7.1}s  {words}", self.seconds()));
    }

    fn event(&self, name: &str, mut event: Value) {
        event["event"] = json!(name);
        event["seconds"] = json!((self.seconds() * 1e3).round() / 1e3);
        terminal::event(&event);
    }
}
