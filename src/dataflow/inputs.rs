//! Compares the external inputs of a run with its manifest, before anything is made and again at the end.

use super::advice::advice_for_inputs;
use super::operator::{Operator, Shared, model_name};
use crate::error::Result;
use crate::pipeline::Plan;
use crate::store::{ChangedInput, InputEntry, Run, changed_error};

/// Whether the plan still reads an input that a run has recorded, directly or through another input.
pub(super) fn is_read(plan: &Plan<dyn Operator>, input: &InputEntry) -> bool {
    let of_table = |table: &str| table == input.table;
    plan.steps.iter().any(|s| of_table(&crate::pipeline::step_table(&s.name)))
        || plan.models.iter().any(|m| of_table(&crate::pipeline::model_table(&m.name)))
}

/// Returns the inputs of `run` that `plan` reads too and that differ from what the run read.
pub(super) fn changed(run: &Run, plan: &Plan<dyn Operator>) -> Result<Vec<ChangedInput>> {
    run.changed_inputs(&|input| is_read(plan, input))
}

/// Compares the inputs with what the run read, and records the texts that were read with the pipeline file.
///
/// # Errors
/// An input has changed, so the run cannot be resumed. The help names the command that remakes what depends
/// on it.
pub(super) fn check(shared: &Shared) -> Result<()> {
    let (run, plan) = (&*shared.run, &*shared.plan);
    refuse(run, plan, &changed(run, plan)?)?;
    for text in plan.texts() {
        text.open(run)?;
    }
    // A training takes long, so obstacles to saving its model are reported before it begins.
    for step in plan.steps.iter().filter(|s| s.is_training()) {
        for iteration in step.iterations.clone() {
            run.check_place_of_model(&model_name(plan, &step.name, iteration), &step.name, iteration)?;
        }
    }
    Ok(())
}

/// Compares the inputs of a finished run with what it read: a user who edited one expects it to be used.
///
/// # Errors
/// An input has changed. The help names the command that remakes what depends on it.
pub fn check_finished(plan: &Plan<dyn Operator>, run: &Run) -> Result<()> {
    refuse(run, plan, &changed(run, plan)?)
}

fn refuse(run: &Run, plan: &Plan<dyn Operator>, changed: &[ChangedInput]) -> Result<()> {
    if changed.is_empty() {
        return Ok(());
    }
    let what: Vec<String> = changed.iter().map(|c| c.what.clone()).collect();
    Err(changed_error(run, &what).help(help(run, plan, changed)))
}

/// Compares the inputs once more after all rows are made.
///
/// # Errors
/// An input changed while the run read it.
pub(super) fn check_again(shared: &Shared) -> Result<()> {
    let (run, plan) = (&*shared.run, &*shared.plan);
    run.check_inputs_again().map_err(|e| match changed(run, plan) {
        Ok(changed) if !changed.is_empty() => e.help(help(run, plan, &changed)),
        _ => e,
    })
}

fn help(run: &Run, plan: &Plan<dyn Operator>, changed: &[ChangedInput]) -> String {
    let otherwise = "give the inputs back their content, or start over under another name with --name";
    match advice_for_inputs(plan, run.dir(), changed) {
        Some(command) => {
            format!("make what follows from the change, as another run:\n    {command}\n  or {otherwise}")
        }
        None => otherwise.to_owned(),
    }
}
