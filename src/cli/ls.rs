//! `reflux ls`.

use std::path::PathBuf;

use super::terminal;
use crate::error::Result;
use crate::report::Contents;
use crate::store::{Run, find_run};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  reflux ls quickstart                the run runs/quickstart
  reflux ls quickstart --json | jq '.steps[] | select(.step == \"pairs\")'")]
pub struct Args {
    /// The run: a directory, or a name in runs
    run: PathBuf,
    /// As one JSON object, sizes in bytes
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let contents = Contents::of(&Run::open(&find_run(&args.run))?);
    if args.json { terminal::print_json(contents.json()) } else { terminal::print_lines(contents.lines()) }
}
