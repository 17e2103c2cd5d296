//! Starts of an external trainer: its log, its end, and whether it is started again.

use std::fs::OpenOptions;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::Duration;

use super::command::shell_word;
use crate::data::{counted, one_line, open_regular};
use crate::operators::shared::prelude::*;
use crate::operators::shared::subprocess::{self, Launch, ProgramEnd};

/// The exit code of a trainer that cannot use what it was given. Starting it again would change nothing.
const BAD_INPUT: i32 = 2;

/// Bytes at which a log is cut.
const MAX_LOG: u64 = 256 << 20;
/// Bounds of what an error shows of the log.
const MAX_LOG_BYTES: u64 = 16 << 10;
const MAX_LOG_LINES: usize = 15;
const MAX_LINE_CHARS: usize = 200;

/// An external trainer with everything filled in.
pub(crate) struct ExternalTrainer<'a> {
    /// The training step, for messages.
    pub step: &'a str,
    /// Program and arguments.
    pub command: &'a [String],
    /// The log, below the run's directory.
    pub log: &'a Path,
    /// The scratch folder, which marks its processes.
    pub scratch: &'a Path,
    /// Time that one start may take.
    pub time_limit: Option<Duration>,
    /// How often it may be started again.
    pub restarts: usize,
}

impl ExternalTrainer<'_> {
    /// Starts the trainer until it ends with exit code 0. The number of starts is in the log: what is
    /// committed does not depend on it.
    ///
    /// # Errors
    /// It ended with another exit code; it was ended by a signal or its time limit once too often; the run is
    /// stopped.
    pub fn run(&self, cancelled: &dyn Fn() -> bool) -> Result<()> {
        let launch = Launch {
            command: self.command,
            log: self.log,
            max_log: MAX_LOG,
            mark: self.scratch,
            time_limit: self.time_limit,
        };
        for start in 1.. {
            let before = self.note(start)?;
            let ended = subprocess::run(&launch, cancelled).doing(|| format!("step `{}`", self.step))?;
            let what = match ended {
                ProgramEnd::Code(0) => return Ok(()),
                ProgramEnd::Code(code) => return Err(self.failed(code, before)),
                ProgramEnd::Signal(signal) => format!("was ended by signal {signal}{}", signal_name(signal)),
                ProgramEnd::TimedOut => {
                    let limit = self.time_limit.unwrap_or_default().as_secs();
                    format!("was stopped at its time limit of {}", counted(limit, "second"))
                }
            };
            if start > self.restarts {
                return Err(self.error(&format!("{what} ({})", counted(start, "start")), before).help(
                    "look at the log; the same command again goes on with the same output folder, and \
                     `time_limit` and `restarts` may be changed",
                ));
            }
            tracing::warn!(
                "step `{}`: the trainer {what}; it is started again with the same output folder (log: {})",
                self.step,
                self.log.display()
            );
        }
        Err(Error::bug("a trainer was started without end"))
    }

    /// Appends a line about a start to the log. Returns the log's length, where the trainer's own lines begin.
    fn note(&self, start: usize) -> Result<u64> {
        let doing = || self.log.display();
        let mut file = OpenOptions::new().create(true).append(true).open(self.log).doing(doing)?;
        let words: Vec<String> = self.command.iter().map(|word| shell_word(word)).collect();
        writeln!(file, "reflux: start {start} of at most {}: {}", self.restarts + 1, words.join(" ")).doing(doing)?;
        Ok(file.metadata().doing(doing)?.len())
    }

    fn failed(&self, code: i32, before: u64) -> Error {
        let what = if code == BAD_INPUT {
            "ended with exit code 2, which says that it cannot use its input".to_owned()
        } else {
            format!("ended with exit code {code}")
        };
        self.error(&what, before)
            .help("mend what its log says, and give the same command again: what the run has made stays")
    }

    /// The error for what happened to the trainer, with the last lines that it printed since `before`.
    fn error(&self, what: &str, before: u64) -> Error {
        let (step, log) = (self.step, self.log.display());
        let said = match last_lines(self.log, before) {
            Ok(lines) if lines.is_empty() => format!("; it printed nothing (log: {log})"),
            Ok(lines) => format!("; the last lines of {log}:\n{}", lines.join("\n")),
            Err(e) => format!("; its log {log} cannot be read: {e}"),
        };
        Error::user(format!("the trainer of `{step}` {what}{said}"))
    }
}

/// The name of a signal that often ends trainers.
fn signal_name(signal: i32) -> &'static str {
    match signal {
        6 => " (SIGABRT)",
        9 => " (SIGKILL; out of memory?)",
        11 => " (SIGSEGV)",
        15 => " (SIGTERM)",
        _ => "",
    }
}

/// The last lines of a log since `before`, shortened. Progress bars overwrite their line with `\r`.
fn last_lines(log: &Path, before: u64) -> std::io::Result<Vec<String>> {
    let mut file = open_regular(log)?;
    let length = file.metadata()?.len();
    // A log that was cut has lines of this start only.
    let before = if before > length { 0 } else { before };
    file.seek(SeekFrom::Start(before.max(length.saturating_sub(MAX_LOG_BYTES))))?;
    let mut bytes = Vec::new();
    file.take(MAX_LOG_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.split(['\n', '\r']).map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let shown = lines.iter().skip(lines.len().saturating_sub(MAX_LOG_LINES)).map(|line| {
        let short: String = line.chars().take(MAX_LINE_CHARS).collect();
        format!("  {}", one_line(&short))
    });
    Ok(shown.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_is_bounded_and_printable() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let long = "x".repeat(1000);
        let many: String = (0..10_000).map(|i| format!("line {i}\n")).collect();
        std::fs::write(&log, format!("{many}10%\r20%\r\u{1b}[31mred\n\n{long}\n")).unwrap();
        let lines = last_lines(&log, 0).unwrap();
        assert_eq!(lines.len(), MAX_LOG_LINES);
        assert_eq!(lines[10..13], ["  line 9999", "  10%", "  20%"]);
        assert!(!lines[13].contains('\u{1b}') && lines[13].ends_with("[31mred"), "{:?}", lines[13]);
        assert_eq!(lines[14].len(), MAX_LINE_CHARS + 2);
        let length = std::fs::metadata(&log).unwrap().len();
        assert!(last_lines(&log, length).unwrap().is_empty());
    }
}
