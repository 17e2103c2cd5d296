//! Repair of a run to its last consistent state. The manifest is rewritten without the given lines, the old
//! one is kept as a backup, and the next start of the run removes the files that no line lists any more.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::checkpoint_files;
use super::entry::{Entry, FORMAT, Taken};
use super::find::no_run;
use super::findings::{Artifact, Inspected};
use super::gc::remove_model;
use super::lock::Lock;
use super::manifest::Line;
use super::owned::{created_by_us, remove_file};
use super::paths::MANIFEST_BACKUP;
use super::pipeline_file::{self, pipeline_hash};
use super::reply_files;
use crate::data::{read_regular, read_text};
use crate::error::{Error, Result};
use crate::store::files::atomic::write_bytes;
use crate::store::files::io_error::io_error;

/// Result of a repair.
#[derive(Debug, Default)]
pub struct Repaired {
    /// Name of the old manifest's backup, if the manifest changed.
    pub kept: Option<String>,
    /// Whether `pipeline.toml` lost settings that do not determine rows.
    pub settings_lost: bool,
}

/// Exclusive access to a run that is being repaired. No other process can write the run until this is
/// dropped.
#[derive(Debug)]
pub struct Repair {
    dir: PathBuf,
    _lock: Lock,
}

impl Repair {
    /// Acquires the lock of the run in `dir`.
    ///
    /// # Errors
    /// No run found; another process is writing it; the directory cannot be written.
    pub fn begin(dir: &Path) -> Result<Self> {
        if !dir.join("manifest.jsonl").is_file() {
            return Err(no_run(dir));
        }
        let place = dir.join("lock");
        // A lock that is not a regular file of the run cannot be locked, so no process can hold it.
        if fs::symlink_metadata(&place).is_ok_and(|there| !there.is_file() && !there.is_symlink()) {
            set_aside(&place)?;
        }
        let (lock, _) = Lock::acquire(dir)?;
        Ok(Self { dir: dir.to_owned(), _lock: lock })
    }

    /// Removes the lines with the numbers in `removed` from the manifest, and damaged checkpoints and lines
    /// of replies from the disk. Wrong bits of lines are corrected, and a first line that cannot be parsed is rewritten from
    /// `pipeline.toml` and `seed`.
    ///
    /// # Errors
    /// The disk is full, and the manifest is unchanged. As [`Repair::check`], and nothing is changed.
    pub fn apply(&self, found: &Inspected, removed: &BTreeSet<usize>, seed: Option<u64>) -> Result<Repaired> {
        // An unreadable file may be intact: nothing is removed on a guess.
        if let Some(finding) = found.findings.iter().find(|f| f.unreadable) {
            let file = self.dir.join(&finding.path);
            return Err(Error::system(format!("`{}`: {}; nothing was repaired", file.display(), finding.why)).help(
                "let it be read (its permissions, the limit of open files, the disk), and give the same command again",
            ));
        }
        // Checked before anything is changed.
        let first_line = first_line(found, seed)?;
        for finding in &found.findings {
            match &finding.artifact {
                Artifact::Checkpoint(path) => checkpoint_files::remove_state(&self.dir.join(path))?,
                Artifact::Replies(path) => reply_files::drop_damaged(&self.dir, path)?,
                _ => {}
            }
        }
        // Files are cleared before their lines are removed, because the lines name them.
        for (_, entry) in found.entries().filter(|(number, _)| removed.contains(number)) {
            self.clear_places(entry)?;
        }
        let settings_lost = self.repair_other_files(found)?;
        let restored = found.lines.iter().any(|line| line.restored);
        if removed.is_empty() && first_line.is_none() && !restored {
            return Ok(Repaired { kept: None, settings_lost });
        }
        let mut bytes = Vec::new();
        for line in found.lines.iter().filter(|l| l.number == 1 || !removed.contains(&l.number)) {
            match &first_line {
                Some(first_line) if line.number == 1 => bytes.extend(first_line),
                _ => bytes.extend(fork_line_without(line, removed)?.unwrap_or_else(|| line.bytes.clone())),
            }
        }
        let path = self.dir.join("manifest.jsonl");
        let before = read_regular(&path).map_err(|e| io_error("reading", &path, &e))?;
        let names = (1u32..).map(|n| format!("{MANIFEST_BACKUP}{n}.jsonl"));
        let free = names.into_iter().find(|name| !self.dir.join(name).exists()).unwrap_or_default();
        // The backup is written first, so that a crash between the two writes loses nothing.
        write_bytes(&self.dir.join(&free), &before)?;
        write_bytes(&path, &bytes)?;
        Ok(Repaired { kept: Some(free), settings_lost })
    }

    /// Checks whether a damaged run can be repaired.
    ///
    /// # Errors
    /// The first line is damaged, and so is `pipeline.toml`, or it gives no seed.
    pub fn check(found: &Inspected, seed: Option<u64>) -> Result<()> {
        first_line(found, seed).map(drop)
    }

    /// Moves away what is in place of files that the next run rewrites, and reconstructs a damaged
    /// `pipeline.toml`. Returns whether settings were lost.
    fn repair_other_files(&self, found: &Inspected) -> Result<bool> {
        let damaged = |artifact: Artifact| found.findings.iter().any(|f| f.artifact == artifact);
        for (artifact, name) in [(Artifact::Summary, "summary.json"), (Artifact::Pipeline, pipeline_file::NAME)] {
            let place = self.dir.join(name);
            if damaged(artifact) && fs::symlink_metadata(&place).is_ok_and(|there| !there.is_file()) {
                set_aside(&place)?;
            }
        }
        match found.entries().next() {
            Some((1, Entry::Run { pipeline, format, .. })) if damaged(Artifact::Pipeline) => {
                pipeline_file::salvage(&self.dir, pipeline, *format)
            }
            _ => Ok(false),
        }
    }

    /// Makes room for the files of a removed line, which are written again.
    fn clear_places(&self, entry: &Entry) -> Result<()> {
        match entry {
            Entry::File(f) => {
                self.clear_file(&f.path)?;
                f.errors.iter().try_for_each(|e| self.clear_file(&e.path))
            }
            Entry::Metrics(m) => self.clear_file(&m.path),
            Entry::Model(m) => {
                let place = self.dir.join(&m.path);
                remove_model(&self.dir, m)?;
                // A user's file is moved out of the way and kept.
                if fs::symlink_metadata(&place).is_ok() { set_aside(&place) } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }

    /// Removes a damaged file that the manifest lists. An intact one stays, in case somebody restores the old
    /// manifest; the next run removes it.
    fn clear_file(&self, path: &str) -> Result<()> {
        let file = self.dir.join(path);
        match fs::symlink_metadata(&file) {
            Err(_) => Ok(()),
            Ok(there) if there.is_file() && created_by_us(&file) => Ok(()),
            Ok(there) if there.is_file() => remove_file(&file),
            Ok(_) => set_aside(&file),
        }
    }
}

/// The first line that replaces a damaged one; `None` if it is intact. It is only rebuilt from a pipeline
/// file that is intact by its own hash, because the new line vouches for whatever the file contains.
fn first_line(found: &Inspected, seed: Option<u64>) -> Result<Option<Vec<u8>>> {
    if found.findings.iter().all(|f| f.artifact != Artifact::Line(1)) {
        return Ok(None);
    }
    let text = read_text(&found.dir.join(pipeline_file::NAME)).ok();
    let Some(text) = text.filter(|text| pipeline_file::check_alone(text).is_ok()) else {
        return Err(Error::user(
            "the manifest's first line and pipeline.toml are both damaged: nothing says what the run is",
        )
        .help("`reflux run` of its pipeline file with --fresh starts it over"));
    };
    let seed = seed.ok_or_else(|| {
        Error::user("the manifest's first line is damaged, and this reflux does not understand the run's pipeline.toml")
            .help("use the reflux that made the run, or start the run over with `reflux run` and --fresh")
    })?;
    let (reflux, pipeline) = (env!("CARGO_PKG_VERSION").to_owned(), pipeline_hash(&text, FORMAT));
    Entry::Run { format: FORMAT, reflux, pipeline, seed }.to_line().map(Some)
}

/// The fork line of a replayed run with its count reduced by the removed lines; `None` for other lines.
fn fork_line_without(line: &Line, removed: &BTreeSet<usize>) -> Result<Option<Vec<u8>>> {
    let Ok(Entry::Taken(taken)) = &line.entry else { return Ok(None) };
    let last = line.number.saturating_add(usize::try_from(taken.entries).unwrap_or(usize::MAX));
    let going = removed.range(line.number + 1..=last.max(line.number + 1)).filter(|n| **n <= last).count();
    let entries = taken.entries.saturating_sub(going as u64);
    Entry::Taken(Taken { entries, ..taken.clone() }).to_line().map(Some)
}

/// Renames a file or directory that is in the way to `NAME.aside-1` and so on.
fn set_aside(path: &Path) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut names = (1u32..).map(|n| path.with_file_name(format!("{name}.aside-{n}")));
    let free = names.find(|p| fs::symlink_metadata(p).is_err());
    let free = free.ok_or_else(|| Error::bug("no name is free"))?;
    fs::rename(path, &free).map_err(|e| io_error("renaming to", &free, &e))
}
