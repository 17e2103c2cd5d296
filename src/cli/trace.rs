//! `reflux trace`.

use std::path::PathBuf;

use super::session::Session;
use super::terminal;
use crate::error::Result;
use crate::operators;
use crate::pipeline;
use crate::report::Trace;
use crate::store::{Run, find_run};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  reflux trace quickstart 98844957          the prompt or response whose id has this prefix
  reflux trace quickstart a917c3af/2        the third judgement of a response
  reflux trace quickstart 9c60dff8 --json | jq '.events[] | select(.what == \"left_out\").row'")]
pub struct Args {
    /// The run: a directory, or a name in runs
    run: PathBuf,
    /// The id of a prompt, a response or a judgement (also RESPONSE/N), or a unique prefix of it
    id: String,
    /// Prints one JSON object with complete rows
    #[arg(long)]
    json: bool,
    /// Width of a line; by default the terminal's, or COLUMNS, or 120
    #[arg(long, value_name = "PLACES")]
    width: Option<u16>,
}

pub fn run(args: &Args, _: &Session) -> Result<()> {
    let run = Run::open(&find_run(&args.run))?;
    // The trace also works without a plan, from the rows alone.
    let plan = pipeline::load_without_data(&run.dir().join("pipeline.toml"), &[], operators::ALL).ok();
    let trace = Trace::of(&run, plan.as_ref(), &args.id)?;
    if args.json {
        terminal::print_json(trace.json())
    } else {
        terminal::print_lines(trace.lines(args.width.map_or_else(terminal::width, usize::from)))
    }
}
