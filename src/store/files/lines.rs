//! A reader of numbered lines, from a file or from standard input.

use std::io::{BufRead, Read};
use std::path::Path;

use super::unpack::{open_text, read_error};
use crate::error::{Error, Result};

/// Maximum length of a line. Without it, a file without line ends could fill the memory.
pub(crate) const MAX_LENGTH: u64 = 64 << 20;

/// The lines of a text, read lazily.
pub struct Lines {
    /// Name for error messages: the path, or `standard input`.
    name: String,
    reader: Box<dyn BufRead + Send>,
    line: u64,
    buffer: Vec<u8>,
}

impl Lines {
    /// Opens a file, which may be gzipped.
    ///
    /// # Errors
    /// The file cannot be read, or is a directory.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self::new(path.display().to_string(), open_text(path)?))
    }

    /// Reads lines from any reader; `name` is used in error messages.
    pub fn new(name: impl Into<String>, reader: impl BufRead + Send + 'static) -> Self {
        Self { name: name.into(), reader: Box::new(reader), line: 0, buffer: Vec::new() }
    }

    /// Name of the text in error messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The next line that is not blank, without byte order mark and line end, and its number, from 1.
    ///
    /// # Errors
    /// Reading failed, or the line is too long.
    pub fn next_line(&mut self) -> Result<Option<(u64, &[u8])>> {
        loop {
            self.buffer.clear();
            let read = (&mut self.reader).take(MAX_LENGTH + 1).read_until(b'\n', &mut self.buffer);
            match read {
                Err(e) => return Err(read_error(Path::new(&self.name), &e)),
                Ok(0) => return Ok(None),
                Ok(_) => self.line += 1,
            }
            if self.buffer.len() as u64 > MAX_LENGTH {
                let (name, line) = (&self.name, self.line);
                return Err(Error::user(format!("`{name}` line {line} is longer than {} MiB", MAX_LENGTH >> 20))
                    .help("each line must be one row, as a JSON object"));
            }
            let blank = without_mark(&self.buffer, self.line).trim_ascii().is_empty();
            if !blank {
                let line = without_mark(&self.buffer, self.line);
                let line = line.strip_suffix(b"\n").unwrap_or(line);
                return Ok(Some((self.line, line.strip_suffix(b"\r").unwrap_or(line))));
            }
        }
    }

    /// The remaining text, without trailing line ends.
    ///
    /// # Errors
    /// Reading failed, or the text is too long or not UTF-8.
    pub fn rest(&mut self) -> Result<String> {
        self.buffer.clear();
        let read = (&mut self.reader).take(MAX_LENGTH + 1).read_to_end(&mut self.buffer);
        read.map_err(|e| read_error(Path::new(&self.name), &e))?;
        if self.buffer.len() as u64 > MAX_LENGTH {
            return Err(Error::user(format!("`{}` is longer than {} MiB", self.name, MAX_LENGTH >> 20)));
        }
        let bytes = without_mark(&self.buffer, self.line + 1);
        let text = std::str::from_utf8(bytes).map_err(|e| {
            let line = bytes[..e.valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
            Error::user(format!("`{}` line {line} is not UTF-8 text", self.name))
        })?;
        Ok(text.trim_end_matches(['\n', '\r']).to_owned())
    }
}

/// Removes the byte order mark that some editors write before the first line.
fn without_mark(bytes: &[u8], line: u64) -> &[u8] {
    if line == 1 { bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes) } else { bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_numbered_as_editors_number_them() {
        let mut lines = Lines::new("x", "\u{feff}a\r\n\n  \n b \nc".as_bytes());
        let mut seen = Vec::new();
        while let Some((line, bytes)) = lines.next_line().unwrap() {
            seen.push((line, String::from_utf8(bytes.to_vec()).unwrap()));
        }
        assert_eq!(seen, [(1, "a".into()), (4, " b ".into()), (5, "c".into())]);
    }

    #[test]
    fn a_whole_text_keeps_all_but_its_last_line_ends() {
        assert_eq!(Lines::new("x", "\u{feff}a\n\n b\r\n\n".as_bytes()).rest().unwrap(), "a\n\n b");
        let e = Lines::new("x", &b"a\n\xff"[..]).rest().unwrap_err();
        assert!(e.to_string().contains("`x` line 2"), "{e}");
    }
}
