//! What is looked at while an external trainer runs, and once it has ended: its last report, and whether it left alone
//! what it must not change.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::reported::{metric_values, metrics_of};
use crate::data::open_regular;
use crate::operators::shared::prelude::*;

/// Time between two looks at the reports.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Bytes of reports that are read in one look; what is older is in the metrics at the end.
const MAX_LOOK: u64 = 64 << 10;

/// The reports of a trainer that runs.
pub(crate) struct LiveReports<'a> {
    path: &'a Path,
    /// How much of the file was looked at.
    seen: u64,
    due: Instant,
}

impl<'a> LiveReports<'a> {
    pub fn new(path: &'a Path) -> Self {
        Self { path, seen: 0, due: Instant::now() }
    }

    /// Returns the metrics of the last report that is new, at most once a second. Whatever is wrong with the file is
    /// told when the trainer has ended.
    pub fn newest(&mut self) -> Option<Vec<(&'static str, Option<f64>)>> {
        if Instant::now() < self.due {
            return None;
        }
        self.due = Instant::now() + LOOK_INTERVAL;
        let mut file = open_regular(self.path).ok()?;
        let length = file.metadata().ok()?.len();
        if length == self.seen {
            return None;
        }
        let text = tail(&mut file, length).ok()?;
        // The last line may be half written.
        let (lines, _) = text.rsplit_once('\n')?;
        self.seen = length;
        lines.lines().rev().find_map(|line| metric_values(metrics_of(line.as_bytes()).ok()?))
    }
}

fn tail(file: &mut File, length: u64) -> std::io::Result<String> {
    file.seek(SeekFrom::Start(length.saturating_sub(MAX_LOOK)))?;
    let mut bytes = Vec::new();
    file.take(MAX_LOOK).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Sizes and times of the files in a folder.
pub(crate) struct FolderState(Vec<(PathBuf, u64, SystemTime)>);

impl FolderState {
    /// # Errors
    /// The folder or a file in it cannot be read.
    pub fn read(dir: &Path) -> Result<Self> {
        let state = || -> std::io::Result<Vec<_>> {
            let mut files = Vec::new();
            for entry in fs::read_dir(dir)? {
                let path = entry?.path();
                let metadata = fs::metadata(&path)?;
                if metadata.is_file() {
                    files.push((path, metadata.len(), metadata.modified()?));
                }
            }
            files.sort();
            Ok(files)
        };
        state().map(Self).doing(|| dir.display())
    }

    /// Returns a file that is not as it was, if there is one. A new file is not looked at.
    pub fn changed(&self, now: &Self) -> Option<&Path> {
        self.0.iter().find(|file| !now.0.contains(file)).map(|(path, ..)| path.as_path())
    }
}

/// Checks that a trainer left a folder of its own files: no link leads out of it, and nothing in it is a pipe or a
/// device, which could not be read to an end.
///
/// # Errors
/// Words on what it left instead.
pub(crate) fn check_output(output: &Path) -> std::result::Result<(), String> {
    let unreadable = |e: std::io::Error| format!("it cannot be read: {e}");
    if !fs::symlink_metadata(output).map_err(unreadable)?.is_dir() {
        return Err("it is a file or a link, and no longer the folder that the trainer was given".into());
    }
    let inside = output.canonicalize().map_err(unreadable)?;
    for entry in fs::read_dir(output).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let real = path.canonicalize().map_err(|e| format!("`{name}` cannot be read: {e}"))?;
        if !real.starts_with(&inside) {
            return Err(format!("`{name}` is a link to {}, out of the folder", real.display()));
        }
        let kind = fs::metadata(&real).map_err(|e| format!("`{name}` cannot be read: {e}"))?;
        if !kind.is_file() && !kind.is_dir() {
            return Err(format!("`{name}` is a pipe or a device"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn the_newest_whole_report_is_seen_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut live = LiveReports::new(&path);
        let mut look = || {
            live.due = Instant::now();
            live.newest()
        };
        assert_eq!(look(), None);
        let mut file = File::create(&path).unwrap();
        let long = format!("{{\"note\": \"{}\"}}\n", "x".repeat(100_000));
        let text = "{\"step\": 1, \"loss\": 0.5}\n{\"step\": 2, \"loss\": 0.25}\nNaN\n{\"step\": 3, \"lo";
        file.write_all((long + text).as_bytes()).unwrap();
        assert_eq!(look(), Some(vec![("step", Some(2.)), ("loss", Some(0.25))]));
        assert_eq!(look(), None);
        file.write_all(b"ss\": 1e-3}\n").unwrap();
        assert_eq!(look(), Some(vec![("step", Some(3.)), ("loss", Some(1e-3))]));
        File::create(&path).unwrap().write_all(b"{\"step\": 1, \"loss\": 7}\n").unwrap();
        assert_eq!(look(), Some(vec![("step", Some(1.)), ("loss", Some(7.))]));
    }
}
