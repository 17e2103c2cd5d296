//! The log of a program outside, and the last lines of it for an error.

use std::fs::OpenOptions;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use crate::data::{one_line, open_regular};
use crate::error::{ErrorContext as _, Result};
use crate::pipeline::shell_word;

/// Bounds of what an error shows of the log.
const MAX_LOG_BYTES: u64 = 16 << 10;
const MAX_LOG_LINES: usize = 15;
const MAX_LINE_CHARS: usize = 200;

/// Appends a line about a start to a log. Returns the log's length, where the program's own lines begin.
///
/// # Errors
/// A full disk.
pub(crate) fn note(log: &Path, start: usize, restarts: usize, command: &[String]) -> Result<u64> {
    let words: Vec<String> = command.iter().map(|word| shell_word(word)).collect();
    write_line(log, &format!("start {start} of at most {}: {}", restarts + 1, words.join(" ")))
}

/// Appends a line of reflux's own to a log. Returns the log's length.
///
/// # Errors
/// A full disk.
pub(crate) fn write_line(log: &Path, line: &str) -> Result<u64> {
    let doing = || log.display();
    let mut file = OpenOptions::new().create(true).append(true).open(log).doing(doing)?;
    writeln!(file, "reflux: {line}").doing(doing)?;
    Ok(file.metadata().doing(doing)?.len())
}

/// What a program has printed last since `before`, to follow what became of it.
pub(crate) fn last_words(log: &Path, before: u64) -> String {
    let name = log.display();
    match last_lines(log, before) {
        Ok(lines) if lines.is_empty() => format!("; it printed nothing (log: {name})"),
        Ok(lines) => format!("; the last lines of {name}:\n{}", lines.join("\n")),
        Err(e) => format!("; its log {name} cannot be read: {e}"),
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
