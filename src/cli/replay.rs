//! `reflux replay`.

use std::path::PathBuf;
use std::sync::Arc;

use super::check::{check, shown};
use super::interrupt::stop_on_interrupt;
use super::model::weights;
use super::run::{Machine, directory, execute};
use super::session::Session;
use crate::cancel::CancelFlag;
use crate::dataflow::Replay;
use crate::error::Result;
use crate::pipeline;
use crate::runner::{Open, check_rows_came};
use crate::store::{Run, find_run};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  reflux replay small --from scores --set step.scores.model=m0      another judge for the answers of the run small
  reflux replay small --set step.pairs.min_margin=1 --into strict   other pairs; changed steps are detected
  reflux replay small --from dpo --file other.toml --dry-run        what another file would run again
  reflux replay small --set pipeline.iterations=3                   one more iteration

Steps that the change does not affect are not run again: their files are linked into the new run, each
checked against its hash. The new run's manifest names the source run. If the new run is stopped, the
same command continues it.")]
pub struct Args {
    /// The run: a directory, or a name in runs
    run: PathBuf,
    /// A step to run again, together with all steps that depend on it; may be repeated. By default the
    /// changed steps
    #[arg(long, value_name = "STEP")]
    from: Vec<String>,
    /// Overrides a key of the run's pipeline file, e.g. --set step.dpo.beta=0.2
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// A pipeline file to use instead of the run's own
    #[arg(long)]
    file: Option<PathBuf>,
    /// Name of the new run; RUN-replay if absent
    #[arg(long, value_name = "NAME")]
    into: Option<String>,
    /// Folder of the new run
    #[arg(long, default_value = "runs")]
    runs: PathBuf,
    /// Only prints what would be reused and what would run
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    machine: Machine,
}

pub fn run(args: &Args, session: &Session) -> Result<()> {
    let quiet = session.quiet;
    let source = Run::open(&find_run(&args.run))?;
    let own = source.dir().join("pipeline.toml");
    let before = shown(pipeline::load_without_data(&own, &[], crate::operators::ALL))?;
    let plan = Arc::new(check(args.file.as_deref().unwrap_or(&own), &args.set)?);
    let replay = Replay::new(&source, &before, &plan, &args.from)?;
    let name = args.into.clone().unwrap_or_else(|| format!("{}-replay", source.name()));
    let dir = directory(&args.runs, &name)?;
    if args.dry_run || !quiet {
        super::terminal::print_lines(replay.lines())?;
    }
    if args.dry_run {
        return Ok(());
    }
    let stop = CancelFlag::default();
    stop_on_interrupt(&stop);
    let open = if dir.exists() { Open::Continue(&[]) } else { Open::Begun };
    replay.begin(&dir, &weights)?;
    execute(&plan, &dir, &open, &args.machine, session.style, quiet, &stop)?;
    check_rows_came(&plan, &dir)
}
