//! What a section reads from: the run, its plan and its summary.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::RecordBatch;
use serde_json::Value;

use crate::dataflow::Operator;
use crate::error::Result;
use crate::pipeline::Plan;
use crate::store::{FileEntry, Run};

/// The run that a page shows.
pub(super) struct PageSource<'a> {
    pub plan: &'a Plan<dyn Operator>,
    pub run: &'a Run,
    /// As in `summary.json`; computed from what is committed if the run has not finished.
    pub summary: &'a Value,
}

impl<'a> PageSource<'a> {
    /// A list of the summary.
    pub fn listed(&self, key: &str) -> &'a [Value] {
        self.summary[key].as_array().map_or(&[], Vec::as_slice)
    }

    /// Steps with rows of a schema, in the order of the dataflow.
    pub fn steps_with(&self, schema: &str) -> Vec<&'a str> {
        let of_schema = self.plan.steps.iter().filter(|s| s.schema.name == schema);
        of_schema.map(|s| s.name.as_str()).filter(|name| !self.run.files(name).is_empty()).collect()
    }

    /// The committed files of a step, by iteration.
    pub fn by_iteration(&self, step: &str) -> BTreeMap<u32, Vec<FileEntry>> {
        let mut all = BTreeMap::<u32, Vec<FileEntry>>::new();
        for file in self.run.files(step) {
            all.entry(file.iteration).or_default().push(file);
        }
        all
    }

    /// Reads the named columns of a file, in batches of about a thousand rows; columns that it lacks are left out.
    pub fn columns(&self, file: &FileEntry, names: &[&str]) -> Result<impl Iterator<Item = Result<RecordBatch>>> {
        let part = self.run.part(file);
        let schema = part.schema()?;
        let wanted: BTreeSet<usize> = names.iter().filter_map(|name| schema.index_of(name).ok()).collect();
        let wanted: Vec<usize> = wanted.into_iter().collect();
        part.read(&schema.project(&wanted)?.into())
    }
}
