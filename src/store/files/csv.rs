//! A streaming reader of CSV files, with fields as text.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use csv_core::{ReadRecordResult, Reader};

use super::unpack::{open_text, read_error};
use crate::error::{Error, Result};

/// Maximum length of a row. Without it, a quotation mark that is never closed could fill the memory.
const MAX_LENGTH: usize = 4 << 20;
/// Maximum number of fields of a row.
const MAX_FIELDS: usize = 4096;

/// A row, or why it is invalid.
#[derive(Debug, PartialEq)]
pub(crate) struct CsvRow {
    /// Its first line, from 1.
    pub first: u64,
    /// Its last line.
    pub line: u64,
    pub fields: std::result::Result<Vec<String>, String>,
}

/// The rows of a file, without blank lines.
pub(crate) struct CsvRows {
    path: PathBuf,
    input: Box<dyn BufRead + Send>,
    reader: Reader,
    text: Vec<u8>,
    ends: Vec<usize>,
}

impl CsvRows {
    /// # Errors
    /// The file cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        let (text, ends) = (vec![0; MAX_LENGTH], vec![0; MAX_FIELDS]);
        Ok(Self { path: path.to_owned(), input: open_text(path)?, reader: Reader::new(), text, ends })
    }

    /// The next row, beginning with the header.
    ///
    /// # Errors
    /// The file cannot be read, or a row has no end, so that the next row cannot be found.
    pub fn next(&mut self) -> Result<Option<CsvRow>> {
        self.skip_line_ends()?;
        let (mut filled, mut fields, mut last) = (0, 0, 0);
        let first = self.reader.line();
        loop {
            let input = self.input.fill_buf().map_err(|e| read_error(&self.path, &e))?;
            // An added line end terminates a last row without one. It is taken for text only if a quotation
            // mark is still open.
            let at_end = input.is_empty();
            let bytes = if at_end { &b"\n"[..] } else { input };
            let (result, read, wrote, ended) =
                self.reader.read_record(bytes, &mut self.text[filled..], &mut self.ends[fields..]);
            // A row ends with its first line end; the second byte of `\r\n` is read with the next row.
            last = bytes[..read].last().copied().unwrap_or(last);
            if !at_end {
                self.input.consume(read);
            }
            filled += wrote;
            fields += ended;
            match result {
                ReadRecordResult::InputEmpty if at_end && wrote > 0 => {
                    return Err(self.unterminated(first, "has a quotation mark that is never closed"));
                }
                ReadRecordResult::InputEmpty if at_end => return Ok(None),
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull => {
                    let what = format!("is longer than {} MiB: is a quotation mark not closed?", MAX_LENGTH >> 20);
                    return Err(self.unterminated(first, &what));
                }
                ReadRecordResult::OutputEndsFull => {
                    return Err(self.unterminated(first, &format!("has more than {MAX_FIELDS} fields")));
                }
                ReadRecordResult::Record => break,
                ReadRecordResult::End => return Ok(None),
            }
        }
        // Quoted text may span lines.
        let line = self.reader.line() - u64::from(last == b'\n');
        Ok(Some(CsvRow { first, line, fields: self.fields(fields) }))
    }

    /// Skips blank lines, and the second byte of `\r\n`, before a row.
    fn skip_line_ends(&mut self) -> Result<()> {
        loop {
            let input = self.input.fill_buf().map_err(|e| read_error(&self.path, &e))?;
            if !matches!(input.first(), Some(b'\r' | b'\n')) {
                return Ok(());
            }
            // The reader gets the byte because it counts lines.
            let _ = self.reader.read_record(&input[..1], &mut self.text, &mut self.ends);
            self.input.consume(1);
        }
    }

    fn fields(&self, count: usize) -> std::result::Result<Vec<String>, String> {
        let mut from = 0;
        let mut row = Vec::with_capacity(count);
        for &end in &self.ends[..count] {
            let field = std::str::from_utf8(&self.text[from..end]);
            row.push(field.map_err(|_| "is not UTF-8 text; save the file as UTF-8".to_owned())?.to_owned());
            from = end;
        }
        Ok(row)
    }

    fn unterminated(&self, first: u64, what: &str) -> Error {
        Error::user(format!("`{}`: the row that begins on line {first} {what}", self.path.display()))
            .help("put a field with a comma, a quotation mark or a line end in quotation marks, and write each mark in it twice")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &[u8]) -> Result<Vec<CsvRow>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.csv");
        std::fs::write(&path, text).unwrap();
        let mut rows = CsvRows::open(&path).unwrap();
        std::iter::from_fn(|| rows.next().transpose()).collect()
    }
    fn row(line: u64, fields: &[&str]) -> CsvRow {
        let lines = fields.iter().map(|field| field.matches('\n').count() as u64).sum::<u64>();
        CsvRow { first: line - lines, line, fields: Ok(fields.iter().map(ToString::to_string).collect()) }
    }

    #[test]
    fn rows_know_their_lines() {
        let expected =
            [row(1, &["a", "b"]), row(2, &["1", "2"]), row(4, &["x,\"y\"", ""]), row(6, &["two\nlines", "3"])];
        let text = "\u{feff}a,b\n1,2\n\n\"x,\"\"y\"\"\",\n\"two\nlines\",3";
        assert_eq!(rows(text.as_bytes()).unwrap(), expected);
        assert_eq!(rows(format!("{text}\n").as_bytes()).unwrap(), expected);
        let text = "a,b\r\n1,2\r\n\r\n3,4\r\n";
        assert_eq!(rows(text.as_bytes()).unwrap(), [row(1, &["a", "b"]), row(2, &["1", "2"]), row(4, &["3", "4"])]);
        assert_eq!(rows(b"").unwrap(), []);
    }

    #[test]
    fn what_cannot_be_a_row_is_refused() {
        let bad = rows(b"a\n\xff\nb\n").unwrap();
        assert_eq!(bad[1].fields.as_ref().unwrap_err(), "is not UTF-8 text; save the file as UTF-8");
        assert_eq!((bad[1].line, &bad[2]), (2, &row(3, &["b"])));
        let open = [b"a\n\"".as_slice(), &vec![b'x'; 5 << 20]].concat();
        let refused = |text: &[u8]| rows(text).unwrap_err().to_string();
        assert!(refused(&open).contains("begins on line 2 is longer than 4 MiB"));
        assert!(refused(&vec![b','; 5000]).contains("begins on line 1 has more than 4096 fields"));
    }

    #[test]
    fn a_quotation_mark_that_is_never_closed_is_an_error_with_its_line() {
        for text in ["a,b\n1,2\n\n3,\"x\n4,5\n6,7\n", "a,b\r\n1,2\r\n\r\n3,\"x\r\n4,5", "a\n\n\n\"\"\"", "a\n\n\n\""] {
            let error = rows(text.as_bytes()).unwrap_err();
            let why = "the row that begins on line 4 has a quotation mark that is never closed";
            assert!(error.to_string().contains(why), "{text:?}: {error}");
        }
        // Marks within a field that does not begin with one are text.
        for text in ["a\n5\" pipe\n", "a\n5\" pipe", "a\nx\"", "a\n\"x\"", "a\n\"x\"\"\"\n"] {
            assert_eq!(rows(text.as_bytes()).unwrap().len(), 2, "{text:?}");
        }
    }
}
