//! Revises the pairs of a finished run under corrected scores.
//!
//! A step stores its decision inputs next to its pairs ([`super::DecisionInputs`]). The groups with a
//! corrected answer are reduced twice, before and after the corrections, so the changed pairs are found
//! without reading an answer. The pairs themselves are made when they are read ([`Revised`]), or written.

mod changes;
mod incremental;
mod inputs;
mod lineage;
mod recompute;
mod record;
mod view;

use std::path::Path;
use std::sync::Arc;

pub use inputs::revisable;
pub use record::Revision;
pub use view::Revised;

use super::operator::Operator;
use crate::error::Result;
use crate::pipeline::Plan;
use crate::store::{Corrections, Run, make_folder, write_parquet};
use inputs::RevisionInputs;
use record::RevisionRecord;

/// Writes a revision of the step's pairs into the new folder `into`: `changes.parquet` with the withdrawn
/// and added pairs, `corrections.parquet` with the corrections, and `revision.json` with the lineage, by
/// hash. If `whole` is set, it also writes all pairs to `data/STEP` and the prompts without a pair to
/// `data/errors/STEP`; these files equal those of a run over corrected scores. Otherwise they are made when
/// the folder is read ([`Revised`]). The run itself does not change.
///
/// # Errors
/// The run is not finished, or did not keep the step or its scores; a correction names an unknown answer or
/// a score off the judge's scale; a file is damaged; the disk is full. No partial folder remains.
pub fn revise_run(
    plan: &Arc<Plan<dyn Operator>>,
    run: &Arc<Run>,
    step: &str,
    corrections: &Arc<Corrections>,
    into: &Path,
    whole: bool,
) -> Result<Revision> {
    let inputs = RevisionInputs::new(plan, run, step, Arc::clone(corrections))?;
    make_folder(into, |dir| {
        let mut record = RevisionRecord::begin(dir, &inputs)?;
        match inputs.candidates()? {
            Some(keeps) if !whole => incremental::revise(&inputs, keeps, &mut record)?,
            _ => inputs.recompute_all(whole.then_some(dir), &mut record)?,
        }
        write_parquet(&dir.join("corrections.parquet"), &corrections.rows()?)?;
        record.finish(&inputs, into)
    })
}
