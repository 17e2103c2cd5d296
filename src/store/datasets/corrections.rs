//! Corrected scores by response id.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float32Array, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use serde_json::Value;

use super::text_rows::TextRows;
use crate::data::Id;
use crate::error::{Error, Result};
use crate::store::files::csv::CsvRows;
use crate::store::files::jsonl::spell;
use crate::store::files::listing::{holds, is};
use crate::store::files::reader::{ParquetReader, guarded};

/// Maximum absolute value of a score, as in the rules of `select`.
const MAX_SCORE: f64 = 1e6;

/// A corrected score.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Corrected {
    /// The new score; `None` withdraws the answer's score.
    pub score: Option<f32>,
    /// The line (JSONL) or row (Parquet), from 1.
    pub row: u64,
}

/// Corrected scores by response id.
#[derive(Clone, Debug)]
pub struct Corrections {
    path: PathBuf,
    hash: String,
    by_id: HashMap<String, Corrected>,
    texts: BloomFilter,
    hashes: BloomFilter,
    /// The responses' [`Id`]s, sorted.
    ids: Vec<Id>,
}

/// A Bloom filter with one hash function. Most answers of a run are not corrected, and the filter rejects
/// them quickly.
#[derive(Clone, Debug, Default)]
struct BloomFilter(Vec<u64>);

impl BloomFilter {
    fn new(mixed: impl ExactSizeIterator<Item = u64>) -> Self {
        let mut bits = vec![0; mixed.len().next_power_of_two()];
        let words = bits.len();
        for mixed in mixed {
            bits[Self::word(mixed, words)] |= 1 << (mixed >> 58);
        }
        Self(bits)
    }
    fn word(mixed: u64, words: usize) -> usize {
        (mixed >> 26) as usize & (words - 1)
    }
    fn has(&self, mixed: u64) -> bool {
        self.0[Self::word(mixed, self.0.len())] & 1 << (mixed >> 58) != 0
    }
}

/// Hash of an id's last bytes. Reflux's ids are hashes already, but others may be any text.
fn mixed(id: &[u8]) -> u64 {
    let tail = &id[id.len().saturating_sub(8)..];
    let mut last = [0; 8];
    last[..tail.len()].copy_from_slice(tail);
    u64::from_le_bytes(last).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

impl Corrections {
    /// Reads a `.parquet`, `.csv` or `.jsonl` file with `response_id` (text) and `score` (a number, or null,
    /// or in `.csv` an empty field, to withdraw a score). Other columns are ignored.
    ///
    /// # Errors
    /// The file cannot be read; a row lacks one of the columns or has another type; a response is corrected
    /// twice. The message names the file and the row.
    pub fn read(path: &Path) -> Result<Self> {
        let (hash, _) = crate::store::files::integrity::hash_file(path).map_err(|e| Error::user(e.to_string()))?;
        let mut all = Self {
            path: path.to_owned(),
            hash,
            by_id: HashMap::new(),
            texts: BloomFilter::default(),
            hashes: BloomFilter::default(),
            ids: Vec::new(),
        };
        if is(path, "parquet") {
            all.read_parquet()?
        } else if holds(path, "csv") {
            all.read_csv()?
        } else {
            all.read_lines()?
        }
        all.texts = BloomFilter::new(all.by_id.keys().map(|id| mixed(id.as_bytes())));
        all.ids = all.by_id.keys().map(|id| Id::from_text(id)).collect();
        all.ids.sort_unstable();
        all.hashes = BloomFilter::new(all.ids.iter().map(|id| id.0 as u64));
        Ok(all)
    }

    fn read_lines(&mut self) -> Result<()> {
        let mut lines = TextRows::open(&self.path)?;
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

    fn read_csv(&mut self) -> Result<()> {
        let mut rows = CsvRows::open(&self.path)?;
        let Some(head) = rows.next()? else { return Err(self.no_column("response_id", std::iter::empty())) };
        let head = head.fields.map_err(|why| self.bad(head.line, why))?;
        let place = |name: &str| {
            let have = head.iter().map(|h| h.trim());
            head.iter().position(|h| h.trim() == name).ok_or_else(|| self.no_column(name, have))
        };
        let (id_at, score_at) = (place("response_id")?, place("score")?);
        while let Some(row) = rows.next()? {
            let line = row.line;
            let row = row.fields.map_err(|why| self.bad(line, why))?;
            if row.len() != head.len() {
                return Err(self.bad(line, format!("has {} fields, the first row has {}", row.len(), head.len())));
            }
            let text = row[score_at].trim();
            let score = match text {
                "" => None,
                _ => Some(text.parse().map_err(|_| self.bad(line, format!("`score` is `{text}`, expected a number")))?),
            };
            self.add(line, row[id_at].trim().to_owned(), score)?;
        }
        Ok(())
    }

    fn no_column<'a>(&self, name: &str, have: impl Iterator<Item = &'a str>) -> Error {
        let have: Vec<_> = have.map(|h| format!("`{h}`")).collect();
        Error::user(format!("`{}` has no column `{name}`; there are: {}", self.path.display(), have.join(", ")))
            .help("corrections are rows of `response_id` and `score`; a score that is null takes the answer's away")
    }

    fn read_parquet(&mut self) -> Result<()> {
        let file = ParquetReader::open(&self.path)?;
        let place = |name: &str| {
            let have = file.schema().fields().iter().map(|f| f.name().as_str());
            file.schema().index_of(name).map_err(|_| self.no_column(name, have))
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
        if let Some(score) = score.filter(|s| s.is_nan() || s.abs() > MAX_SCORE) {
            return Err(
                self.bad(row, format!("`score` is {score:?}, expected a number from -{MAX_SCORE} to {MAX_SCORE}"))
            );
        }
        if id.is_empty() {
            return Err(self.bad(row, "`response_id` is empty"));
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
        if self.texts.has(mixed(response.as_bytes())) { self.by_id.get(response).copied() } else { None }
    }
    /// The corrections as rows of `response_id` and `score`, in the file's order.
    pub fn rows(&self) -> Result<RecordBatch> {
        let mut all: Vec<(&String, &Corrected)> = self.by_id.iter().collect();
        all.sort_unstable_by_key(|(_, c)| c.row);
        let ids: ArrayRef = Arc::new(StringArray::from_iter_values(all.iter().map(|(id, _)| id)));
        let scores: ArrayRef = Arc::new(Float32Array::from_iter(all.iter().map(|(_, c)| c.score)));
        Ok(RecordBatch::try_from_iter_with_nullable([("response_id", ids, false), ("score", scores, true)])?)
    }
    /// Whether a response is corrected.
    pub fn has(&self, response: &[u8]) -> bool {
        self.texts.has(mixed(response)) && std::str::from_utf8(response).is_ok_and(|id| self.by_id.contains_key(id))
    }
    /// Whether a response with this [`Id`] is corrected. Ids of different spelling may have the same [`Id`].
    pub fn has_id(&self, response: Id) -> bool {
        self.hashes.has(response.0 as u64) && self.ids.binary_search(&response).is_ok()
    }
    /// Number of corrections.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }
    /// Whether the file has no corrections.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }
    /// Number of corrections that withdraw a score.
    pub fn withdrawn(&self) -> usize {
        self.by_id.values().filter(|c| c.score.is_none()).count()
    }
    /// The error that names corrections outside of a scale, by row; `None` if all are inside.
    pub fn outside(&self, least: f32, most: f32) -> Option<Error> {
        let off = |c: &Corrected| c.score.filter(|s| !(least..=most).contains(s));
        let off = self.by_id.values().filter_map(|c| Some((c.row, off(c)?.to_string()))).collect();
        self.named(off).map(|rows| {
            Error::user(format!("`{}` has scores that are not on the judge's scale: {rows}", self.path.display()))
        })
    }
    /// The error that names corrections of responses that are not `known`, by row; `None` if all are known.
    pub fn unknown(&self, known: impl Fn(&str) -> bool) -> Option<Error> {
        let unknown =
            self.by_id.iter().filter(|(id, _)| !known(id)).map(|(id, c)| (c.row, format!("`{id}`"))).collect();
        self.named(unknown)
            .map(|rows| Error::user(format!("`{}` corrects answers that are not there: {rows}", self.path.display())))
    }
    /// Text that lists the first few rows; `None` if there are none.
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
    use arrow::array::{Float64Array, UInt8Array};

    fn read(name: &str, text: &str) -> Result<Corrections> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        Corrections::read(&path)
    }
    fn parquet(columns: Vec<(&str, ArrayRef)>) -> Result<Corrections> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fix.parquet");
        crate::store::files::writer::write_parquet(&path, &RecordBatch::try_from_iter(columns).unwrap()).unwrap();
        Corrections::read(&path)
    }
    fn texts(all: &[Option<&str>]) -> ArrayRef {
        Arc::new(StringArray::from(all.to_vec()))
    }

    #[test]
    fn rows_are_read_whatever_the_format() {
        let lines =
            "{\"response_id\": \"a\", \"score\": 4.5, \"who\": \"me\"}\n\n{\"response_id\": \"b\", \"score\": null}\n";
        let csv = "score,note,response_id\n4.5,\"one, two\",a\n,,b\n";
        let scores = || Arc::new(Float64Array::from(vec![Some(4.5), None]));
        let columns = parquet(vec![("score", scores()), ("response_id", texts(&[Some("a"), Some("b")]))]);
        let all = [(read("x.jsonl", lines), 1), (read("x.csv", csv), 2), (columns, 1)];
        for ((all, first), last) in all.into_iter().zip([3, 3, 2]) {
            let all = all.unwrap();
            assert_eq!((all.len(), all.withdrawn()), (2, 1));
            assert_eq!(all.get("a"), Some(Corrected { score: Some(4.5), row: first }));
            assert_eq!(all.get("b"), Some(Corrected { score: None, row: last }));
            assert_eq!(all.get("c"), None);
        }
        let whole = parquet(vec![("response_id", texts(&[Some("a")])), ("score", Arc::new(UInt8Array::from(vec![3])))]);
        assert_eq!(whole.unwrap().get("a"), Some(Corrected { score: Some(3.), row: 1 }));
        assert!(read("x.jsonl", "").unwrap().is_empty());
        assert_eq!(read("x.jsonl", "").unwrap().get("a"), None);
    }

    #[test]
    fn what_is_wrong_is_named_by_file_and_row() {
        for (name, text, says) in [
            ("x.jsonl", "{\"response_id\": \"a\", \"scores\": 4}", "line 1 lacks the key `score`"),
            ("x.jsonl", "{\"response_id\": 3, \"score\": 4}", "line 1 `response_id` is the number 3"),
            ("x.jsonl", "{\"response_id\": \"a\", \"score\": \"4\"}", "line 1 `score` is the text \"4\""),
            ("x.jsonl", "{\"response_id\": \"a\", \"score\": 1e300}", "line 1 `score` is 1e300"),
            ("x.jsonl", "{\"response_id\": \"a\", \"score\": NaN}", "line 1 is not JSON"),
            (
                "x.jsonl",
                "\n{\"response_id\": \"a\", \"score\": 1}\n{\"response_id\": \"a\", \"score\": 1}",
                "line 3 corrects `a` again, which line 2 does",
            ),
            ("x.jsonl", "nonsense", "line 1 is not JSON"),
            ("x.csv", "", "has no column `response_id`"),
            ("x.csv", "response_id,points\na,3\n", "has no column `score`; there are: `response_id`, `points`"),
            ("x.csv", "response_id,score\na,3\nb,4,5\n", "line 3 has 3 fields, the first row has 2"),
            ("x.csv", "response_id,score\na,good\n", "line 2 `score` is `good`"),
            ("x.csv", "response_id,score\na,NaN\n", "line 2 `score` is NaN"),
            ("x.csv", "response_id,score\n,3\n", "line 2 `response_id` is empty"),
            ("x.parquet", "response_id", "damaged"),
        ] {
            let error = read(name, text).unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
            assert_eq!(error.kind(), crate::error::ErrorKind::User, "{error}");
        }
        let floats = |all: &[f64]| -> ArrayRef { Arc::new(Float64Array::from(all.to_vec())) };
        for (columns, says) in [
            (
                vec![("id", texts(&[Some("a")])), ("score", floats(&[1.]))],
                "has no column `response_id`; there are: `id`, `score`",
            ),
            (
                vec![("response_id", texts(&[Some("a")])), ("score", texts(&[Some("4")]))],
                "`score` is Utf8, expected a number",
            ),
            (
                vec![("response_id", texts(&[Some("a"), None])), ("score", floats(&[1., 2.]))],
                "row 2 `response_id` is null",
            ),
            (
                vec![("response_id", texts(&[Some("a"), Some("b")])), ("score", floats(&[1., f64::NAN]))],
                "row 2 `score` is NaN",
            ),
            (
                vec![("response_id", texts(&[Some("a"), Some("a")])), ("score", floats(&[1., 2.]))],
                "row 2 corrects `a` again, which row 1",
            ),
        ] {
            let error = parquet(columns).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn those_that_do_not_fit_a_run_are_named() {
        let all = read("x.csv", "response_id,score\na,3\nb,5.5\nc,\n").unwrap();
        let error = all.unknown(|id| id == "a").unwrap().to_string();
        assert!(error.contains("line 3 `b`, line 4 `c`"), "{error}");
        assert!(all.unknown(|_| true).is_none());
        let error = all.outside(0., 5.).unwrap().to_string();
        assert!(error.contains("not on the judge's scale: line 3 5.5"), "{error}");
        assert!(all.outside(3., 6.).is_none());
    }

    /// Whether an id has a correction does not depend on how ids are told apart.
    #[test]
    fn ids_of_any_kind_are_found() {
        let ids: Vec<String> = (0..2000)
            .map(|i| match i % 3 {
                0 => crate::data::hash_hex([i.to_string()]),
                1 => format!("{i}"),
                _ => format!("an answer with the number {i} and the same end"),
            })
            .collect();
        let lines: String =
            ids.iter().step_by(2).map(|id| format!("{{\"response_id\": \"{id}\", \"score\": 1}}\n")).collect();
        let all = read("x.jsonl", &lines).unwrap();
        for (i, id) in ids.iter().enumerate() {
            assert_eq!((all.get(id).is_some(), all.has(id.as_bytes())), (i % 2 == 0, i % 2 == 0), "{id}");
        }
    }
}
