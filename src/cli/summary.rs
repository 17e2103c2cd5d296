//! `reflux summary` prints the closing lines of `reflux run` again.

use std::path::PathBuf;

use super::session::Session;
use super::terminal;
use crate::data::quoted;
use crate::dataflow::Operator;
use crate::error::{Error, Result};
use crate::pipeline::Plan;
use crate::runner::{Closing, plan_of_text};
use crate::store::{Run, find_run};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  reflux summary quickstart                the closing summary of runs/quickstart, or its state so far
  reflux summary quickstart --json | jq .models")]
pub struct Args {
    /// The run: a directory, or a name in runs
    run: PathBuf,
    /// Prints one JSON object, as in summary.json
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args, _: &Session) -> Result<()> {
    let run = Run::open(&find_run(&args.run))?;
    let closing = match Closing::written(&run) {
        Some(closing) => closing,
        None => Closing::again(&plan_of(&run)?, &run)?,
    };
    if args.json {
        return terminal::print_json(format!("{:#}", closing.summary.json()));
    }
    terminal::print_lines(
        closing.lines(&run, terminal::known_width().unwrap_or(usize::MAX)).iter().skip_while(|line| line.is_empty()),
    )
}

pub(super) fn plan_of(run: &Run) -> Result<Plan<dyn Operator>> {
    plan_of_text(&run.pipeline_text()?).ok_or_else(|| {
        let file = run.dir().join("pipeline.toml");
        let check = quoted(&file.to_string_lossy());
        Error::user(format!("`{}` is not a pipeline file of this version", file.display()))
            .help(format!(
                "`reflux check --no-data {check}` shows the errors; relative paths in it start from the directory in which the \
                 run was started"
            ))
    })
}
