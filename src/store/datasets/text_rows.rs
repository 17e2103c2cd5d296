//! A streaming reader of text files as JSON rows: JSON lines or one JSON array, gzipped or not, CSV, and
//! plain text with a prompt per line.

use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::csv_values::as_typed;
use super::rename::Rename;
use crate::data::Schema;
use crate::error::{Error, Result};
use crate::store::files::csv::{CsvRow, CsvRows};
use crate::store::files::jsonl::{Row, parse};
use crate::store::files::lines::{Lines, MAX_LENGTH};
use crate::store::files::listing::holds;
use crate::store::files::unpack::{open_text, read_error};

/// The rows of one file, with their line numbers.
pub(crate) struct TextRows {
    source: TextFormat,
    /// Size of the rows so far in bytes.
    bytes: u64,
    rename: Rename,
    /// Schema for the types of CSV fields, and the file's names of its columns.
    typed: Option<(&'static Schema, Vec<String>)>,
}

enum TextFormat {
    Lines(Lines),
    Array(Array),
    /// Every line is a prompt.
    Prompts(Lines),
    Csv(Box<CsvTable>),
}

impl TextRows {
    /// Opens a file. Its extension decides whether it is CSV or plain text; everything else is JSON.
    ///
    /// # Errors
    /// The file cannot be read; a .csv file has no header, or a duplicate name in it.
    pub fn open(file: &Path) -> Result<Self> {
        let source = if holds(file, "csv") {
            TextFormat::Csv(Box::new(CsvTable::open(file)?))
        } else if holds(file, "txt") {
            TextFormat::Prompts(Lines::open(file)?)
        } else if holds(file, "parquet") {
            return Err(Error::user(format!("`{}` is a packed Parquet file", file.display()))
                .help("unpack it first: Parquet packs its own pages"));
        } else {
            Self::json(file)?
        };
        Ok(Self { source, bytes: 0, rename: Rename::default(), typed: None })
    }

    /// Converts CSV fields to the types of a schema's columns, which the file calls `names`.
    #[must_use]
    pub fn typed(self, schema: &'static Schema, names: &[String]) -> Self {
        let is_csv = matches!(self.source, TextFormat::Csv(_));
        Self { typed: is_csv.then(|| (schema, names.to_vec())), ..self }
    }

    /// The same rows with keys renamed.
    #[must_use]
    pub fn renamed(self, rename: &Rename) -> Self {
        Self { rename: rename.clone(), ..self }
    }

    fn json(file: &Path) -> Result<TextFormat> {
        let mut reader = open_text(file)?;
        let mut start = reader.fill_buf().map_err(|e| read_error(file, &e))?;
        start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
        if start.trim_ascii_start().starts_with(b"[") {
            return Ok(TextFormat::Array(Array::new(file, reader)));
        }
        Ok(TextFormat::Lines(Lines::new(file.display().to_string(), reader)))
    }

    /// Size of the rows so far in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&mut self) -> Result<Option<(u64, Row)>> {
        match &mut self.source {
            TextFormat::Lines(lines) => {
                let Some((line, bytes)) = lines.next_line()? else { return Ok(None) };
                self.bytes += bytes.len() as u64;
                Ok(Some((line, parse(bytes))))
            }
            TextFormat::Array(array) => {
                let next = array.next()?;
                self.bytes += array.element.len() as u64;
                Ok(next)
            }
            TextFormat::Prompts(lines) => {
                let Some((line, bytes)) = lines.next_line()? else { return Ok(None) };
                self.bytes += bytes.len() as u64;
                Ok(Some((line, line_of_text(bytes))))
            }
            TextFormat::Csv(table) => {
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
            Some((line, Ok(row))) => {
                let mut row = self.rename.apply(row)?;
                if let Some((schema, names)) = &self.typed {
                    as_typed(schema, names, &mut row);
                }
                Ok(Some((line, Ok(row))))
            }
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

/// A CSV file (RFC 4180) with a header.
struct CsvTable {
    rows: CsvRows,
    names: Vec<String>,
    /// Size of the last row in bytes.
    bytes: u64,
}

impl CsvTable {
    fn open(path: &Path) -> Result<Self> {
        let mut rows = CsvRows::open(path)?;
        let (line, names) = rows.next()?.map_or((0, Ok(Vec::new())), |row| (row.line, row.fields));
        let place = |line: u64, what: &str| Error::user(format!("`{}` line {line} {what}", path.display()));
        let names = names.map_err(|what| place(line, &what))?;
        let names: Vec<String> = names.into_iter().map(|name| name.trim().to_owned()).collect();
        if let Some((at, name)) = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
            return Err(place(line, &format!("names two columns `{name}`; the second is number {}", at + 1))
                .help("give every column a name of its own in the first row"));
        }
        Ok(Self { rows, names, bytes: 0 })
    }

    fn next(&mut self) -> Result<Option<(u64, Row)>> {
        self.bytes = 0;
        let Some(CsvRow { first, line, fields }) = self.rows.next()? else { return Ok(None) };
        let fields = match fields {
            Ok(fields) => fields,
            Err(what) => return Ok(Some((line, Err(("bad_value", what))))),
        };
        self.bytes = fields.iter().map(|field| field.len() as u64).sum();
        if fields.len() != self.names.len() {
            let (has, want) = (fields.len(), self.names.len());
            let mut what = format!(
                "has {has} fields, the first row names {want} columns; a field with a comma needs quotation marks"
            );
            if first < line {
                what += &format!(" (the row begins on line {first}: is a quotation mark not closed?)");
            }
            return Ok(Some((line, Err(("bad_value", what)))));
        }
        let row = self.names.iter().cloned().zip(fields.into_iter().map(Value::from)).collect();
        Ok(Some((line, Ok(row))))
    }
}

/// A streaming reader of a JSON array, which buffers one element at a time.
struct Array {
    name: PathBuf,
    bytes: std::io::Bytes<Box<dyn BufRead + Send>>,
    line: u64,
    /// Whether the opening and the closing bracket have been read.
    begun: bool,
    ended: bool,
    element: Vec<u8>,
}

impl Array {
    fn new(name: &Path, reader: Box<dyn BufRead + Send>) -> Self {
        Self { name: name.to_owned(), bytes: reader.bytes(), line: 1, begun: false, ended: false, element: Vec::new() }
    }

    fn byte(&mut self) -> Result<Option<u8>> {
        let byte = self.bytes.next().transpose().map_err(|e| read_error(&self.name, &e))?;
        self.line += u64::from(byte == Some(b'\n'));
        Ok(byte)
    }

    fn fail<T>(&self, what: &str) -> Result<T> {
        Err(Error::user(format!("`{}` line {} {what}", self.name.display(), self.line))
            .help("the file must be one JSON array of objects, or have one object per line"))
    }

    /// The next element with its first line. An element that does not parse does not end the array.
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
            if self.element.len() as u64 > MAX_LENGTH {
                return self.fail(&format!("is in a row of more than {} MiB", MAX_LENGTH >> 20));
            }
        }
    }

    fn parsed(&self, line: u64) -> Option<(u64, Row)> {
        (!self.element.is_empty()).then(|| (line, parse(&self.element)))
    }

    /// Checks that nothing follows the array.
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
