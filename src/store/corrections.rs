//! Corrections as data: new scores by response id, and the folder that what comes of them is written to.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use serde_json::Value;

use super::atomic::{create_dirs, io_error, sync_dir};
use super::jsonl::{Lines, spell};
use super::listing::is;
use super::reader::{ParquetIn, guarded};
use super::sweep::{remove_dir, sync_tree};
use crate::error::{Error, Result};

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
        if narrow.is_some_and(|s| !s.is_finite()) {
            return Err(self.bad(row, "`score` does not fit in 32 bits"));
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
    /// An error that names those of them, by row, for which nothing is `known`; none if all are.
    pub fn unknown(&self, known: impl Fn(&str) -> bool) -> Option<Error> {
        let mut unknown: Vec<(u64, &str)> =
            self.by_id.iter().filter(|(id, _)| !known(id)).map(|(id, c)| (c.row, id.as_str())).collect();
        unknown.sort_unstable();
        let unit = self.unit();
        let mut shown: Vec<String> = unknown.iter().take(10).map(|(row, id)| format!("{unit} {row} `{id}`")).collect();
        if unknown.len() > 10 {
            shown.push(format!("and {} more", unknown.len() - 10));
        }
        let error = || {
            Error::user(format!("`{}` corrects answers that are not there: {}", self.path.display(), shown.join(", ")))
        };
        (!unknown.is_empty()).then(error)
    }
}

/// Makes the folder `target`, which appears whole or not at all: `fill` is given an empty one beside it.
///
/// # Errors
/// Something stands there; what `fill` returns; a full disk.
pub fn make_folder<T>(target: &Path, fill: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let name = target.file_name().and_then(|n| n.to_str());
    let name = name.ok_or_else(|| Error::user(format!("`{}` does not name a folder", target.display())))?;
    let there = || {
        Error::user(format!("`{}` is there already", target.display()))
            .help("give another folder with --into, or remove it")
    };
    if fs::symlink_metadata(target).is_ok() {
        return Err(there());
    }
    let parent = target.parent().unwrap_or(Path::new(""));
    create_dirs(parent)?;
    let temporary = parent.join(format!(".{name}.{}.tmp", std::process::id()));
    remove_dir(&temporary)?;
    create_dirs(&temporary)?;
    let made = fill(&temporary).and_then(|made| sync_tree(&temporary).map(|()| made));
    let made = made.inspect_err(|_| drop(fs::remove_dir_all(&temporary)))?;
    if let Err(e) = fs::rename(&temporary, target) {
        let _ = fs::remove_dir_all(&temporary); // the error at hand says more than a second one
        return Err(if fs::symlink_metadata(target).is_ok() { there() } else { io_error("renaming to", target, &e) });
    }
    sync_dir(parent)?;
    Ok(made)
}

/// The same file under another name: a link where the file system has them, else a copy. Files of a run are never changed in
/// place.
///
/// # Errors
/// It cannot be read, or the disk is full.
pub fn link(from: &Path, to: &Path) -> Result<()> {
    create_dirs(to.parent().unwrap_or(Path::new("")))?;
    fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(drop)).map_err(|e| io_error("copying to", to, &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Corrections> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fix.jsonl");
        fs::write(&path, text).unwrap();
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
            ("{\"response_id\": \"a\", \"score\": 1e300}", "line 1 `score` does not fit"),
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

    #[test]
    fn a_folder_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("x/new");
        let write = |d: &Path| fs::write(d.join("a"), "1").map_err(|e| Error::system(e.to_string()));
        assert!(make_folder(&target, |d| write(d).and_then(|()| Err::<(), _>(Error::user("no")))).is_err());
        assert_eq!(fs::read_dir(dir.path().join("x")).unwrap().count(), 0);
        make_folder(&target, write).unwrap();
        assert!(make_folder(&target, write).unwrap_err().to_string().contains("there already"));
        assert_eq!(fs::read_dir(dir.path().join("x")).unwrap().count(), 1);
    }
}
