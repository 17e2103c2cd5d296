//! What a revision writes: `changes.parquet` as the changes are found, and the lineage at the end.

use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;

use super::changes::Changes;
use super::lineage::{self, Given, Line, Lineage};
use super::revising::{Part, Revising};
use crate::data::named;
use crate::error::Result;
use crate::store::ParquetFile;

/// What corrections came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Revision {
    /// Microbatches of the step.
    pub microbatches: usize,
    /// Those that hold a corrected answer.
    pub touched: usize,
    /// Pairs that are no more, or are not as they were.
    pub withdrawn: usize,
    /// Pairs that were not there, or not so.
    pub added: usize,
    /// Pairs there are now.
    pub pairs: u64,
}

/// Rows of `changes.parquet` that are written at a time, or a few more.
const WRITTEN_TOGETHER: usize = 8192;

/// What is written of a revision as it is made.
pub(super) struct Record {
    dir: PathBuf,
    changes: ParquetFile,
    /// Rows of `changes` that are still to be written, and how many.
    waiting: (Vec<RecordBatch>, usize),
    revision: Revision,
    lines: Vec<Line>,
}

impl Record {
    pub(super) fn begin(dir: &Path, revising: &Revising) -> Result<Self> {
        let changes = ParquetFile::create(&dir.join("changes.parquet"), &named::CHANGES.arrow())?;
        let pairs = revising.parts.iter().map(|part| part.pairs.rows).sum();
        let revision = Revision { microbatches: revising.parts.len(), pairs, ..Revision::default() };
        Ok(Self { dir: dir.to_owned(), changes, waiting: Default::default(), revision, lines: Vec::new() })
    }

    /// A microbatch with a corrected answer; `hash` is that of its file, where one was written.
    pub(super) fn add(&mut self, part: &Part, changes: &Changes, hash: Option<String>) -> Result<()> {
        if changes.len() > 0 {
            self.waiting.0.push(changes.batch(part.pairs.epoch())?);
            self.waiting.1 += changes.len();
        }
        if self.waiting.1 >= WRITTEN_TOGETHER {
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
        self.lines.push(Line { path, rows, withdrawn, added, hash, was, scores });
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        let (batches, _) = std::mem::take(&mut self.waiting);
        self.changes.write(&concat_batches(&named::CHANGES.arrow(), &batches)?)
    }

    pub(super) fn finish(mut self, revising: &Revising, into: &Path) -> Result<Revision> {
        self.write()?;
        let Self { dir, changes, revision, lines, .. } = self;
        changes.finish()?;
        let (run, corrections) = (revising.run(), &revising.corrections);
        let lineage = Lineage {
            reflux: env!("CARGO_PKG_VERSION").to_owned(),
            run: run.name(),
            directory: lineage::from_there(run.dir(), into)?,
            pipeline: run.pipeline(),
            step: revising.step.clone(),
            from: revising.input.clone(),
            corrections: Given {
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
