//! Steps with `keep = false`: their rows are removed when the run is finished.

use super::operator::Operator;
use crate::error::Result;
use crate::pipeline::Plan;
use crate::store::Run;

/// Removes the rows of the steps that are not to be kept, and of the datasets beside them. A finished run is asked for it each time
/// it is opened, because the process that finished it may have died before it had removed them.
///
/// # Errors
/// The run is not finished; a file cannot be removed; a full disk.
pub fn drop_unkept(plan: &Plan<dyn Operator>, run: &Run) -> Result<()> {
    let unkept: Vec<&str> = plan.steps.iter().filter(|s| !s.keep).map(|s| s.name.as_str()).collect();
    let is_unkept = |dataset: &str| unkept.contains(&dataset.split('.').next().unwrap_or(dataset));
    run.steps_in_order().iter().filter(|dataset| is_unkept(dataset)).try_for_each(|dataset| run.drop_step(dataset))
}
