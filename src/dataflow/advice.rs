//! Suggests commands that replay a run where it cannot be resumed as it is.

use std::path::Path;

use super::operator::Operator;
use crate::pipeline::Plan;
use crate::pipeline::replay::{command, command_for_inputs};
use crate::store::ChangedInput;

/// Returns the command that replays the run in `dir` under a changed plan. `otherwise` holds the options
/// that stand for the changed file.
pub fn advice(
    before: &Plan<dyn Operator>,
    plan: &Plan<dyn Operator>,
    dir: &Path,
    otherwise: &[String],
) -> Option<String> {
    let place = ReplayNames::beside(dir)?;
    command(before, plan, &place.source, &place.name, place.runs.as_deref(), otherwise)
}

/// Returns the command that remakes, in a new run, the rows that depend on changed external inputs of the
/// run in `dir`.
pub(super) fn advice_for_inputs(plan: &Plan<dyn Operator>, dir: &Path, changed: &[ChangedInput]) -> Option<String> {
    let place = ReplayNames::beside(dir)?;
    let tables = changed.iter().map(|c| c.table.clone()).collect();
    command_for_inputs(plan, &tables, &place.source, &place.name, place.runs.as_deref())
}

/// Names of a replay on the command line.
struct ReplayNames {
    /// The run to replay.
    source: String,
    /// A name that is free.
    name: String,
    /// The folder of both runs, if it is not the usual one.
    runs: Option<String>,
}

impl ReplayNames {
    fn beside(dir: &Path) -> Option<Self> {
        let name = dir.file_name()?.to_string_lossy().into_owned();
        let runs = dir.parent()?;
        let free = (2u32..).map(|n| format!("{name}-{n}")).find(|name| !runs.join(name).exists())?;
        let usual = runs == Path::new("runs");
        let source = if usual { name } else { dir.display().to_string() };
        Some(Self { source, name: free, runs: (!usual).then(|| runs.display().to_string()) })
    }
}
