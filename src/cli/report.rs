//! `reflux report`.

use std::path::PathBuf;

use super::session::Session;
use super::summary::plan_of;
use super::terminal;
use crate::error::Result;
use crate::runner::{report_path, write_report};
use crate::store::{Run, find_run};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  reflux report quickstart                 writes runs/quickstart/report.html
  reflux report quickstart -o page.html    a file that can be sent to others")]
pub struct Args {
    /// The run: a directory, or a name in runs
    run: PathBuf,
    /// The file to write; by default report.html in the run's directory
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub fn run(args: &Args, _: &Session) -> Result<()> {
    let run = Run::open(&find_run(&args.run))?;
    let plan = plan_of(&run)?;
    let path = args.output.clone().unwrap_or_else(|| report_path(&run));
    let bytes = write_report(&plan, &run, &path)?;
    terminal::print_line(&format!("{}: {:.0} kB", path.display(), bytes as f64 / 1000.))
}
