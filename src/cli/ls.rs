//! `reflux ls`.

use std::path::PathBuf;

use super::session::Session;
use super::terminal;
use crate::error::{Error, Result};
use crate::report::{RunContents, Runs};
use crate::runner::plan_of_text;
use crate::store::{Run, find_run};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  reflux ls                           the runs of the folder runs, with their main figures side by side
  reflux ls quickstart                what the run runs/quickstart holds
  reflux ls quickstart --json | jq '.steps[] | select(.step == \"pairs\")'")]
pub struct Args {
    /// The run: a directory, or a name in runs; if absent, the runs of a folder are listed
    run: Option<PathBuf>,
    /// Folder of the runs
    #[arg(long, default_value = "runs", conflicts_with = "run")]
    runs: PathBuf,
    /// Prints JSON, with sizes in bytes
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, _: &Session) -> Result<()> {
    let Some(run) = &args.run else { return list(args) };
    let contents = RunContents::of(&Run::open(&find_run(run))?);
    if args.json { terminal::print_json(contents.json()) } else { terminal::print_lines(contents.lines()) }
}

fn list(args: &Args) -> Result<()> {
    if !args.runs.is_dir() {
        return Err(Error::user(format!("folder `{}` of runs not found", args.runs.display()))
            .help("`reflux run` creates it; --runs names another folder"));
    }
    let runs = Runs::of(&args.runs, &|run| plan_of_text(&run.pipeline_text().ok()?))?;
    if args.json {
        // The JSON list of runs has no field for skipped folders.
        runs.skipped().iter().for_each(|skipped| terminal::warning(skipped));
        return terminal::print_json(format!("{:#}", runs.json()));
    }
    terminal::print_lines(runs.lines(terminal::width()))
}
