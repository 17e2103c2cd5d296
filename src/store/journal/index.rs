//! In-memory index of a run's manifest.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::compact_entry::CompactEntry;
use super::entry::{Entry, FileEntry, InputEntry, MetricsEntry, ModelEntry, Taken};
use crate::data::Epoch;

/// The first line of a manifest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct RunHeader {
    pub format: u32,
    /// Hash of the part of the pipeline file that determines the rows.
    pub pipeline: String,
    pub seed: u64,
    /// Version of reflux that started the run.
    pub reflux: String,
}

/// The entries of a manifest, by key.
#[derive(Default, Debug)]
pub(crate) struct Index {
    pub files: BTreeMap<String, BTreeMap<Epoch, CompactEntry>>,
    pub models: BTreeMap<String, ModelEntry>,
    pub metrics: BTreeMap<(String, u32), MetricsEntry>,
    pub dropped: BTreeSet<String>,
    /// The steps in the order of their first lines, so that every step comes after the steps that it reads.
    pub order: Vec<String>,
    pub finished: bool,
    /// Number of lines for which [`Entry::is_content`] holds.
    pub lines: u64,
    /// The first line.
    pub header: Option<RunHeader>,
    /// External inputs, by table and key of the pipeline file.
    pub inputs: BTreeMap<(String, String), InputEntry>,
    /// Origin of a replayed run's first files.
    pub taken: Option<Taken>,
}

impl Index {
    /// Adds the manifest's next line.
    pub fn add(&mut self, entry: Entry) {
        self.lines += u64::from(entry.is_content());
        match entry {
            Entry::Run { format, reflux, pipeline, seed } => {
                self.header = Some(RunHeader { format, pipeline, seed, reflux });
            }
            Entry::Taken(taken) => self.taken = Some(taken),
            Entry::Input(input) => drop(self.inputs.insert((input.table.clone(), input.key.clone()), input)),
            Entry::File(f) => {
                // The first file of a step determines its place in the order.
                if !self.files.contains_key(&f.step) {
                    self.order.push(f.step.clone());
                }
                let entry = CompactEntry::new(&f);
                self.files.entry(f.step).or_default().insert(Epoch::new(f.iteration, f.microbatch), entry);
            }
            Entry::Model(m) => drop(self.models.insert(m.name.clone(), m)),
            Entry::Metrics(m) => drop(self.metrics.insert((m.step.clone(), m.iteration), m)),
            Entry::Finished { step, .. } => self.finished |= step.is_none(),
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

    /// Path of every file that the manifest lists and that was not dropped.
    pub fn paths(&self, dir: &Path) -> BTreeSet<PathBuf> {
        let rows = self.every_file().filter(|f| !self.dropped.contains(&f.step)).map(|f| f.path);
        let errors = self.every_file().filter_map(|f| Some(f.errors?.path));
        rows.chain(errors).chain(self.metrics.values().map(|m| m.path.clone())).map(|path| dir.join(path)).collect()
    }
}
