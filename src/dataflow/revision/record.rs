//! Writes a revision: `changes.parquet` while changes are found, and the lineage at the end.

use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;

use super::changes::Changes;
use super::inputs::{RevisedPart, RevisionInputs};
use super::lineage::{self, CorrectionsFile, Lineage, RevisedMicrobatch};
use crate::data::named;
use crate::error::Result;
use crate::store::ParquetFile;

/// Counts of what corrections changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Revision {
    /// Number of microbatches of the step.
    pub microbatches: usize,
    /// Microbatches that hold a corrected answer.
    pub touched: usize,
    /// Pairs that no longer exist or that changed.
    pub withdrawn: usize,
    /// Pairs that are new or that changed.
    pub added: usize,
    /// Number of pairs after the revision.
    pub pairs: u64,
}

/// `changes.parquet` is written in groups of about this many rows.
const ROWS_PER_WRITE: usize = 8192;

/// A revision while it is written.
pub(super) struct RevisionRecord {
    dir: PathBuf,
    changes: ParquetFile,
    /// Rows of `changes` not written yet, and their number.
    waiting: (Vec<RecordBatch>, usize),
    revision: Revision,
    lines: Vec<RevisedMicrobatch>,
}

impl RevisionRecord {
    pub(super) fn begin(dir: &Path, inputs: &RevisionInputs) -> Result<Self> {
        let changes = ParquetFile::create(&dir.join("changes.parquet"), &named::CHANGES.arrow())?;
        let pairs = inputs.parts.iter().map(|part| part.pairs.rows).sum();
        let revision = Revision { microbatches: inputs.parts.len(), pairs, ..Revision::default() };
        Ok(Self { dir: dir.to_owned(), changes, waiting: Default::default(), revision, lines: Vec::new() })
    }

    /// Adds a microbatch with a corrected answer. `hash` is the hash of its file, if one was written.
    pub(super) fn add(&mut self, part: &RevisedPart, changes: &Changes, hash: Option<String>) -> Result<()> {
        if changes.len() > 0 {
            self.waiting.0.push(changes.batch(part.pairs.epoch())?);
            self.waiting.1 += changes.len();
        }
        if self.waiting.1 >= ROWS_PER_WRITE {
            self.write()?;
        }
        let (withdrawn, added) = (changes.withdrawn.len(), changes.added.len());
        let rows = part.pairs.rows.saturating_sub(withdrawn as u64) + added as u64;
        let all = &mut self.revision;
        all.touched += 1;
        all.withdrawn += withdrawn;
        all.added += added;
        all.pairs = all.pairs.saturating_sub(part.pairs.rows) + rows;
        let (path, was, scores) = (part.pairs.path.clone(), part.pairs.hash.clone(), part.scores.hash.clone());
        self.lines.push(RevisedMicrobatch { path, rows, withdrawn, added, hash, was, scores });
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        let (batches, _) = std::mem::take(&mut self.waiting);
        self.changes.write(&concat_batches(&named::CHANGES.arrow(), &batches)?)
    }

    pub(super) fn finish(mut self, inputs: &RevisionInputs, into: &Path) -> Result<Revision> {
        self.write()?;
        let Self { dir, changes, revision, lines, .. } = self;
        changes.finish()?;
        let (run, corrections) = (inputs.run(), &inputs.corrections);
        let lineage = Lineage {
            reflux: env!("CARGO_PKG_VERSION").to_owned(),
            run: run.name(),
            directory: lineage::from_there(run.dir(), into)?,
            pipeline: run.pipeline(),
            step: inputs.step.clone(),
            from: inputs.input.clone(),
            corrections: CorrectionsFile {
                file: corrections.path().file_name().map(|n| n.to_string_lossy().into_owned()),
                hash: corrections.hash().to_owned(),
                rows: corrections.len(),
                scores_withdrawn: corrections.withdrawn(),
            },
            microbatches: revision.microbatches,
            pairs: revision.pairs,
            withdrawn: revision.withdrawn,
            added: revision.added,
            revised: lines,
        };
        lineage.write(&dir)?;
        Ok(revision)
    }
}
