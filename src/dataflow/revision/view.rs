//! Reads a revision as a dataset. Its pairs are made as they are read.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use rayon::prelude::*;

use super::changes::as_pairs;
use super::inputs::RevisionInputs;
use super::lineage::{Lineage, NAME, RevisedMicrobatch};
use crate::data::named;
use crate::dataflow::operator::Operator;
use crate::error::{Error, Result};
use crate::pipeline::{OperatorDef, load_without_data};
use crate::store::{Corrections, Part, Run, Scan};

/// An open folder of a revision.
pub struct Revised {
    inputs: RevisionInputs,
    /// Microbatches that hold a corrected answer, by path.
    revised: HashMap<String, RevisedMicrobatch>,
}

impl Revised {
    /// Whether `folder` is the folder of a revision.
    pub fn is_at(folder: &Path) -> bool {
        folder.join(NAME).is_file()
    }

    /// Returns the path of the pairs in the folder of a revision if they were written, which makes them
    /// readable without the run.
    ///
    /// # Errors
    /// The folder is damaged.
    pub fn written(folder: &Path) -> Result<Option<PathBuf>> {
        let pairs = folder.join("data").join(Lineage::read(folder)?.step);
        Ok(pairs.is_dir().then_some(pairs))
    }

    /// Returns the number of pairs in the folder of a revision whose run exists.
    ///
    /// # Errors
    /// The folder is damaged, or its run was not found.
    pub fn count(folder: &Path) -> Result<u64> {
        let lineage = Lineage::read(folder)?;
        let manifest = folder.join(&lineage.directory).join("manifest.jsonl");
        match manifest.is_file() {
            true => Ok(lineage.pairs),
            false => Err(missing_run(folder, &lineage, "it is not there")),
        }
    }

    /// Opens the folder of a revision together with its run. `operators` are those that the run's own pipeline file may name.
    ///
    /// # Errors
    /// The folder is damaged or belongs to another state of the run; the run is missing, or its pipeline file cannot be read.
    pub fn open(folder: &Path, operators: &[&'static OperatorDef<dyn Operator>]) -> Result<Self> {
        let lineage = Lineage::read(folder)?;
        let dir: PathBuf = folder.join(&lineage.directory);
        let run = Arc::new(Run::open(&dir).map_err(|e| missing_run(folder, &lineage, e))?);
        let other = |what: &str| {
            Error::user(format!(
                "`{}` is of another run than there is at `{}`: {what}",
                folder.display(),
                dir.display()
            ))
            .help("`reflux revise` makes it again")
        };
        if run.pipeline() != lineage.pipeline {
            return Err(other("its pipeline file is another one"));
        }
        let plan = load_without_data(&run.dir().join("pipeline.toml"), &[], operators);
        let plan = plan.map(Arc::new).map_err(|problems| Error::user(problems.to_string()))?;
        let corrections = Arc::new(Corrections::read(&folder.join("corrections.parquet"))?);
        let inputs = RevisionInputs::new(&plan, &run, &lineage.step, corrections)?;
        let revised: HashMap<String, RevisedMicrobatch> =
            lineage.revised.into_iter().map(|l| (l.path.clone(), l)).collect();
        let same = |part: &super::inputs::RevisedPart| {
            revised.get(&part.pairs.path).is_none_or(|l| l.was == part.pairs.hash && l.scores == part.scores.hash)
        };
        if let Some(part) = inputs.parts.iter().find(|part| !same(part)) {
            return Err(other(&format!("`{}` has changed", part.pairs.path)));
        }
        Ok(Self { inputs, revised })
    }

    /// Returns the pairs of a part. Files are checked against their hashes.
    fn part(&self, i: usize) -> Result<RecordBatch> {
        let part = &self.inputs.parts[i];
        if self.revised.contains_key(&part.pairs.path) {
            return Ok(self.inputs.recompute(part)?.rows);
        }
        as_pairs(&self.inputs.run().load_verified(&part.pairs)?)
    }

    /// Returns all pairs as a table to scan. `given` is the path as the user wrote it.
    pub fn scan(self, given: &Path) -> Scan {
        let all = Arc::new(self);
        let part = |i: usize| {
            let (all, pairs) = (Arc::clone(&all), &all.inputs.parts[i].pairs);
            let rows = all.revised.get(&pairs.path).map_or(pairs.rows, |line| line.rows);
            Part::made(given.join(&pairs.path), pairs.epoch(), rows, named::PAIRS.arrow(), move || all.part(i))
        };
        Scan::from_parts(given, (0..all.inputs.parts.len()).map(part).collect())
    }

    /// Iterates over the pairs, microbatch by microbatch, and computes as many at a time as the machine has
    /// cores.
    pub fn batches(self) -> impl Iterator<Item = Result<RecordBatch>> + Send {
        let (parts, together) = (self.inputs.parts.len(), rayon::current_num_threads());
        (0..parts).step_by(together).flat_map(move |first| {
            let some = first..(first + together).min(parts);
            some.into_par_iter().map(|i| self.part(i)).collect::<Vec<_>>()
        })
    }
}

fn missing_run(folder: &Path, lineage: &Lineage, why: impl std::fmt::Display) -> Error {
    let dir = folder.join(&lineage.directory);
    let what = format!("`{}` is a revision of the run `{}`", folder.display(), lineage.run);
    Error::user(format!("{what}, which cannot be read at `{}`: {why}", dir.display()))
        .help("bring the run back there; what `reflux revise --whole` makes can be read without it")
}
