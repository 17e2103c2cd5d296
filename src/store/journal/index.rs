//! What a run's manifest says, by key, and where its files are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::compact_entry::CompactEntry;
use super::inputs::InputEntry;
use super::manifest::{Entry, FileEntry, MetricsEntry, ModelEntry, Stored, Taken};
use super::run::RunHeader;
use crate::data::{Epoch, quoted};
use crate::error::{Error, Result};
use crate::store::files::atomic::Written;
use crate::store::files::atomic::Wrong;

/// What the manifest says, by key.
#[derive(Default, Debug)]
pub(crate) struct Index {
    pub files: BTreeMap<String, BTreeMap<Epoch, CompactEntry>>,
    pub models: BTreeMap<String, ModelEntry>,
    pub metrics: BTreeMap<(String, u32), MetricsEntry>,
    pub finished_steps: BTreeSet<(String, u32)>,
    pub dropped: BTreeSet<String>,
    /// The steps in the order of their first lines: none comes before what it was made from.
    pub order: Vec<String>,
    pub finished: bool,
    /// Lines for which [`Entry::is_content`] holds.
    pub lines: u64,
    /// The first line.
    pub begun: Option<RunHeader>,
    /// External inputs, by table and key of the pipeline file.
    pub inputs: BTreeMap<(String, String), InputEntry>,
    /// Where a replayed run has its first files from.
    pub taken: Option<Taken>,
}

impl Index {
    /// Takes in the manifest's next line.
    pub fn add(&mut self, entry: Entry) {
        self.lines += u64::from(entry.is_content());
        match entry {
            Entry::Run { format, pipeline, seed, .. } => self.begun = Some(RunHeader { format, pipeline, seed }),
            Entry::Taken(taken) => self.taken = Some(taken),
            Entry::Input(input) => drop(self.inputs.insert((input.table.clone(), input.key.clone()), input)),
            Entry::File(f) => {
                if !self.files.contains_key(&f.step) {
                    self.order.push(f.step.clone());
                }
                let kept = CompactEntry::of(&f);
                self.files.entry(f.step).or_default().insert(Epoch::new(f.iteration, f.microbatch), kept);
            }
            Entry::Model(m) => drop(self.models.insert(m.name.clone(), m)),
            Entry::Metrics(m) => drop(self.metrics.insert((m.step.clone(), m.iteration), m)),
            Entry::Finished { step: Some(step), iteration, .. } => {
                self.finished_steps.insert((step, iteration.unwrap_or(0)));
            }
            Entry::Finished { step: None, .. } => self.finished = true,
            Entry::Dropped { step } => drop(self.dropped.insert(step)),
        }
    }

    /// The committed file of a step's microbatch.
    pub fn file(&self, step: &str, epoch: Epoch) -> Option<FileEntry> {
        Some(self.files.get(step)?.get(&epoch)?.entry(step, epoch))
    }
    /// The committed files of a step, by epoch.
    pub fn files_of(&self, step: &str) -> Vec<FileEntry> {
        let files = self.files.get(step);
        files.into_iter().flatten().map(|(&epoch, kept)| kept.entry(step, epoch)).collect()
    }
    /// Every committed file, by step and epoch.
    pub fn every_file(&self) -> impl Iterator<Item = FileEntry> {
        self.files.iter().flat_map(|(step, files)| files.iter().map(|(&epoch, kept)| kept.entry(step, epoch)))
    }

    /// Every file that is to be there.
    pub fn paths(&self, dir: &Path) -> BTreeSet<PathBuf> {
        let rows = self.every_file().filter(|f| !self.dropped.contains(&f.step)).map(|f| f.path);
        let errors = self.every_file().filter_map(|f| Some(f.errors?.path));
        rows.chain(errors).chain(self.metrics.values().map(|m| m.path.clone())).map(|path| dir.join(path)).collect()
    }
}

/// A name that is to be part of a path.
pub(crate) fn check_name(what: &str, name: &str) -> Result<()> {
    let fine = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > 120 || name.starts_with('.') || !name.chars().all(fine) {
        return Err(Error::user(format!("`{name}` cannot be the name of a {what}"))
            .help("use letters, digits, `-`, `_` and `.`, at most 120 bytes, not beginning with `.`"));
    }
    Ok(())
}

/// Where the rows of a microbatch are.
pub(crate) fn data_path(step: &str, epoch: Epoch) -> String {
    format!("data/{step}/iteration={}/microbatch={:05}.parquet", epoch.iteration, epoch.microbatch)
}
/// Where the rows that failed are. Not Hive-style: the rows themselves have the columns step, iteration and microbatch, and readers refuse both.
pub(crate) fn errors_path(step: &str, epoch: Epoch) -> String {
    format!("data/errors/{step}/iteration-{}/microbatch-{:05}.parquet", epoch.iteration, epoch.microbatch)
}

pub(crate) fn stored(path: String, Written { rows, bytes, hash }: Written) -> Stored {
    Stored { path, rows, bytes, hash }
}

/// The error for a file of the run in `run` that is not what was committed.
pub(crate) fn damaged_in(run: &Path, path: &Path, why: impl std::fmt::Display) -> Error {
    let (file, run) = (path.display(), quoted(&run.to_string_lossy()));
    Error::user(format!("`{file}` is damaged: {why}")).help(format!(
        "`reflux verify {run}` lists what is damaged; `reflux verify {run} --repair` takes it out, and the same command then goes \
         on from the last good point"
    ))
}

/// The error for a file of a run that the system does not let us read, and that may be as it should be.
pub(crate) fn unreadable(path: &Path, why: impl std::fmt::Display) -> Error {
    Error::system(format!("`{}` cannot be read: {why}", path.display()))
        .help("let it be read (its permissions, the limit of open files, the disk), and give the same command again")
}

/// The error for a file that is not as it was committed, or cannot be read.
pub(crate) fn wrong(path: &Path, wrong: &Wrong) -> Error {
    match wrong {
        Wrong::Damaged(why) => damaged(path, why),
        Wrong::Unreadable(why) => unreadable(path, why),
    }
}

/// The error for a file of a run that is not what was committed.
pub(crate) fn damaged(path: &Path, why: impl std::fmt::Display) -> Error {
    match path.ancestors().skip(1).find(|dir| dir.join("manifest.jsonl").is_file()) {
        Some(run) => damaged_in(run, path, why),
        None => Error::user(format!("`{}` is damaged: {why}", path.display())).help("get the file again"),
    }
}
