//! Commands that are offered where a run cannot be resumed as it is: they replay it into another run.

use std::path::Path;

use super::operator::Operator;
use crate::pipeline::Plan;
use crate::pipeline::replay::{command, command_for_inputs};
use crate::store::ChangedInput;

/// The command that replays the run in `dir` under a changed plan, for whoever tries to go on with it. `otherwise` are the
/// options that stand for the changed file.
pub fn advice(
    before: &Plan<dyn Operator>,
    plan: &Plan<dyn Operator>,
    dir: &Path,
    otherwise: &[String],
) -> Option<String> {
    let place = NewRun::beside(dir)?;
    command(before, plan, &place.source, &place.name, place.runs.as_deref(), otherwise)
}

/// The command that makes again, as another run, what follows from external inputs of the run in `dir` that have changed.
pub(super) fn advice_for_inputs(plan: &Plan<dyn Operator>, dir: &Path, changed: &[ChangedInput]) -> Option<String> {
    let place = NewRun::beside(dir)?;
    let tables = changed.iter().map(|c| c.table.clone()).collect();
    command_for_inputs(plan, &tables, &place.source, &place.name, place.runs.as_deref())
}

/// How a replay of a run is named on the command line.
struct NewRun {
    /// The run that is replayed.
    source: String,
    /// A free name.
    name: String,
    /// The folder of both, if it is not the usual one.
    runs: Option<String>,
}

impl NewRun {
    fn beside(dir: &Path) -> Option<Self> {
        let name = dir.file_name()?.to_string_lossy().into_owned();
        let runs = dir.parent()?;
        let free = (2u32..).map(|n| format!("{name}-{n}")).find(|name| !runs.join(name).exists())?;
        let usual = runs == Path::new("runs");
        let source = if usual { name } else { dir.display().to_string() };
        Some(Self { source, name: free, runs: (!usual).then(|| runs.display().to_string()) })
    }
}
