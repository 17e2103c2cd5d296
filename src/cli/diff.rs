//! `reflux diff`.

use std::path::PathBuf;

use super::session::Session;
use super::terminal;
use crate::error::{Error, Result};
use crate::report::Difference;
use crate::runner::plan_of_text;
use crate::store::{Run, find_run};

#[derive(clap::Args)]
#[command(
    after_help = "Compares settings, then each step in dataflow order: the metrics and models of trainings, rows, and
rows left out. Files are compared by hash; for the first difference, the row, the column and both values
are printed.

Exit codes: 0 the runs are the same; 1 they differ; 2 a run is missing or damaged.

Examples:
  reflux diff quickstart beta-0.2
  reflux diff runs/a other/runs/a --json | jq .first_difference"
)]
pub struct Args {
    /// The first run: a directory, or a name in runs
    first: PathBuf,
    /// The second run
    second: PathBuf,
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, session: &Session) -> Result<()> {
    let quiet = session.quiet;
    let runs = [Run::open(&find_run(&args.first))?, Run::open(&find_run(&args.second))?];
    let difference = Difference::of(&runs[0], &runs[1], runs.iter().flat_map(from_servers).collect())?;
    if args.json {
        terminal::print_json(difference.json())?;
    } else if !quiet {
        terminal::print_lines(difference.lines())?;
    }
    // The difference is already printed; only the exit code is left.
    if difference.same() { Ok(()) } else { Err(Error::system("")) }
}

/// The steps of a run whose rows come from servers. A pipeline file that cannot be read any more tells of none; that it
/// differs is told as any difference of settings.
fn from_servers(run: &Run) -> Vec<String> {
    let plan = run.pipeline_text().ok().and_then(|text| plan_of_text(&text));
    let steps = plan.iter().flat_map(|plan| plan.steps.iter().filter(|step| plan.from_servers(step)));
    steps.map(|step| step.name.clone()).collect()
}
