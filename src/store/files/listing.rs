//! Files of a dataset and their reading order.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Whether a path has this extension, in upper or lower case.
pub(crate) fn is(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension))
}

/// Whether a path has this extension, possibly followed by `.gz`.
pub(crate) fn holds(path: &Path, extension: &str) -> bool {
    if is(path, "gz") { is(&path.with_extension(""), extension) } else { is(path, extension) }
}

/// Whether a file's extension is one that [`crate::store::Dataset`], [`crate::store::PromptReader`] and
/// [`crate::store::import()`] read.
pub fn is_data_file(path: &Path) -> bool {
    READ.iter().any(|extension| is(path, extension))
}

/// The name without extensions of data files.
pub(crate) fn without_extensions(name: &Path) -> PathBuf {
    let mut stem = name.to_owned();
    while is_data_file(&stem) {
        stem.set_extension("");
    }
    stem
}

/// Extensions of data files. Of a folder, only .parquet and .jsonl files are read.
const READ: [&str; 6] = ["parquet", "jsonl", "json", "gz", "csv", "txt"];

/// Sort key of a path in the reading order. Digits are compared as numbers, so that `iteration=10` comes
/// after `iteration=2`.
fn order(path: &Path) -> Vec<Vec<(String, u64)>> {
    let part = |part: &std::ffi::OsStr| {
        let text = part.to_string_lossy();
        let mut pieces: Vec<(String, u64)> = Vec::new();
        for run in text.split_inclusive(|c: char| !c.is_ascii_digit()) {
            // A run consists of digits and at most one other character, which begins the next piece's text.
            let digits = run.trim_end_matches(|c: char| !c.is_ascii_digit());
            if let (Some(last), Ok(n)) = (pieces.last_mut(), digits.parse()) {
                last.1 = n;
                pieces.push((run[digits.len()..].to_owned(), 0));
            } else if let Some(last) = pieces.last_mut() {
                last.0.push_str(run);
            } else {
                let n = digits.parse().unwrap_or(0);
                pieces.extend([(String::new(), n), (run[digits.len()..].to_owned(), 0)]);
            }
        }
        pieces
    };
    path.iter().map(part).collect()
}

/// The data files at `path`, in reading order, without JSONL files that have a Parquet twin.
pub(crate) fn files(path: &Path) -> Result<Vec<PathBuf>> {
    let missing = |e: &std::io::Error| {
        Error::user(format!("no dataset found at `{}`: {e}", path.display()))
            .help("give a .parquet, .jsonl, .csv or .txt file, or a directory of .parquet and .jsonl files; relative paths start where reflux runs")
    };
    let kind = std::fs::metadata(path).map_err(|e| missing(&e))?;
    if kind.is_file() {
        return if is_data_file(path) {
            Ok(vec![path.to_owned()])
        } else {
            Err(Error::user(format!("`{}` is none of {}", path.display(), READ.map(|e| format!(".{e}")).join(", ")))
                .help("convert it, or rename it if it is one of them"))
        };
    }
    if !kind.is_dir() {
        // Returns the error for a file that is not regular.
        super::open::open_regular(path)?;
    }
    let mut found = Vec::new();
    collect(path, 8, &mut found).map_err(|e| super::io_error::io_error("listing", path, &e))?;
    let parquet: std::collections::BTreeSet<PathBuf> = found.iter().filter(|f| is(f, "parquet")).cloned().collect();
    found.retain(|f| is(f, "parquet") || !parquet.contains(&f.with_extension("parquet")));
    found.sort_by_cached_key(|f| (order(f), f.clone()));
    if found.is_empty() {
        return Err(Error::user(format!("the directory `{}` holds no .parquet or .jsonl file", path.display())));
    }
    Ok(found)
}

/// Collects data files below `dir`, at most `depth` levels down, without hidden files and `_markers`.
fn collect(dir: &Path, depth: u32, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(['.', '_']) {
            continue;
        }
        if path.is_dir() {
            if depth > 0 {
                collect(&path, depth - 1, found)?;
            }
        } else if is(&path, "parquet") || is(&path, "jsonl") {
            found.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_in_the_order_of_their_numbers() {
        let sorted = [
            "d/a.parquet",
            "d/iteration=2/microbatch=00001.parquet",
            "d/iteration=2/microbatch=99999.parquet",
            "d/iteration=2/microbatch=100000.parquet",
            "d/iteration=10/microbatch=00000.parquet",
            "d/part-2.parquet",
            "d/part-10-of-11.parquet",
        ];
        let mut paths: Vec<PathBuf> = sorted.iter().rev().map(PathBuf::from).collect();
        paths.sort_by_cached_key(|p| order(p));
        assert_eq!(paths, sorted.map(PathBuf::from));
    }
}
