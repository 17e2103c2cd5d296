//! A streaming reader of rows as JSON objects: JSON lines or one JSON array, plain or gzipped, CSV, plain
//! text with a prompt per line, or Parquet.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use super::context::is_context;
use super::json_rows::ParquetRows;
use super::rename::Rename;
use super::text_rows::TextRows;
use crate::error::Result;
use crate::store::files::jsonl::Row;
use crate::store::files::listing::{files, is};
use crate::store::files::reader::ParquetReader;
use crate::store::files::unread::{Unread, count_unread};

/// A row, or why it is invalid, with its number: a line of text, or a row of Parquet, from 1.
pub struct NumberedRow {
    pub file: PathBuf,
    pub number: u64,
    pub row: Row,
}

impl NumberedRow {
    /// The file and the row's number, for messages.
    pub fn place(&self) -> String {
        let unit = if is(&self.file, "parquet") { "row" } else { "line" };
        format!("`{}` {unit} {}", self.file.display(), self.number)
    }
}

enum OpenFile {
    Text(Box<TextRows>),
    Parquet(Box<ParquetRows>),
}

/// Reads all rows of a file, or of a folder's Parquet and JSONL files in reading order. Holds one row, or one
/// chunk of Parquet, in memory.
pub struct RowReader {
    left: VecDeque<PathBuf>,
    open: Option<(PathBuf, OpenFile)>,
    /// Parquet columns to read, in addition to renamed ones and context columns.
    only: &'static [&'static str],
    rename: Rename,
    /// Unread columns of the Parquet files so far, with the number of rows that have a value there.
    unread: Unread,
}

impl RowReader {
    /// Opens a file or folder. Only the columns `only` of Parquet files are read.
    ///
    /// # Errors
    /// No file found.
    pub fn open(path: &Path, only: &'static [&'static str]) -> Result<Self> {
        let left = if path.is_dir() { files(path)? } else { vec![path.to_owned()] };
        Ok(Self::from_files(left, only))
    }

    /// Reads several files in sequence. Only the columns `only` of Parquet files are read.
    pub fn from_files(files: Vec<PathBuf>, only: &'static [&'static str]) -> Self {
        Self { left: files.into(), open: None, only, rename: Rename::default(), unread: Unread::new() }
    }

    /// The same rows with keys renamed.
    #[must_use]
    pub fn renamed(self, rename: &Rename) -> Self {
        Self { rename: rename.clone(), ..self }
    }

    /// Unread columns of the Parquet files so far, with the number of rows that have a value there.
    pub fn unread_columns(&self) -> &Unread {
        &self.unread
    }

    fn read(&mut self) -> Result<Option<NumberedRow>> {
        loop {
            if let Some((file, open)) = &mut self.open
                && let Some((number, row)) = open.next()?
            {
                let file = file.clone();
                let row = row.map(|row| self.rename.apply(row)).map_or_else(|bad| Ok(Err(bad)), |row| row.map(Ok))?;
                return Ok(Some(NumberedRow { file, number, row }));
            }
            let Some(file) = self.left.pop_front() else { return Ok(None) };
            self.open = Some((file.clone(), OpenFile::open(&file, self.only, &self.rename, &mut self.unread)?));
        }
    }
}

impl Iterator for RowReader {
    type Item = Result<NumberedRow>;
    fn next(&mut self) -> Option<Self::Item> {
        let next = self.read();
        if next.is_err() {
            (self.left, self.open) = (VecDeque::new(), None);
        }
        next.transpose()
    }
}

impl OpenFile {
    fn open(file: &Path, only: &[&str], rename: &Rename, unread: &mut Unread) -> Result<Self> {
        if is(file, "parquet") {
            let parquet = ParquetReader::open(file)?;
            let (mut columns, values) = (Vec::new(), parquet.values());
            for (at, field) in parquet.schema().fields().iter().enumerate() {
                let name = field.name().as_str();
                if only.contains(&name) || is_context(name) || rename.sources().any(|source| source == name) {
                    columns.push(at);
                    continue;
                }
                if values[at] > 0 {
                    count_unread(unread, name, values[at]);
                }
            }
            return Ok(OpenFile::Parquet(Box::new(ParquetRows::new(parquet.read(&columns)?))));
        }
        Ok(OpenFile::Text(Box::new(TextRows::open(file)?)))
    }

    fn next(&mut self) -> Result<Option<(u64, Row)>> {
        match self {
            OpenFile::Text(rows) => rows.next().transpose(),
            OpenFile::Parquet(rows) => rows.next().transpose(),
        }
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
        RowReader::open(&path, &[])?.map(|r| r.map(|r| (r.number, say(r.row)))).collect()
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
