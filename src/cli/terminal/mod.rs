//! Everything that reflux prints. No other file writes to standard output or standard error (`tests/house.rs`).
//!
//! Names, keys, texts and messages come from files and models of strangers. Text for people is therefore printed with
//! every character that steers a terminal escaped ([`visible`]), and JSON with those characters as `\u` escapes, which
//! mean the same. Only bytes that a program asked for (CSV, Arrow, Parquet) are written as they are, and only where
//! standard output is no terminal.
//!
//! A reader that goes away never ends a command: messages are then lost, and results have no reader. Standard output
//! that cannot be written to for another reason, such as a full disk, is an error.

mod bars;
mod colour;
mod log;
mod output;

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;

use clap::error::ContextValue;
use serde_json::json;

use crate::data::{one_line, visible, visible_json};
use crate::error::{Error, ErrorKind, Result};
use crate::pipeline::Diagnostics;
use crate::pipeline::codes::Severity;

pub use bars::{Bar, Block};
pub use colour::set_colour;
use colour::{colour_for, colour_wanted};
pub use log::set_up as set_up_logging;
pub use output::{Output, output};

/// How messages are written to standard error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// Lines for people.
    Text,
    /// A JSON object a line.
    Json,
}

static FORM: OnceLock<Form> = OnceLock::new();
/// Whether errors alone are printed, beside what was asked for.
static QUIET: OnceLock<bool> = OnceLock::new();

/// Chooses the form of messages; the first choice of a process stays.
pub fn set_form(form: Form) {
    let _first_stays = FORM.set(form);
}

/// Leaves out warnings, notes and progress, whoever prints them; the first choice of a process stays.
pub fn set_quiet(quiet: bool) {
    let _first_stays = QUIET.set(quiet);
}

fn is_json() -> bool {
    FORM.get() == Some(&Form::Json)
}

fn is_quiet() -> bool {
    QUIET.get() == Some(&true)
}

/// What a message is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Label {
    /// What was asked for was not done, and the user or the machine can mend it.
    Error,
    /// The same by a fault of reflux.
    Defect,
    /// It was stopped on request.
    Stopped,
    /// It was done, and something about it needs attention.
    Warning,
    /// Something to know.
    Note,
    /// For `-vv`.
    Debug,
}

impl Label {
    fn word(self) -> &'static str {
        match self {
            Label::Error => "error",
            Label::Defect => "defect",
            Label::Stopped => "stopped",
            Label::Warning => "warning",
            Label::Note => "note",
            Label::Debug => "debug",
        }
    }

    /// The level that logs give it.
    fn level(self) -> &'static str {
        match self {
            Label::Error | Label::Defect => "ERROR",
            Label::Stopped | Label::Warning => "WARN",
            Label::Note => "INFO",
            Label::Debug => "DEBUG",
        }
    }

    /// Whether it is printed in any case.
    fn is_error(self) -> bool {
        matches!(self, Label::Error | Label::Defect | Label::Stopped)
    }

    /// Select Graphic Rendition: the colour of the word.
    fn colour(self) -> &'static str {
        match self {
            Label::Error | Label::Defect => "1;31",
            Label::Stopped | Label::Warning => "1;33",
            Label::Note => "1;36",
            Label::Debug => "2",
        }
    }
}

/// Prints a message with its label, and what to do about it.
pub fn message(label: Label, text: &str, help: Option<&str>) {
    if is_quiet() && !label.is_error() {
        return;
    }
    if is_json() {
        let mut fields = json!({ "message": if text.is_empty() { label.word() } else { text } });
        if let Some(help) = help {
            fields["help"] = json!(help);
        }
        return fields_of(label, &fields);
    }
    let word = label.word();
    let word = if colour_wanted() { format!("\u{1b}[{}m{word}\u{1b}[0m", label.colour()) } else { word.to_owned() };
    let text = if text.is_empty() { String::new() } else { format!(": {}", indented(text)) };
    let help = help.map(|help| format!("\n  help: {}", indented(help))).unwrap_or_default();
    to_stderr(&format!("{word}{text}{help}\n"));
}

/// Prints the fields of a message as a JSON object.
fn fields_of(label: Label, fields: &serde_json::Value) {
    let time = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
    event(&json!({ "timestamp": time, "level": label.level(), "fields": fields }));
}

/// Prints a warning.
pub fn warning(text: &str) {
    message(Label::Warning, text, None);
}

/// Prints something to know.
pub fn note(text: &str) {
    message(Label::Note, text, None);
}

/// Prints an error as people read it. One without words was told already where it was found.
pub fn error(e: &Error) {
    let label = match e.kind() {
        ErrorKind::User | ErrorKind::System | ErrorKind::Nothing => Label::Error,
        ErrorKind::Bug => Label::Defect,
        ErrorKind::Cancelled => Label::Stopped,
    };
    // The label of a stop says that it was stopped; what is left says what was.
    let text = e.message();
    if text.is_empty() && label != Label::Stopped {
        return;
    }
    message(label, text, e.help_text());
}

/// Prints a line of progress, without a label.
pub fn line(text: &str) {
    match (is_quiet(), is_json()) {
        (true, _) => {}
        (_, true) => message(Label::Note, text, None),
        _ => to_stderr(&format!("{}\n", one_line(text))),
    }
}

/// Prints a JSON object as a line of standard error.
pub fn event(object: &serde_json::Value) {
    to_stderr(&format!("{}\n", visible_json(&object.to_string())));
}

/// Prints the problems of a pipeline file.
pub fn diagnostics(problems: &Diagnostics) {
    if is_quiet() && problems.errors() == 0 {
        return;
    }
    if is_json() {
        for (severity, fields) in problems.json() {
            let label = if severity == Severity::Error { Label::Error } else { Label::Warning };
            fields_of(label, &fields);
        }
        return;
    }
    // Their texts are made visible one by one, so that colours stay.
    let colour = colour_wanted();
    let text = problems.render(colour);
    if colour { to_stderr(&text) } else { to_stderr(&visible(&text)) }
}

/// Prints what clap has to say, help or an error, and returns the exit code.
pub fn usage(mut e: clap::Error) -> u8 {
    // Arguments that are echoed stay on their line.
    let echoed: Vec<_> = e.context().map(|(kind, value)| (kind, value.clone())).collect();
    for (kind, value) in echoed {
        if let ContextValue::String(text) = value {
            e.insert(kind, ContextValue::String(one_line(&text).into_owned()));
        }
    }
    let text = e.render();
    if !e.use_stderr() {
        // Help is made of constants.
        let text = if colour_for(&io::stdout()) { text.ansi().to_string() } else { text.to_string() };
        return match to_stdout(&text) {
            Ok(_) => 0,
            Err(e) => {
                error(&e);
                e.exit_code()
            }
        };
    }
    // The text of an error holds arguments, and begins with a label of its own.
    let text = text.to_string();
    match text.strip_prefix("error: ") {
        Some(text) if !is_json() => {
            let word = if colour_wanted() { "\u{1b}[1;31merror\u{1b}[0m" } else { "error" };
            to_stderr(&format!("{word}: {}", visible(text)));
        }
        Some(text) => message(Label::Error, text.trim_end(), None),
        None if is_json() => message(Label::Error, text.trim_end(), None),
        None => to_stderr(&visible(&text)),
    }
    u8::try_from(e.exit_code()).unwrap_or(2)
}

/// Prints text to standard output.
///
/// # Errors
/// Standard output cannot be written to. A reader that has gone away (`reflux ... | head`) is no error.
pub fn print(text: &str) -> Result<()> {
    put(text.trim_end()).map(|_| ())
}

/// Prints one line to standard output; text in it cannot begin another.
///
/// # Errors
/// As [`print`].
pub fn print_line(line: &str) -> Result<()> {
    print_lines([line])
}

/// As [`print`], and returns whether somebody still reads.
pub fn put(text: &str) -> Result<bool> {
    to_stdout(&format!("{}\n", visible(text)))
}

/// Prints lines to standard output; text in one of them cannot begin another.
///
/// # Errors
/// As [`print`].
pub fn print_lines<T: AsRef<str>>(lines: impl IntoIterator<Item = T>) -> Result<()> {
    let mut text = String::new();
    for line in lines {
        text.push_str(&one_line(line.as_ref()));
        text.push('\n');
    }
    to_stdout(&text).map(|_| ())
}

/// Prints JSON text to standard output.
///
/// # Errors
/// As [`print`].
pub fn print_json(json: impl Display) -> Result<()> {
    put_json(json).map(|_| ())
}

/// As [`print_json`], and returns whether somebody still reads.
pub fn put_json(json: impl Display) -> Result<bool> {
    to_stdout(&format!("{}\n", visible_json(&json.to_string())))
}

/// Whether people look at standard error.
pub fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Whether people look at standard output.
pub fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// What `COLUMNS` says: that goes before what the terminal says, as it was set on purpose.
fn columns() -> Option<usize> {
    std::env::var("COLUMNS").ok()?.parse().ok().filter(|&columns| columns > 0)
}

/// How wide text on standard output may be, where `COLUMNS` or a terminal says so.
pub fn known_width() -> Option<usize> {
    let terminal = || terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| usize::from(width.0));
    columns().or_else(terminal)
}

/// How wide a table may be: as `COLUMNS` or the terminal says, or 120.
pub fn width() -> usize {
    known_width().unwrap_or(120)
}

/// Columns and lines of standard error: what `COLUMNS` says, or the terminal; 120 columns for a log.
pub fn screen() -> (usize, usize) {
    let (width, height) = bars::size();
    let terminal = io::stderr().is_terminal().then_some(usize::from(width));
    (columns().or(terminal).unwrap_or(120), usize::from(height))
}

/// Text of a message, in which no line after the first can be taken for a message of its own.
fn indented(text: &str) -> String {
    visible(text.trim_end()).replace('\n', "\n  ")
}

/// Writes a whole message at once. That nobody reads it is no reason to end: there is nobody to tell.
fn to_stderr(text: &str) {
    bars::aside(|| {
        let _unread = io::stderr().lock().write_all(text.as_bytes());
    });
}

fn to_stdout(text: &str) -> Result<bool> {
    let write = || {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    };
    let written = if io::stdout().is_terminal() { bars::aside(write) } else { write() };
    match written {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(Error::system(format!("standard output: {e}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_message_cannot_begin_another() {
        assert_eq!(indented("a\nerror: b\u{1b}[2J\n"), "a\n  error: b\\u{1b}[2J");
    }
}
