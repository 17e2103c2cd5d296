//! Removes the rows of steps with `keep = false` once the run is finished.

use super::operator::Operator;
use crate::error::Result;
use crate::pipeline::Plan;
use crate::store::Run;

/// Removes the rows of steps with `keep = false`, and the datasets next to them. This is called each time a
/// finished run is opened, because the process that finished the run may have died before it removed them.
///
/// # Errors
/// The run is not finished; a file cannot be removed; the disk is full.
pub fn drop_unkept(plan: &Plan<dyn Operator>, run: &Run) -> Result<()> {
    let unkept: Vec<&str> = plan.steps.iter().filter(|s| !s.keep).map(|s| s.name.as_str()).collect();
    let is_unkept = |dataset: &str| unkept.contains(&dataset.split('.').next().unwrap_or(dataset));
    run.steps_in_order().iter().filter(|dataset| is_unkept(dataset)).try_for_each(|dataset| run.drop_step(dataset))
}
