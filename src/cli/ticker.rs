//! Progress of a command that handles one row after another, and the errors of its rows, on standard error.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::progress::Style;

/// Between two lines of progress.
const PATIENCE: Duration = Duration::from_secs(10);

/// Tells how far a command is: a line that changes on a terminal, otherwise a new line now and then.
pub struct Ticker {
    style: Style,
    start: Instant,
    told: Instant,
    bar: Option<ProgressBar>,
}

impl Ticker {
    /// `words` are shown until there is something to tell.
    pub fn new(style: Style, words: String) -> Self {
        let bar = (style == Style::Bars).then(|| {
            let bar = ProgressBar::new_spinner();
            bar.set_style(
                ProgressStyle::with_template("{spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()),
            );
            bar.enable_steady_tick(Duration::from_millis(120));
            bar.set_message(words);
            bar
        });
        Self { style, start: Instant::now(), told: Instant::now(), bar }
    }

    /// Takes this for the start of what the words say.
    pub fn restart(&mut self, words: &'static str) {
        if let Some(bar) = &self.bar {
            bar.set_message(words);
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
            (Some(bar), _) => bar.set_message(words()),
            (None, Style::Quiet) => {}
            (None, Style::Lines { all: true }) => self.line(&words()),
            (None, _) if self.told.elapsed() < PATIENCE => {}
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
            _ => self.aside(|| eprintln!("error: {message}")),
        }
    }

    /// The last words, unless it is to be quiet.
    pub fn finish(self, words: impl FnOnce() -> String, event: impl FnOnce() -> Value) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        match self.style {
            Style::Quiet => {}
            Style::Json => self.event("done", event()),
            _ => eprintln!("{}", words()),
        }
    }

    /// Prints without leaving pieces of the bar in the output.
    pub fn aside<T>(&self, print: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    fn line(&mut self, words: &str) {
        self.told = Instant::now();
        eprintln!("{:7.1}s  {words}", self.seconds());
    }

    fn event(&self, name: &str, mut event: Value) {
        event["event"] = json!(name);
        event["seconds"] = json!((self.seconds() * 1e3).round() / 1e3);
        eprintln!("{event}");
    }
}

/// `1 prompt`, `2 prompts`.
pub fn counted(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
