//! `summary.json`: the final figures of a run, with a hash of the file's own text. The manifest does not list
//! it, because it contains the duration of the run; everything else in it can be recomputed from committed
//! files.

use std::io::ErrorKind;
use std::path::Path;

use serde_json::Value;

use crate::data::read_text;
use crate::error::{Error, Result};
use crate::store::files::atomic::write_bytes;
use crate::store::files::integrity::FileProblem;

const NAME: &str = "summary.json";
/// Start of the line with the hash of all other lines.
const HASH_LINE: &str = "  \"blake3\": \"";

fn hash_of(lines: &[&str]) -> String {
    let mut hasher = blake3::Hasher::new();
    for line in lines {
        hasher.update(line.as_bytes());
        hasher.update(b"\n");
    }
    hasher.finalize().to_hex().to_string()
}

/// Writes the summary of the run in `dir`.
///
/// # Errors
/// The summary is not a JSON object (a bug); the disk is full.
pub(crate) fn write(dir: &Path, summary: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(summary).map_err(|e| Error::bug(format!("{NAME}: {e}")))?;
    let mut lines: Vec<&str> = text.lines().collect();
    if lines.len() < 2 || lines[0] != "{" {
        return Err(Error::bug("a summary is an object with keys"));
    }
    let line = format!("{HASH_LINE}{}\",", hash_of(&lines));
    // Inserted after the opening brace, so that the file stays one JSON object.
    lines.insert(1, &line);
    write_bytes(&dir.join(NAME), (lines.join("\n") + "\n").as_bytes()).map(drop)
}

/// Reads and checks the summary of the run in `dir`. A summary of an earlier version has no hash and only has
/// to be valid JSON.
///
/// # Errors
/// What is wrong with the file; `None` if it does not exist.
pub(crate) fn read(dir: &Path) -> Result<Value, Option<FileProblem>> {
    let text = match read_text(&dir.join(NAME)) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Err(None),
        Err(e) if e.kind() == ErrorKind::InvalidData => {
            return Err(Some(FileProblem::Damaged("it is not UTF-8 text".to_owned())));
        }
        Err(e) => return Err(Some(FileProblem::from_io(&e))),
        Ok(text) => text,
    };
    let summary: Value =
        serde_json::from_str(&text).map_err(|e| Some(FileProblem::Damaged(format!("it is not JSON: {e}"))))?;
    let (hash, rest): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.starts_with(HASH_LINE));
    let named = hash.first().and_then(|line| line.strip_prefix(HASH_LINE)?.strip_suffix("\","));
    match named {
        Some(named) if named != hash_of(&rest) => {
            Err(Some(FileProblem::Damaged("its content is not what the run wrote".to_owned())))
        }
        _ => Ok(summary),
    }
}

/// As [`read`], without the content.
///
/// # Errors
/// As [`read`].
pub(crate) fn check(dir: &Path) -> Result<(), Option<FileProblem>> {
    read(dir).map(drop)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn every_change_of_a_summary_is_found() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(check(dir.path()), Err(None));
        let summary = serde_json::json!({ "rows": 12, "seconds": 0.1, "steps": [1, 2] });
        write(dir.path(), &summary).unwrap();
        assert_eq!(check(dir.path()), Ok(()));
        let path = dir.path().join(NAME);
        let text = fs::read_to_string(&path).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&value["rows"], &value["steps"]), (&summary["rows"], &summary["steps"]));
        fs::write(&path, text.replace("12", "13")).unwrap();
        assert!(
            matches!(check(dir.path()), Err(Some(FileProblem::Damaged(why))) if why.contains("not what the run wrote"))
        );
        fs::write(&path, &text[..text.len() / 2]).unwrap();
        assert!(matches!(check(dir.path()), Err(Some(FileProblem::Damaged(why))) if why.contains("not JSON")));
        // As an earlier version wrote it.
        fs::write(&path, summary.to_string()).unwrap();
        assert_eq!(check(dir.path()), Ok(()));
    }
}
