//! Progress and row errors, on standard error, of a command that processes rows one by one.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::progress::Style;
use super::terminal::{self, Bar, MessageKind};

/// Minimum time between two lines of progress.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Shows the progress of a command: a line that is redrawn on a terminal, otherwise occasional new lines.
pub struct Ticker {
    style: Style,
    start: Instant,
    told: Instant,
    bar: Option<Bar>,
}

impl Ticker {
    /// Creates a ticker that shows `words` until the first update.
    pub fn new(style: Style, words: String) -> Self {
        let bar = (style == Style::Bars).then(|| {
            let bar = Bar::new("{spinner} {msg}");
            bar.keep_ticking();
            bar.message(&words);
            bar
        });
        Self { style, start: Instant::now(), told: Instant::now(), bar }
    }

    /// Restarts the clock and shows `words`.
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

    /// Updates the progress.
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

    /// Reports a row that has no result, with the reason.
    pub fn row_error(&self, message: &str) {
        match self.style {
            Style::Json => self.event("error", json!({ "message": message })),
            _ => terminal::message(MessageKind::Error, message, None),
        }
    }

    /// Ends the progress and prints the closing line, unless the style is quiet.
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
