//! Recomputes whole microbatches from corrected scores: to write or read their pairs, or because the step
//! did not store its decision inputs.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema as ArrowSchema};
use rayon::prelude::*;

use super::changes::Changes;
use super::inputs::{RevisedPart, RevisionInputs};
use super::record::RevisionRecord;
use crate::data::Columns;
use crate::dataflow::groups::reduce_local;
use crate::dataflow::jobs::error_rows;
use crate::dataflow::ledger::Output;
use crate::dataflow::operator::Context;
use crate::error::Result;
use crate::store::{Corrections, link, put_microbatch};

impl RevisionInputs {
    /// Recomputes the microbatches that hold a corrected answer. If `whole` is given, writes them below
    /// that folder and links all other files to it.
    pub(super) fn recompute_all(&self, whole: Option<&Path>, record: &mut RevisionRecord) -> Result<()> {
        let touched = self.touched()?;
        if let Some(dir) = whole {
            for (_, part) in self.parts.iter().enumerate().filter(|(i, _)| touched.binary_search(i).is_err()) {
                let errors = part.pairs.errors.iter().map(|e| &e.path);
                for path in std::iter::once(&part.pairs.path).chain(errors) {
                    link(&self.run().dir().join(path), &dir.join(path))?;
                }
            }
        }
        let recompute = |&i: &usize| {
            let part = &self.parts[i];
            let output = self.recompute(part)?;
            let changes = Changes::between(&self.run().load_verified(&part.pairs)?, &output)?;
            let hash = whole.map(|dir| self.put(dir, part, &output)).transpose()?;
            Ok((part, changes, hash))
        };
        // This many microbatches are in memory at once.
        for some in touched.chunks(2 * rayon::current_num_threads()) {
            for made in some.par_iter().map(recompute).collect::<Vec<Result<_>>>() {
                let (part, changes, hash) = made?;
                record.add(part, &changes, hash)?;
            }
        }
        Ok(())
    }

    /// Indices of the parts that hold a corrected answer, in order.
    fn touched(&self) -> Result<Vec<usize>> {
        let hits = |part: &RevisedPart| self.run().texts(&part.scores, "response_id", &|id| self.corrections.has(id));
        let hits: Vec<Vec<String>> = self.parts.par_iter().map(hits).collect::<Result<_>>()?;
        let found_ids: HashSet<&str> = hits.iter().flatten().map(String::as_str).collect();
        self.all_known(|id| found_ids.contains(id))?;
        Ok((0..self.parts.len()).filter(|&i| !hits[i].is_empty()).collect())
    }

    /// Computes a microbatch under the corrections. The file of scores is checked against its hash.
    pub(super) fn recompute(&self, RevisedPart { pairs, scores, .. }: &RevisedPart) -> Result<Output> {
        let (keyed, epoch) = (self.keyed()?, pairs.epoch());
        let rows = self.run().load_verified(scores)?;
        let new = with_scores(&rows, &self.corrections)?;
        let cx = Context::new(&self.shared, self.step()?, epoch, None);
        let kept = reduce_local(keyed, &cx, &new)?;
        // Joins match rows by id, and corrections change no ids.
        let joined = self.joins.join_finished(&cx)?;
        keyed.finish(&Context { joined, ..cx }, &new, &kept)
    }

    /// Writes a microbatch below `dir` and returns the hash of its file.
    fn put(&self, dir: &Path, part: &RevisedPart, output: &Output) -> Result<String> {
        let epoch = part.pairs.epoch();
        let errors = error_rows(&self.step, epoch, &output.errors)?;
        Ok(put_microbatch(dir, &self.step, epoch, &output.rows, &errors)?.hash)
    }
}

/// Returns the rows with their corrected scores.
fn with_scores(rows: &RecordBatch, corrections: &Corrections) -> Result<RecordBatch> {
    let (ids, scores) = (Columns(rows).text("response_id")?, Columns(rows).float("score")?);
    let new = Float32Array::from_iter(
        ids.iter().zip(scores).map(|(id, score)| id.and_then(|id| corrections.get(id)).map_or(score, |c| c.score)),
    );
    let new: ArrayRef = Arc::new(new);
    let fields = rows.schema_ref().fields().iter().zip(rows.columns()).map(|(field, column)| {
        if field.name() == "score" {
            (Field::new("score", DataType::Float32, true), Arc::clone(&new))
        } else {
            (field.as_ref().clone(), Arc::clone(column))
        }
    });
    let (fields, columns): (Vec<Field>, Vec<ArrayRef>) = fields.unzip();
    Ok(RecordBatch::try_new(Arc::new(ArrowSchema::new(fields)), columns)?)
}
