//! Standard output as a writer for streamed results.

use std::io::{self, IsTerminal, Write};

use crate::data::{visible, visible_json};

/// The kind of content that is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OutputKind {
    /// Text for reading.
    Text,
    /// JSON; control characters are replaced by equivalent escapes.
    Json,
    /// Text for programs: written unchanged, except on a terminal.
    Exact,
    /// Bytes for programs.
    Binary,
}

/// Opens standard output for this kind of content. Its errors name standard output.
pub fn output(kind: OutputKind) -> Box<dyn Write + Send> {
    match kind {
        OutputKind::Text => Box::new(Safe::new(Stdout, |text| visible(text).into_owned())),
        OutputKind::Json => Box::new(Safe::new(Stdout, |text| visible_json(text).into_owned())),
        OutputKind::Exact if io::stdout().is_terminal() => output(OutputKind::Text),
        OutputKind::Exact | OutputKind::Binary => Box::new(Stdout),
    }
}

/// Standard output, named in its errors.
struct Stdout;

fn named(e: io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("standard output: {e}"))
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::stdout().write(bytes).map_err(named)
    }
    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush().map_err(named)
    }
}

/// Writes text through the function `shown`. A character may be split over several writes.
struct Safe<W> {
    to: W,
    shown: fn(&str) -> String,
    /// The first bytes of a character that is not complete yet.
    part: Vec<u8>,
}

impl<W: Write> Safe<W> {
    fn new(to: W, shown: fn(&str) -> String) -> Self {
        Self { to, shown, part: Vec::new() }
    }
}

impl<W: Write> Write for Safe<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut all = std::mem::take(&mut self.part);
        all.extend_from_slice(bytes);
        // Only an incomplete last character has no `error_len`.
        let whole = match std::str::from_utf8(&all) {
            Err(e) if e.error_len().is_none() => e.valid_up_to(),
            _ => all.len(),
        };
        self.part = all.split_off(whole);
        self.to.write_all((self.shown)(&String::from_utf8_lossy(&all)).as_bytes())?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_made_safe_however_it_is_split() {
        let text = "caf\u{e9} \u{1b}[2J \u{9b}1m \u{202e}abc \u{1f680}\nend\n";
        let want = visible(text).into_owned();
        for size in 1..text.len() {
            let mut writer = Safe::new(Vec::new(), |text| visible(text).into_owned());
            for part in text.as_bytes().chunks(size) {
                writer.write_all(part).unwrap();
            }
            assert_eq!(String::from_utf8(writer.to).unwrap(), want, "in parts of {size}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_become_replacement_characters() {
        let mut writer = Safe::new(Vec::new(), |text| visible(text).into_owned());
        writer.write_all(b"a\xffb\x9bc").unwrap();
        assert_eq!(String::from_utf8(writer.to).unwrap(), "a\u{fffd}b\u{fffd}c");
    }
}
