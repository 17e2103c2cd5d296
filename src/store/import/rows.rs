//! The rows of a stranger's file as JSON objects, one at a time: JSON lines or one JSON array, plain or gzipped, or Parquet.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::json::LineDelimitedWriter;

use crate::error::{Error, Result};
use crate::store::atomic::io_error;
use crate::store::jsonl::{Row, parse};
use crate::store::lines::{LONGEST, Lines, open_regular};
use crate::store::listing::{files, is};
use crate::store::printable::as_printable;
use crate::store::reader::{Chunks, IntoUser, ParquetIn, guarded, row_bytes};

/// A row, or why it is none, with its number: a line of text, or a row of Parquet, from 1.
pub struct Numbered {
    pub file: PathBuf,
    pub number: u64,
    pub row: Row,
}

impl Numbered {
    /// The file with the row's place in it.
    pub fn place(&self) -> String {
        let unit = if is(&self.file, "parquet") { "row" } else { "line" };
        format!("`{}` {unit} {}", self.file.display(), self.number)
    }
}

enum Open {
    Lines(Lines),
    Array(Array),
    /// What is left of a chunk, the rows that are ready, and the number of the last.
    Parquet(Box<Chunks>, Option<RecordBatch>, VecDeque<Row>, u64),
}

/// All rows of a file, or of a folder's Parquet and JSONL files in reading order. Holds a row, or a chunk of Parquet.
pub struct RowsOf {
    left: VecDeque<PathBuf>,
    open: Option<(PathBuf, Open)>,
    /// The columns of Parquet files that are read.
    only: &'static [&'static str],
    /// The other columns of the Parquet files so far, with the number of rows that have a value there.
    unread: BTreeMap<String, u64>,
}

impl RowsOf {
    /// Of a path; of Parquet only the columns named.
    ///
    /// # Errors
    /// Nothing is there.
    pub fn open(path: &Path, only: &'static [&'static str]) -> Result<Self> {
        let left = if path.is_dir() { files(path)? } else { vec![path.to_owned()] };
        Ok(Self::over(left, only))
    }

    /// Of several files, one after the other; of Parquet only the columns named.
    pub fn over(files: Vec<PathBuf>, only: &'static [&'static str]) -> Self {
        Self { left: files.into(), open: None, only, unread: BTreeMap::new() }
    }

    /// The columns of the Parquet files read so far that were not asked for, with the number of rows that have a value
    /// there.
    pub fn unread_columns(&self) -> &BTreeMap<String, u64> {
        &self.unread
    }

    fn read(&mut self) -> Result<Option<Numbered>> {
        loop {
            if let Some((file, open)) = &mut self.open
                && let Some((number, row)) = open.next()?
            {
                return Ok(Some(Numbered { file: file.clone(), number, row }));
            }
            let Some(file) = self.left.pop_front() else { return Ok(None) };
            self.open = Some((file.clone(), Open::of(&file, self.only, &mut self.unread)?));
        }
    }
}

impl Iterator for RowsOf {
    type Item = Result<Numbered>;
    fn next(&mut self) -> Option<Self::Item> {
        let next = self.read();
        if next.is_err() {
            (self.left, self.open) = (VecDeque::new(), None);
        }
        next.transpose()
    }
}

impl Open {
    fn of(file: &Path, only: &[&str], unread: &mut BTreeMap<String, u64>) -> Result<Self> {
        if is(file, "parquet") {
            let parquet = ParquetIn::open(file)?;
            let mut columns = Vec::new();
            for (at, field) in parquet.schema().fields().iter().enumerate() {
                if only.contains(&field.name().as_str()) {
                    columns.push(at);
                    continue;
                }
                let values = parquet.values_of(at);
                if values > 0 {
                    let listed = unread.len() < MAX_UNREAD_COLUMNS || unread.contains_key(field.name());
                    let name = if listed { field.name().as_str() } else { "other columns" };
                    *unread.entry(name.to_owned()).or_default() += values;
                }
            }
            return Ok(Open::Parquet(Box::new(parquet.read(&columns)?), None, VecDeque::new(), 0));
        }
        let fail = |e: &std::io::Error| io_error("reading", file, e).into_user();
        let plain = open_regular(file)?;
        let mut reader: Box<dyn BufRead + Send> = Box::new(BufReader::new(plain));
        if reader.fill_buf().map_err(|e| fail(&e))?.starts_with(&[0x1f, 0x8b]) {
            // Several members one after the other are one file. What they unpack to is bounded by a row's greatest length.
            reader = Box::new(BufReader::new(flate2::bufread::MultiGzDecoder::new(reader)));
        }
        let mut start = reader.fill_buf().map_err(|e| fail(&e))?;
        start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
        if start.trim_ascii_start().starts_with(b"[") {
            return Ok(Open::Array(Array::new(file, reader)));
        }
        Ok(Open::Lines(Lines::of(file.display().to_string(), reader)))
    }

    fn next(&mut self) -> Result<Option<(u64, Row)>> {
        match self {
            Open::Lines(lines) => Ok(lines.next_line()?.map(|(line, bytes)| (line, parse(bytes)))),
            Open::Array(array) => array.next(),
            Open::Parquet(chunks, left, ready, number) => {
                while ready.is_empty() {
                    let chunk = match left.take() {
                        Some(left) => left,
                        None => match chunks.next().transpose()? {
                            Some(chunk) => chunk,
                            None => return Ok(None),
                        },
                    };
                    // As JSON a chunk takes several times its size: one whose rows are huge is turned row by row.
                    let large = row_bytes(&chunk) > LONGEST / 4 && chunk.num_rows() > 1;
                    let rows = if large { 1 } else { chunk.num_rows() };
                    let path = chunks.path().to_owned();
                    match json_rows(&path, &chunk.slice(0, rows)) {
                        Ok(made) => ready.extend(made),
                        // One row cannot be turned into JSON: find it, and go on with the others.
                        Err(_) if rows > 1 => {
                            for row in 0..rows {
                                let made = json_rows(&path, &chunk.slice(row, 1));
                                ready.extend(made.unwrap_or_else(|what| vec![Err(("bad_value", what))]));
                            }
                        }
                        Err(what) => ready.push_back(Err(("bad_value", what))),
                    }
                    *left = (rows < chunk.num_rows()).then(|| chunk.slice(rows, chunk.num_rows() - rows));
                }
                *number += 1;
                Ok(ready.pop_front().map(|row| (*number, row)))
            }
        }
    }
}

/// Columns that were not asked for are listed up to this many; those after them are counted together.
const MAX_UNREAD_COLUMNS: usize = 1000;

/// Rows of Parquet as JSON objects, or what cannot be turned into one.
fn json_rows(path: &Path, rows: &RecordBatch) -> std::result::Result<Vec<Row>, String> {
    if rows.num_rows() == 1 && row_bytes(rows) > LONGEST {
        return Err(format!("is longer than {} MiB", LONGEST >> 20));
    }
    let turned = guarded(path, || {
        let rows = as_printable(rows)?;
        let mut text = Vec::new();
        let mut writer = LineDelimitedWriter::new(&mut text);
        writer.write(&rows).and_then(|()| writer.finish())?;
        Ok(text)
    });
    let text = turned.map_err(|e| format!("cannot be read: {e}"))?;
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    Ok(lines.map(parse).collect())
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
    use std::io::Write;

    use super::*;

    fn rows(name: &str, bytes: &[u8]) -> Result<Vec<(u64, Result<String, String>)>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let say = |r: Row| r.map(|r| serde_json::to_string(&r).unwrap()).map_err(|e| e.1);
        RowsOf::open(&path, &[])?.map(|r| r.map(|r| (r.number, say(r.row)))).collect()
    }
    fn gz(text: &[u8]) -> Vec<u8> {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(text).unwrap();
        gz.finish().unwrap()
    }

    #[test]
    fn lines_arrays_and_gzip_are_the_same_rows() {
        let one = |s: &str| Ok(s.to_owned());
        let want = vec![(1, one(r#"{"a":"]},\""}"#)), (2, one(r#"{"b":[1,{"c":2}]}"#))];
        let lines = "{\"a\":\"]},\\\"\"}\n{\"b\":[1,{\"c\":2}]}\n";
        assert_eq!(rows("x.jsonl", lines.as_bytes()).unwrap(), want);
        let array = format!("[{}]\n", lines.trim().replace('\n', ",\n"));
        assert_eq!(rows("x.json", array.as_bytes()).unwrap(), want);
        assert_eq!(rows("x.json", format!("\u{feff}{array}").as_bytes()).unwrap(), want);
        assert_eq!(rows("x.json.gz", &gz(array.as_bytes())).unwrap(), want);
        let members: Vec<u8> = lines.split_inclusive('\n').flat_map(|l| gz(l.as_bytes())).collect();
        assert_eq!(rows("x.jsonl.gz", &members).unwrap(), want);
        assert_eq!(rows("x.json", b"[]").unwrap(), []);
        let spread = rows("x.json", b"[\n {\n  \"a\": 1\n },\n\n 7,\n {\"b\"},\n {\"c\": 1} ]").unwrap();
        assert_eq!(spread.iter().map(|r| r.0).collect::<Vec<_>>(), [2, 6, 7, 8]);
        assert!(spread[1].1.as_ref().unwrap_err().contains("expected a JSON object"));
        assert!(spread[2].1.is_err() && spread[3].1.is_ok());
    }

    #[test]
    fn what_is_cut_or_wrong_is_told() {
        for (bytes, why) in [
            (&b"[{\"a\": 1}, "[..], "line 1 ends before the array does"),
            (b"[{\"a\": 1}]\n x", "line 2 goes on after"),
            (b"[{\"a\": \"", "ends before"),
        ] {
            let e = rows("x.json", bytes).unwrap_err();
            assert!(e.to_string().contains(why), "{e}");
        }
        let all = gz(b"{\"a\": 1}\n{\"a\": 2}\n");
        let e = rows("x.jsonl.gz", &all[..all.len() - 9]).unwrap_err();
        assert!(e.to_string().contains("x.jsonl.gz"), "{e}");
        // A small file that unpacks to a line without end is read no further than a line may be long.
        let bomb = gz(&vec![b' '; 65 << 20]);
        assert!(bomb.len() < 1 << 20);
        assert!(rows("x.gz", &bomb).unwrap_err().to_string().contains("longer than 64 MiB"));
    }
}
