//! A run's pairs under corrected scores.
//!
//! What a step went by is kept beside its pairs ([`super::DecisionInputs`]): the groups with a corrected answer are arranged again in
//! differential, each correction comes as a withdrawal and an addition, and what becomes of the pairs is known without reading
//! an answer. The pairs themselves are then made as they are read ([`Revised`]), or written.

mod again;
mod changes;
mod lineage;
mod quick;
mod record;
mod revising;
mod view;

use std::path::Path;
use std::sync::Arc;

pub use record::Revision;
pub use revising::revisable;
pub use view::Revised;

use super::operator::Operator;
use crate::error::Result;
use crate::pipeline::Plan;
use crate::store::{Corrections, Run, make_folder, write_parquet};
use record::Record;
use revising::Revising;

/// Writes into the new folder `into` what becomes of the step's pairs: `changes.parquet` with those withdrawn and added,
/// `corrections.parquet` with the corrections, and `revision.json` with the lineage, by hash. With `whole` also `data/STEP` with all
/// pairs as they are now and `data/errors/STEP` with the prompts that give none, the very files that a run over corrected scores
/// has; without, they are made as the folder is read ([`Revised`]). The run itself stays as it is.
///
/// # Errors
/// The run is not finished, or did not keep the step or its scores; a correction is of an answer that is not there, or off the
/// judge's scale; a file is damaged; the disk is full. Nothing is left behind.
pub fn revise_run(
    plan: &Arc<Plan<dyn Operator>>,
    run: &Arc<Run>,
    step: &str,
    corrections: &Arc<Corrections>,
    into: &Path,
    whole: bool,
) -> Result<Revision> {
    let revising = Revising::new(plan, run, step, Arc::clone(corrections))?;
    make_folder(into, |dir| {
        let mut record = Record::begin(dir, &revising)?;
        match revising.candidates()? {
            Some(keeps) if !whole => quick::revise(&revising, keeps, &mut record)?,
            _ => revising.again_all(whole.then_some(dir), &mut record)?,
        }
        write_parquet(&dir.join("corrections.parquet"), &corrections.rows()?)?;
        record.finish(&revising, into)
    })
}
