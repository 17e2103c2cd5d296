//! Rows of a CSV file as text, one at a time.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use csv_core::{ReadRecordResult, Reader};

use super::lines::open_regular;
use crate::error::Result;

/// A row with longer text is refused, so that a quotation mark that is never closed cannot fill the memory.
const LONGEST: usize = 4 << 20;
/// A row with more fields is refused.
const WIDEST: usize = 4096;

/// The line that a row ends on, from 1, and its fields.
type Row = (u64, Vec<String>);

/// The rows of a file; blank lines are passed over.
pub(super) struct CsvRows {
    input: BufReader<File>,
    reader: Reader,
    text: Vec<u8>,
    ends: Vec<usize>,
}

impl CsvRows {
    /// # Errors
    /// The file cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        let file = open_regular(path)?;
        let (text, ends) = (vec![0; LONGEST], vec![0; WIDEST]);
        Ok(Self { input: BufReader::new(file), reader: Reader::new(), text, ends })
    }

    /// The next row, the first one too; or the line and what is wrong with it.
    pub fn next(&mut self) -> Result<Option<Row>, (u64, String)> {
        let (mut filled, mut fields, mut last) = (0, 0, 0);
        let first = self.reader.line();
        loop {
            let input = self.input.fill_buf().map_err(|e| (first, format!("cannot be read: {e}")))?;
            let (result, read, wrote, ended) =
                self.reader.read_record(input, &mut self.text[filled..], &mut self.ends[fields..]);
            // A row ends with its first line end; of a pair of them the second comes with the next row.
            last = input[..read].last().copied().unwrap_or(last);
            self.input.consume(read);
            filled += wrote;
            fields += ended;
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull => return Err((first, format!("is longer than {} MiB", LONGEST >> 20))),
                ReadRecordResult::OutputEndsFull => return Err((first, format!("has more than {WIDEST} fields"))),
                ReadRecordResult::Record => break,
                ReadRecordResult::End => return Ok(None),
            }
        }
        // The line that it ended on: blank lines may have come before it, and text may span lines.
        let line = self.reader.line() - u64::from(last == b'\n');
        let mut from = 0;
        let mut row = Vec::with_capacity(fields);
        for &end in &self.ends[..fields] {
            let field = std::str::from_utf8(&self.text[from..end]);
            row.push(field.map_err(|_| (line, "is not UTF-8 text".to_owned()))?.to_owned());
            from = end;
        }
        Ok(Some((line, row)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &[u8]) -> Result<Vec<Row>, (u64, String)> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.csv");
        std::fs::write(&path, text).unwrap();
        let mut rows = CsvRows::open(&path).unwrap();
        std::iter::from_fn(|| rows.next().transpose()).collect()
    }
    fn row(line: u64, fields: &[&str]) -> Row {
        (line, fields.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn rows_know_their_lines() {
        let expected =
            [row(1, &["a", "b"]), row(2, &["1", "2"]), row(4, &["x,\"y\"", ""]), row(6, &["two\nlines", "3"])];
        let text = "\u{feff}a,b\n1,2\n\n\"x,\"\"y\"\"\",\n\"two\nlines\",3";
        assert_eq!(rows(text.as_bytes()).unwrap(), expected);
        assert_eq!(rows(format!("{text}\n").as_bytes()).unwrap(), expected);
        let text = "a,b\r\n1,2\r\n3,4\r\n";
        assert_eq!(rows(text.as_bytes()).unwrap(), [row(1, &["a", "b"]), row(2, &["1", "2"]), row(3, &["3", "4"])]);
        assert_eq!(rows(b"").unwrap(), []);
    }

    #[test]
    fn what_cannot_be_a_row_is_refused() {
        assert_eq!(rows(b"a\n\xff\n").unwrap_err(), (2, "is not UTF-8 text".to_owned()));
        let open = [b"a\n\"".as_slice(), &vec![b'x'; 5 << 20]].concat();
        assert_eq!(rows(&open).unwrap_err(), (2, "is longer than 4 MiB".to_owned()));
        let wide = vec![b','; 5000];
        assert_eq!(rows(&wide).unwrap_err(), (1, "has more than 4096 fields".to_owned()));
    }
}
