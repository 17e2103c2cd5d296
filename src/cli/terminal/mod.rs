//! All output of reflux. No other file writes to standard output or standard error (`tests/house`).
//!
//! Names, keys, texts and messages may come from untrusted files and models. Text for reading is therefore
//! printed with every control character escaped ([`visible`]), and JSON with those characters as `\u`
//! escapes, which are equivalent. Only bytes for other programs (CSV, Arrow, Parquet) are written
//! unchanged, and never to a terminal.
//!
//! A reader that closes the output never makes a command fail: messages are then lost, and results are no
//! longer needed. If standard output cannot be written to for another reason, such as a full disk, the
//! command fails.

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
pub use output::{OutputKind, output};

/// Form of messages on standard error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// Lines of text.
    Text,
    /// One JSON object per line.
    Json,
}

static FORM: OnceLock<Form> = OnceLock::new();
/// Whether only errors and requested output are printed.
static QUIET: OnceLock<bool> = OnceLock::new();

/// Sets the form of messages; only the first call in a process has an effect.
pub fn set_form(form: Form) {
    let _first_stays = FORM.set(form);
}

/// Suppresses warnings, notes and progress from all sources; only the first call in a process has an
/// effect.
pub fn set_quiet(quiet: bool) {
    let _first_stays = QUIET.set(quiet);
}

fn is_json() -> bool {
    FORM.get() == Some(&Form::Json)
}

fn is_quiet() -> bool {
    QUIET.get() == Some(&true)
}

/// The kind of a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MessageKind {
    /// The command failed, and the user can fix the input or the machine.
    Error,
    /// The command failed because of a bug in reflux.
    Defect,
    /// The command was stopped on request.
    Stopped,
    /// The command succeeded, but something needs attention.
    Warning,
    /// Useful information.
    Note,
    /// Details for `-vv`.
    Debug,
}

impl MessageKind {
    fn word(self) -> &'static str {
        match self {
            MessageKind::Error => "error",
            MessageKind::Defect => "defect",
            MessageKind::Stopped => "stopped",
            MessageKind::Warning => "warning",
            MessageKind::Note => "note",
            MessageKind::Debug => "debug",
        }
    }

    /// The corresponding log level.
    fn level(self) -> &'static str {
        match self {
            MessageKind::Error | MessageKind::Defect => "ERROR",
            MessageKind::Stopped | MessageKind::Warning => "WARN",
            MessageKind::Note => "INFO",
            MessageKind::Debug => "DEBUG",
        }
    }

    /// Whether the message is printed even with `--quiet`.
    fn is_error(self) -> bool {
        matches!(self, MessageKind::Error | MessageKind::Defect | MessageKind::Stopped)
    }

    /// SGR code for the colour of the label.
    fn colour(self) -> &'static str {
        match self {
            MessageKind::Error | MessageKind::Defect => "1;31",
            MessageKind::Stopped | MessageKind::Warning => "1;33",
            MessageKind::Note => "1;36",
            MessageKind::Debug => "2",
        }
    }
}

/// Prints a message with its label and an optional suggestion.
pub fn message(label: MessageKind, text: &str, help: Option<&str>) {
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
fn fields_of(label: MessageKind, fields: &serde_json::Value) {
    let time = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
    event(&json!({ "timestamp": time, "level": label.level(), "fields": fields }));
}

/// Prints a warning.
pub fn warning(text: &str) {
    message(MessageKind::Warning, text, None);
}

/// Prints a note.
pub fn note(text: &str) {
    message(MessageKind::Note, text, None);
}

/// Prints an error. An error without text was already reported where it occurred, so it prints nothing.
pub fn error(e: &Error) {
    let label = match e.kind() {
        ErrorKind::User | ErrorKind::System | ErrorKind::Nothing => MessageKind::Error,
        ErrorKind::Bug => MessageKind::Defect,
        ErrorKind::Cancelled => MessageKind::Stopped,
    };
    // A stopped command prints its label even without text.
    let text = e.message();
    if text.is_empty() && label != MessageKind::Stopped {
        return;
    }
    message(label, text, e.help_text());
}

/// Prints a line of progress without a label.
pub fn line(text: &str) {
    match (is_quiet(), is_json()) {
        (true, _) => {}
        (_, true) => message(MessageKind::Note, text, None),
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
            let label = if severity == Severity::Error { MessageKind::Error } else { MessageKind::Warning };
            fields_of(label, &fields);
        }
        return;
    }
    // Their texts are escaped one by one, so that the colours survive.
    let colour = colour_wanted();
    let text = problems.render(colour);
    if colour { to_stderr(&text) } else { to_stderr(&visible(&text)) }
}

/// Prints clap's help or error, and returns the exit code.
pub fn usage(mut e: clap::Error) -> u8 {
    // Echoed arguments must not begin new lines.
    let echoed: Vec<_> = e.context().map(|(kind, value)| (kind, value.clone())).collect();
    for (kind, value) in echoed {
        if let ContextValue::String(text) = value {
            e.insert(kind, ContextValue::String(one_line(&text).into_owned()));
        }
    }
    let text = e.render();
    if !e.use_stderr() {
        // Help consists of constants, so it needs no escaping.
        let text = if colour_for(&io::stdout()) { text.ansi().to_string() } else { text.to_string() };
        return match to_stdout(&text) {
            Ok(_) => 0,
            Err(e) => {
                error(&e);
                e.exit_code()
            }
        };
    }
    // The text of an error contains arguments and begins with its own label.
    let text = text.to_string();
    match text.strip_prefix("error: ") {
        Some(text) if !is_json() => {
            let word = if colour_wanted() { "\u{1b}[1;31merror\u{1b}[0m" } else { "error" };
            to_stderr(&format!("{word}: {}", visible(text)));
        }
        Some(text) => message(MessageKind::Error, text.trim_end(), None),
        None if is_json() => message(MessageKind::Error, text.trim_end(), None),
        None => to_stderr(&visible(&text)),
    }
    u8::try_from(e.exit_code()).unwrap_or(2)
}

/// Prints text to standard output.
///
/// # Errors
/// Standard output cannot be written to. A reader that closes the pipe (`reflux ... | head`) is not an
/// error.
pub fn print(text: &str) -> Result<()> {
    put(text.trim_end()).map(|_| ())
}

/// Prints one line to standard output; line breaks in it are escaped.
///
/// # Errors
/// The same as [`print`].
pub fn print_line(line: &str) -> Result<()> {
    print_lines([line])
}

/// Like [`print`], but returns whether the output still has a reader.
pub fn put(text: &str) -> Result<bool> {
    to_stdout(&format!("{}\n", visible(text)))
}

/// Prints lines to standard output; line breaks within them are escaped.
///
/// # Errors
/// The same as [`print`].
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
/// The same as [`print`].
pub fn print_json(json: impl Display) -> Result<()> {
    put_json(json).map(|_| ())
}

/// Like [`print_json`], but returns whether the output still has a reader.
pub fn put_json(json: impl Display) -> Result<bool> {
    to_stdout(&format!("{}\n", visible_json(&json.to_string())))
}

/// Whether standard error is a terminal.
pub fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Whether standard output is a terminal.
pub fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// The width in `COLUMNS`. It takes precedence over the terminal's width, because it was set on purpose.
fn columns() -> Option<usize> {
    std::env::var("COLUMNS").ok()?.parse().ok().filter(|&columns| columns > 0)
}

/// Maximum width of text on standard output, if `COLUMNS` or a terminal defines one.
pub fn known_width() -> Option<usize> {
    let terminal = || terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| usize::from(width.0));
    columns().or_else(terminal)
}

/// Maximum width of a table: from `COLUMNS` or the terminal, otherwise 120.
pub fn width() -> usize {
    known_width().unwrap_or(120)
}

/// Width and height of standard error, from `COLUMNS` or the terminal; a log is 120 columns wide.
pub fn screen() -> (usize, usize) {
    let (width, height) = bars::size();
    let terminal = io::stderr().is_terminal().then_some(usize::from(width));
    (columns().or(terminal).unwrap_or(120), usize::from(height))
}

/// Indents all lines of a message but the first, so that none of them looks like another message.
fn indented(text: &str) -> String {
    visible(text.trim_end()).replace('\n', "\n  ")
}

/// Writes a whole message at once. A failure is ignored, because no reader is left to report it to.
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
