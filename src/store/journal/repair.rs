//! Going back to a run's last good point: the manifest is written anew without the lines that are named, the old one is kept
//! beside it, and the next start of the run sweeps away the files that no line names any more.

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
use crate::data::{read_regular, read_text};
use crate::error::{Error, Result};
use crate::store::files::atomic::write_bytes;
use crate::store::files::io_error::io_error;

/// What a repair did.
#[derive(Debug, Default)]
pub struct Repaired {
    /// The name under which the old manifest is kept, if it changed.
    pub kept: Option<String>,
    /// Whether `pipeline.toml` lost the settings that decide no rows.
    pub settings_lost: bool,
}

/// The right to repair a run: while it lives, nobody else writes the run.
#[derive(Debug)]
pub struct Repair {
    dir: PathBuf,
    _lock: Lock,
}

impl Repair {
    /// Takes the lock of the run in `dir`.
    ///
    /// # Errors
    /// There is no run; another process writes it; the directory cannot be written.
    pub fn begin(dir: &Path) -> Result<Self> {
        if !dir.join("manifest.jsonl").is_file() {
            return Err(no_run(dir));
        }
        let place = dir.join("lock");
        // What is no file of the run's own holds no lock, so nobody can hold it.
        if fs::symlink_metadata(&place).is_ok_and(|there| !there.is_file() && !there.is_symlink()) {
            set_aside(&place)?;
        }
        let (lock, _) = Lock::take(dir)?;
        Ok(Self { dir: dir.to_owned(), _lock: lock })
    }

    /// Takes the lines numbered in `goes` out of the manifest, and removes damaged checkpoints. A first line that cannot be
    /// read is written again for `pipeline.toml` and `seed`.
    ///
    /// # Errors
    /// A full disk: then the manifest is what it was. As [`Repair::check`]: then nothing was changed.
    pub fn apply(&self, found: &Inspected, goes: &BTreeSet<usize>, seed: Option<u64>) -> Result<Repaired> {
        // What cannot be read may be as it should be: nothing is taken out on a guess.
        if let Some(finding) = found.findings.iter().find(|f| f.unreadable) {
            let file = self.dir.join(&finding.path);
            return Err(Error::system(format!("`{}`: {}; nothing was repaired", file.display(), finding.why)).help(
                "let it be read (its permissions, the limit of open files, the disk), and give the same command again",
            ));
        }
        // Before anything is changed.
        let first_line = first_line(found, seed)?;
        for finding in &found.findings {
            if let Artifact::Checkpoint(path) = &finding.thing {
                checkpoint_files::remove_state(&self.dir.join(path))?;
            }
        }
        for (_, entry) in found.entries().filter(|(number, _)| goes.contains(number)) {
            self.clear_places(entry)?;
        }
        let settings_lost = self.beside(found)?;
        if goes.is_empty() && first_line.is_none() {
            return Ok(Repaired { kept: None, settings_lost });
        }
        let mut bytes = Vec::new();
        for line in found.lines.iter().filter(|l| l.number == 1 || !goes.contains(&l.number)) {
            match &first_line {
                Some(first_line) if line.number == 1 => bytes.extend(first_line),
                _ => bytes.extend(still_taken(line, goes)?.unwrap_or_else(|| line.bytes.clone())),
            }
        }
        let path = self.dir.join("manifest.jsonl");
        let before = read_regular(&path).map_err(|e| io_error("reading", &path, &e))?;
        let names = (1u32..).map(|n| format!("{MANIFEST_BACKUP}{n}.jsonl"));
        let free = names.into_iter().find(|name| !self.dir.join(name).exists()).unwrap_or_default();
        write_bytes(&self.dir.join(&free), &before)?;
        write_bytes(&path, &bytes)?;
        Ok(Repaired { kept: Some(free), settings_lost })
    }

    /// Whether a run that may be damaged can be repaired.
    ///
    /// # Errors
    /// The first line is damaged, and so is `pipeline.toml`, or it gives no seed.
    pub fn check(found: &Inspected, seed: Option<u64>) -> Result<()> {
        first_line(found, seed).map(drop)
    }

    /// Makes room for files that the next run writes again, and writes what is left of a damaged `pipeline.toml`. Returns whether
    /// settings of it were lost.
    fn beside(&self, found: &Inspected) -> Result<bool> {
        let damaged = |thing: Artifact| found.findings.iter().any(|f| f.thing == thing);
        for (thing, name) in [(Artifact::Summary, "summary.json"), (Artifact::Pipeline, pipeline_file::NAME)] {
            let place = self.dir.join(name);
            if damaged(thing) && fs::symlink_metadata(&place).is_ok_and(|there| !there.is_file()) {
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

    /// Makes room where a line's files are to be made again.
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
                // What is not the run's goes out of the way and stays.
                if fs::symlink_metadata(&place).is_ok() { set_aside(&place) } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }

    /// Removes a damaged file that the manifest names. A whole one stays, for whoever wants the manifest back as it was: the next
    /// run takes it away.
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

/// The first line to write in place of a damaged one; `None` if it is not damaged. Only a pipeline file that is whole by its own
/// hash says what the run is: the new line makes whatever the file has the run's own.
fn first_line(found: &Inspected, seed: Option<u64>) -> Result<Option<Vec<u8>>> {
    if found.findings.iter().all(|f| f.thing != Artifact::Line(1)) {
        return Ok(None);
    }
    let text = read_text(&found.dir.join(pipeline_file::NAME)).ok();
    let Some(text) = text.filter(|text| pipeline_file::check_alone(text).is_ok()) else {
        return Err(Error::user(
            "the manifest's first line and pipeline.toml are both damaged: nothing says what the run is",
        )
        .help("`reflux run` of its pipeline file with --fresh starts it anew"));
    };
    let seed = seed.ok_or_else(|| {
        Error::user("the manifest's first line is damaged, and this reflux does not understand the run's pipeline.toml")
            .help("use the reflux that made the run, or start it anew with `reflux run` and --fresh")
    })?;
    let (reflux, pipeline) = (env!("CARGO_PKG_VERSION").to_owned(), pipeline_hash(&text, FORMAT));
    Entry::Run { format: FORMAT, reflux, pipeline, seed }.to_line().map(Some)
}

/// The line of a replay that says how many of the next lines it took over, without those that go; `None` for other lines.
fn still_taken(line: &Line, goes: &BTreeSet<usize>) -> Result<Option<Vec<u8>>> {
    let Ok(Entry::Taken(taken)) = &line.entry else { return Ok(None) };
    let last = line.number.saturating_add(usize::try_from(taken.entries).unwrap_or(usize::MAX));
    let going = goes.range(line.number + 1..=last.max(line.number + 1)).filter(|n| **n <= last).count();
    let entries = taken.entries.saturating_sub(going as u64);
    Entry::Taken(Taken { entries, ..taken.clone() }).to_line().map(Some)
}

/// Gives something that stands in the way another name beside it: `NAME.aside-1` and so on.
fn set_aside(path: &Path) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut names = (1u32..).map(|n| path.with_file_name(format!("{name}.aside-{n}")));
    let free = names.find(|p| fs::symlink_metadata(p).is_err());
    let free = free.ok_or_else(|| Error::bug("no name is free"))?;
    fs::rename(path, &free).map_err(|e| io_error("renaming to", &free, &e))
}
