//! Corrections as data: new scores by response id.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use serde_json::Value;

use super::jsonl::{Lines, spell};
use super::listing::is;
use super::reader::{ParquetIn, guarded};
use crate::error::{Error, Result};

/// Beyond this no rule of `select` can be written.
const GREATEST: f64 = 1e6;

/// A corrected score.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Corrected {
    /// The new score; none withdraws the answer's.
    pub score: Option<f32>,
    /// Where it stands: the line (JSONL) or row (Parquet), from 1.
    pub row: u64,
}

/// Corrected scores by response id.
#[derive(Clone, Debug)]
pub struct Corrections {
    path: PathBuf,
    hash: String,
    by_id: HashMap<String, Corrected>,
}

impl Corrections {
    /// Reads a `.parquet` or `.jsonl` file of rows `response_id` (text) and `score` (a number, or null for none).
    ///
    /// # Errors
    /// The file cannot be read; a row lacks one of the two or has it of another type; a response is corrected twice. The
    /// file and the row are named.
    pub fn read(path: &Path) -> Result<Self> {
        let (hash, _) = super::hash_file(path).map_err(|e| Error::user(e.to_string()))?;
        let mut all = Self { path: path.to_owned(), hash, by_id: HashMap::new() };
        if is(path, "parquet") {
            all.read_parquet()?
        } else {
            all.read_lines()?
        }
        Ok(all)
    }

    fn read_lines(&mut self) -> Result<()> {
        let mut lines = Lines::open(&self.path)?;
        while let Some((line, row)) = lines.next().transpose()? {
            let row = row.map_err(|(_, why)| self.bad(line, why))?;
            let id = match row.get("response_id") {
                Some(Value::String(id)) => id.clone(),
                Some(other) => return Err(self.bad(line, format!("`response_id` is {}, expected text", spell(other)))),
                None => return Err(self.bad(line, "lacks the key `response_id`")),
            };
            let score = match row.get("score") {
                Some(Value::Null) => None,
                Some(value) => match value.as_f64() {
                    Some(score) => Some(score),
                    None => return Err(self.bad(line, format!("`score` is {}, expected a number", spell(value)))),
                },
                None => return Err(self.bad(line, "lacks the key `score`; null withdraws the answer's score")),
            };
            self.add(line, id, score)?;
        }
        Ok(())
    }

    fn read_parquet(&mut self) -> Result<()> {
        let file = ParquetIn::open(&self.path)?;
        let place = |name: &str| {
            file.schema().index_of(name).map_err(|_| {
                let have: Vec<_> = file.schema().fields().iter().map(|f| format!("`{}`", f.name())).collect();
                Error::user(format!("`{}` has no column `{name}`; there are: {}", self.path.display(), have.join(", ")))
                    .help("corrections are rows of `response_id` and `score`; a null score withdraws")
            })
        };
        let (id_at, score_at) = (place("response_id")?, place("score")?);
        let kind = file.schema().field(score_at).data_type().clone();
        if !kind.is_numeric() && kind != DataType::Null {
            return Err(Error::user(format!("`{}`: `score` is {kind}, expected a number", self.path.display())));
        }
        let mut row = 0;
        for chunk in file.read(&[id_at, score_at])? {
            let chunk = chunk?;
            // The projection keeps the file's order.
            let (ids, scores) = if id_at < score_at { (0, 1) } else { (1, 0) };
            let path = self.path.clone();
            let (ids, scores) = guarded(&path, || {
                Ok((cast(chunk.column(ids), &DataType::Utf8)?, cast(chunk.column(scores), &DataType::Float64)?))
            })?;
            let (ids, scores) = (ids.as_string::<i32>(), scores.as_primitive::<Float64Type>());
            for i in 0..chunk.num_rows() {
                row += 1;
                if ids.is_null(i) {
                    return Err(self.bad(row, "`response_id` is null"));
                }
                self.add(row, ids.value(i).to_owned(), scores.is_valid(i).then(|| scores.value(i)))?;
            }
        }
        Ok(())
    }

    fn add(&mut self, row: u64, id: String, score: Option<f64>) -> Result<()> {
        let narrow = score.map(|s| s as f32);
        if let Some(score) = score.filter(|s| s.is_nan() || s.abs() > GREATEST) {
            return Err(self.bad(row, format!("`score` is {score}, expected a number from -{GREATEST} to {GREATEST}")));
        }
        if let Some(before) = self.by_id.get(&id) {
            let before = before.row;
            return Err(self.bad(row, format!("corrects `{id}` again, which {} {before} does", self.unit())));
        }
        self.by_id.insert(id, Corrected { score: narrow, row });
        Ok(())
    }

    fn unit(&self) -> &'static str {
        if is(&self.path, "parquet") { "row" } else { "line" }
    }
    fn bad(&self, row: u64, why: impl std::fmt::Display) -> Error {
        Error::user(format!("`{}` {} {row} {why}", self.path.display(), self.unit()))
            .help("a row is like {\"response_id\": \"6f..\", \"score\": 4}; each response once; score null withdraws")
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// blake3 of the file's bytes, 64 hex digits.
    pub fn hash(&self) -> &str {
        &self.hash
    }
    /// The correction of a response.
    pub fn get(&self, response: &str) -> Option<Corrected> {
        self.by_id.get(response).copied()
    }
    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }
    /// How many take a score away.
    pub fn withdrawn(&self) -> usize {
        self.by_id.values().filter(|c| c.score.is_none()).count()
    }
    /// An error that names those of them, by row, that are not within a scale; none if all are.
    pub fn outside(&self, least: f32, most: f32) -> Option<Error> {
        let off = |c: &Corrected| c.score.filter(|s| !(least..=most).contains(s));
        let off = self.by_id.values().filter_map(|c| Some((c.row, off(c)?.to_string()))).collect();
        self.named(off).map(|rows| {
            Error::user(format!("`{}` has scores that are not on the judge's scale: {rows}", self.path.display()))
        })
    }
    /// An error that names those of them, by row, for which nothing is `known`; none if all are.
    pub fn unknown(&self, known: impl Fn(&str) -> bool) -> Option<Error> {
        let unknown = self.by_id.iter().filter(|(id, _)| !known(id)).map(|(id, c)| (c.row, format!("`{id}`"))).collect();
        self.named(unknown).map(|rows| {
            Error::user(format!("`{}` corrects answers that are not there: {rows}", self.path.display()))
        })
    }
    /// The first few rows in words; none if there are none.
    fn named(&self, mut rows: Vec<(u64, String)>) -> Option<String> {
        rows.sort_unstable();
        let mut shown: Vec<String> =
            rows.iter().take(10).map(|(row, what)| format!("{} {row} {what}", self.unit())).collect();
        if rows.len() > 10 {
            shown.push(format!("and {} more", rows.len() - 10));
        }
        (!shown.is_empty()).then(|| shown.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Corrections> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fix.jsonl");
        std::fs::write(&path, text).unwrap();
        Corrections::read(&path)
    }

    #[test]
    fn rows_are_read_and_bad_ones_are_named() {
        let all =
            read("{\"response_id\": \"a\", \"score\": 4.5}\n\n{\"response_id\": \"b\", \"score\": null}\n").unwrap();
        assert_eq!((all.len(), all.withdrawn()), (2, 1));
        assert_eq!(all.get("a"), Some(Corrected { score: Some(4.5), row: 1 }));
        assert_eq!(all.get("b"), Some(Corrected { score: None, row: 3 }));
        let error = all.unknown(|id| id == "a").unwrap().to_string();
        assert!(error.contains("line 3 `b`"), "{error}");
        assert!(all.unknown(|_| true).is_none());
        for (text, says) in [
            ("{\"response_id\": \"a\", \"scores\": 4}", "line 1 lacks the key `score`"),
            ("{\"response_id\": 3, \"score\": 4}", "line 1 `response_id` is the number 3"),
            ("{\"response_id\": \"a\", \"score\": \"4\"}", "line 1 `score` is the text \"4\""),
            ("{\"response_id\": \"a\", \"score\": 1e300}", "line 1 `score` is 1"),
            (
                "\n{\"response_id\": \"a\", \"score\": 1}\n{\"response_id\": \"a\", \"score\": 1}",
                "line 3 corrects `a` again, which line 2 does",
            ),
            ("nonsense", "line 1 is not JSON"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
