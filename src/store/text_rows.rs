//! Rows of text files as JSON objects, one at a time: JSON lines or one JSON array, gzipped or not, CSV, and plain text with
//! a prompt a line.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::atomic::io_error;
use super::csv::CsvRows;
use super::jsonl::{Row, parse};
use super::lines::{LONGEST, Lines, open_regular};
use super::listing::is;
use super::reader::IntoUser;
use super::rename::Rename;
use crate::error::{Error, Result};

/// The rows of one file, with the lines that they stand in.
pub(super) struct TextRows {
    source: Source,
    /// Bytes of the rows so far.
    bytes: u64,
    rename: Rename,
}

enum Source {
    Lines(Lines),
    Array(Array),
    /// Every line is a prompt.
    Prompts(Lines),
    Csv(Box<Table>),
}

/// A file may unpack to this many bytes in any case.
const MAX_UNPACKED: u64 = 1 << 30;
/// Beyond it, to at most so many times its own size. Text is packed to a tenth, and rarely to a fiftieth.
const MAX_EXPANSION: u64 = 250;

/// Unpacks a file that nobody vouches for.
struct Unpacking<R> {
    of: R,
    /// Bytes of the file.
    packed: u64,
    unpacked: u64,
}

impl<R: Read> Read for Unpacking<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.of.read(buffer)?;
        self.unpacked += read as u64;
        if self.unpacked > MAX_UNPACKED && self.unpacked / MAX_EXPANSION > self.packed {
            let why =
                format!("it unpacks to more than {MAX_EXPANSION} times its size; unpack it first if that is meant");
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, why));
        }
        Ok(read)
    }
}

impl TextRows {
    /// Those of a file. Its name says whether it is CSV or plain text; everything else is JSON.
    ///
    /// # Errors
    /// It cannot be read; a .csv file without a first row of names, or with a name that comes twice.
    pub fn open(file: &Path) -> Result<Self> {
        let source = if is(file, "csv") {
            Source::Csv(Box::new(Table::open(file)?))
        } else if is(file, "txt") {
            Source::Prompts(Lines::open(file)?)
        } else {
            Self::json(file)?
        };
        Ok(Self { source, bytes: 0, rename: Rename::default() })
    }

    /// The same rows with keys renamed.
    #[must_use]
    pub fn renamed(self, rename: &Rename) -> Self {
        Self { rename: rename.clone(), ..self }
    }

    fn json(file: &Path) -> Result<Source> {
        let fail = |e: &std::io::Error| io_error("reading", file, e).into_user();
        let plain = open_regular(file)?;
        let mut reader: Box<dyn BufRead + Send> = Box::new(BufReader::new(plain));
        if reader.fill_buf().map_err(|e| fail(&e))?.starts_with(&[0x1f, 0x8b]) {
            // Several members one after the other are one file.
            let packed = std::fs::metadata(file).map_err(|e| fail(&e))?.len();
            let unpacking = Unpacking { of: flate2::bufread::MultiGzDecoder::new(reader), packed, unpacked: 0 };
            reader = Box::new(BufReader::new(unpacking));
        }
        let mut start = reader.fill_buf().map_err(|e| fail(&e))?;
        start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
        if start.trim_ascii_start().starts_with(b"[") {
            return Ok(Source::Array(Array::new(file, reader)));
        }
        Ok(Source::Lines(Lines::of(file.display().to_string(), reader)))
    }

    /// Bytes of the rows so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&mut self) -> Result<Option<(u64, Row)>> {
        match &mut self.source {
            Source::Lines(lines) => {
                let Some((line, bytes)) = lines.next_line()? else { return Ok(None) };
                self.bytes += bytes.len() as u64;
                Ok(Some((line, parse(bytes))))
            }
            Source::Array(array) => {
                let next = array.next()?;
                self.bytes += array.element.len() as u64;
                Ok(next)
            }
            Source::Prompts(lines) => {
                let Some((line, bytes)) = lines.next_line()? else { return Ok(None) };
                self.bytes += bytes.len() as u64;
                Ok(Some((line, line_of_text(bytes))))
            }
            Source::Csv(table) => {
                let next = table.next()?;
                self.bytes += table.bytes;
                Ok(next)
            }
        }
    }
}

impl Iterator for TextRows {
    type Item = Result<(u64, Row)>;
    fn next(&mut self) -> Option<Self::Item> {
        let next = self.read().and_then(|next| match next {
            Some((line, Ok(row))) => Ok(Some((line, Ok(self.rename.apply(row)?)))),
            other => Ok(other),
        });
        next.transpose()
    }
}

/// A line of plain text as a row with a prompt.
fn line_of_text(bytes: &[u8]) -> Row {
    let text =
        std::str::from_utf8(bytes).map_err(|_| ("bad_json", "is not UTF-8 text; save the file as UTF-8".into()))?;
    Ok(Map::from_iter([("prompt".to_owned(), Value::from(text.trim()))]))
}

/// A CSV file (RFC 4180) whose first row has the names of its columns.
struct Table {
    path: PathBuf,
    rows: CsvRows,
    names: Vec<String>,
    /// Bytes of the last row.
    bytes: u64,
}

impl Table {
    fn open(path: &Path) -> Result<Self> {
        let mut rows = CsvRows::open(path)?;
        let place = |line: u64, what: &str| Error::user(format!("`{}` line {line} {what}", path.display()));
        let first = rows.next().map_err(|(line, what)| place(line, &what))?;
        let (line, names) = first.unwrap_or_default();
        let names: Vec<String> = names.into_iter().map(|name| name.trim().to_owned()).collect();
        if let Some((at, name)) = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
            return Err(place(line, &format!("names two columns `{name}`; the second is number {}", at + 1))
                .help("give every column a name of its own in the first row"));
        }
        Ok(Self { path: path.to_owned(), rows, names, bytes: 0 })
    }

    fn next(&mut self) -> Result<Option<(u64, Row)>> {
        self.bytes = 0;
        let (line, fields) = match self.rows.next() {
            Ok(None) => return Ok(None),
            Ok(Some(row)) => row,
            // The parser stands within a row: what follows cannot be told apart.
            Err((line, what)) => return Err(Error::user(format!("`{}` line {line} {what}", self.path.display()))),
        };
        self.bytes = fields.iter().map(|field| field.len() as u64).sum();
        if fields.len() != self.names.len() {
            let (has, want) = (fields.len(), self.names.len());
            let what = format!(
                "has {has} fields, the first row names {want} columns; a field with a comma needs quotation marks"
            );
            return Ok(Some((line, Err(("bad_value", what)))));
        }
        let row = self.names.iter().cloned().zip(fields.into_iter().map(Value::from)).collect();
        Ok(Some((line, Ok(row))))
    }
}

/// The elements of one JSON array, each read to its end before it is parsed.
struct Array {
    name: PathBuf,
    bytes: std::io::Bytes<Box<dyn BufRead + Send>>,
    line: u64,
    /// The opening bracket has been seen; the closing one has.
    begun: bool,
    ended: bool,
    element: Vec<u8>,
}

impl Array {
    fn new(name: &Path, reader: Box<dyn BufRead + Send>) -> Self {
        Self { name: name.to_owned(), bytes: reader.bytes(), line: 1, begun: false, ended: false, element: Vec::new() }
    }

    fn byte(&mut self) -> Result<Option<u8>> {
        let byte = self.bytes.next().transpose().map_err(|e| io_error("reading", &self.name, &e))?;
        self.line += u64::from(byte == Some(b'\n'));
        Ok(byte)
    }

    fn fail<T>(&self, what: &str) -> Result<T> {
        Err(Error::user(format!("`{}` line {} {what}", self.name.display(), self.line))
            .help("the file is to hold one JSON array of objects, or one object a line"))
    }

    /// The next element with the line that it begins in; after one that does not parse the array goes on.
    fn next(&mut self) -> Result<Option<(u64, Row)>> {
        if self.ended {
            return Ok(None);
        }
        self.element.clear();
        let (mut depth, mut quoted, mut escaped, mut line) = (0usize, false, false, self.line);
        loop {
            let Some(byte) = self.byte()? else { return self.fail("ends before the array does") };
            let blank = byte.is_ascii_whitespace() || !self.begun && matches!(byte, 0xef | 0xbb | 0xbf);
            if !self.begun {
                self.begun = byte == b'[';
                match self.begun || blank {
                    true => continue,
                    false => return self.fail("does not begin an array"),
                }
            }
            if quoted {
                quoted = escaped || byte != b'"';
                escaped = !escaped && byte == b'\\';
            } else {
                match byte {
                    b'"' => quoted = true,
                    b'{' | b'[' => depth += 1,
                    b']' if depth == 0 => {
                        self.ended = true;
                        return self.rest().map(|()| self.parsed(line));
                    }
                    b'}' | b']' => depth = depth.saturating_sub(1),
                    b',' if depth == 0 => {
                        let row = self.parsed(line);
                        return Ok(row.or(Some((line, Err(("bad_json", "has a comma and no row before it".into()))))));
                    }
                    _ => {}
                }
            }
            if self.element.is_empty() {
                line = self.line;
                if blank {
                    continue;
                }
            }
            self.element.push(byte);
            if self.element.len() as u64 > LONGEST {
                return self.fail(&format!("is in a row of more than {} MiB", LONGEST >> 20));
            }
        }
    }

    fn parsed(&self, line: u64) -> Option<(u64, Row)> {
        (!self.element.is_empty()).then(|| (line, parse(&self.element)))
    }

    /// Nothing may come after the array.
    fn rest(&mut self) -> Result<()> {
        while let Some(byte) = self.byte()? {
            if !byte.is_ascii_whitespace() {
                return self.fail("goes on after the array's end");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(name: &str, text: &str) -> Result<Vec<(u64, Result<String, String>)>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        let say = |row: Row| row.map(|row| serde_json::to_string(&row).unwrap()).map_err(|e| e.1);
        TextRows::open(&path)?.map(|row| row.map(|(line, row)| (line, say(row)))).collect()
    }

    #[test]
    fn plain_text_and_csv_are_rows() {
        let one = |text: &str| Ok(text.to_owned());
        let want = [(1, one(r#"{"prompt":"Hi"}"#)), (3, one(r#"{"prompt":"\"q\", he said"}"#))];
        assert_eq!(rows("x.txt", "\u{feff}Hi\r\n\n \"q\", he said \n").unwrap(), want);
        let csv = "id,prompt\r\n1,\"Say \"\"hi\"\", please\"\r\n2,\"two\nlines\"\r\n3\r\n";
        let want = [
            (2, one(r#"{"id":"1","prompt":"Say \"hi\", please"}"#)),
            (4, one(r#"{"id":"2","prompt":"two\nlines"}"#)),
            (5, Err("has 1 fields, the first row names 2 columns; a field with a comma needs quotation marks".into())),
        ];
        assert_eq!(rows("x.csv", csv).unwrap(), want);
        assert!(rows("x.csv", "a,b,a\n").unwrap_err().to_string().contains("names two columns `a`"));
        assert_eq!(rows("x.csv", "").unwrap(), []);
    }
}
