//! Which files were made from a file, by the lineage in the manifest.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde_json::Value;

use crate::store::{FileEntry, Run};

/// The committed files of a run, by the files that they were made from.
pub(super) struct Related {
    files: Vec<FileEntry>,
    /// Positions in `files`, by the hash of a file that they were made from.
    readers: BTreeMap<String, Vec<usize>>,
}

impl Related {
    pub fn of(run: &Run) -> Self {
        let files = run.entries();
        let mut readers = BTreeMap::<String, Vec<usize>>::new();
        for (at, file) in files.iter().enumerate() {
            for hash in &file.lineage {
                readers.entry(hash.clone()).or_default().push(at);
            }
        }
        Self { files, readers }
    }

    /// Every file that was made from this one, directly or through others, in the order of the dataflow.
    pub fn from(&self, file: &FileEntry) -> Vec<FileEntry> {
        let (mut found, mut open) = (BTreeSet::new(), VecDeque::from([file.hash.as_str()]));
        while let Some(hash) = open.pop_front() {
            for &at in self.readers.get(hash).into_iter().flatten() {
                if found.insert(at) {
                    open.push_back(&self.files[at].hash);
                }
            }
        }
        found.into_iter().map(|at| self.files[at].clone()).collect()
    }
}

/// The id of a pair, as the metrics of trainings name it.
pub(super) fn pair_id(pair: &Value) -> Option<String> {
    Some(format!("{}>{}", pair["chosen_id"].as_str()?, pair["rejected_id"].as_str()?))
}

/// The ids of a prompt's pairs.
pub(super) fn pair_ids(prompt: &Value) -> impl Iterator<Item = String> + '_ {
    prompt["pairs"].as_array().into_iter().flatten().filter_map(pair_id)
}
