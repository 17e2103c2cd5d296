//! `reflux run`.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::check::{Warnings, check, load, refuse};
use super::interrupt::stop_on_interrupt;
use super::progress::{RunProgress, Style};
use super::session::Session;
use super::terminal;
use crate::cancel::CancelFlag;
use crate::data::quoted;
use crate::dataflow::{Observer, Operator};
use crate::error::{Error, ErrorContext as _, ErrorKind, Result};
use crate::operators;
use crate::pipeline::Plan;
use crate::report::PlanOutline;
use crate::runner::{self, Ended, Open, ReadEngines, RunOptions, Watch};
use crate::store::Run;

#[derive(clap::Args)]
pub struct Args {
    /// The pipeline file
    pub file: PathBuf,
    /// Overrides a key, e.g. --set step.dpo.beta=0.2
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Name of the run, as in runs/NAME; the pipeline's name if absent
    #[arg(long)]
    name: Option<String>,
    /// Folder of the runs
    #[arg(long, default_value = "runs")]
    runs: PathBuf,
    /// Removes an earlier run of this name and starts again
    #[arg(long)]
    fresh: bool,
    /// Continues a run with the --set overrides that it was started with
    #[arg(long, conflicts_with = "fresh")]
    resume: bool,
    #[command(flatten)]
    pub machine: Machine,
}

/// Where a run is computed.
#[derive(clap::Args)]
pub struct Machine {
    /// Number of timely workers; it does not change the data
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: u16,
    /// Device of the models: cpu, cuda, metal, or auto
    #[arg(long, default_value = "auto")]
    device: String,
}

impl Machine {
    /// One worker and this device.
    pub fn on(device: &str) -> Self {
        Self { workers: 1, device: device.to_owned() }
    }
}

impl Args {
    /// Chooses how to open a run of this file with the overrides `set`.
    pub fn open<'a>(&self, set: &[String], named: &'a mut Vec<String>) -> Open<'a> {
        if self.fresh {
            return Open::Fresh;
        }
        *named = vec!["--file".to_owned(), self.file.display().to_string()];
        named.extend(set.iter().flat_map(|s| ["--set".to_owned(), s.clone()]));
        Open::Continue(named)
    }
}

pub fn run(args: &Args, session: &Session) -> Result<()> {
    let style = session.style;
    let mut plan = Arc::new(load(&args.file, &args.set, Warnings::Shown)?);
    let name = args.name.as_ref().unwrap_or(&plan.name);
    let dir = directory(&args.runs, name)?;
    let mut set = args.set.clone();
    if args.resume {
        set.extend(runner::settings_of(&dir, &plan)?);
        plan = Arc::new(load(&args.file, &set, Warnings::Hidden)?);
    }
    refuse(operators::preflight(&plan).problems)?;
    let stop = CancelFlag::default();
    stop_on_interrupt(&stop);
    if plan.study.is_some() {
        super::study::run(&plan, &dir, &style, &|overrides, dir| {
            let set: Vec<String> = args.set.iter().chain(overrides).cloned().collect();
            let plan = Arc::new(check(&args.file, &set)?);
            let mut named = Vec::new();
            let open = args.open(&set, &mut named);
            execute(&plan, dir, &open, &args.machine, Style::Quiet, true, &stop).doing(|| dir.display())
        })
    } else {
        let mut named = Vec::new();
        execute(&plan, &dir, &args.open(&set, &mut named), &args.machine, style, session.quiet, &stop)?;
        runner::check_rows_came(&plan, &dir)
    }
}

/// Returns the directory of a run with this name.
pub fn directory(runs: &Path, name: &str) -> Result<PathBuf> {
    if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\']) {
        return Err(Error::user(format!("`{name}` is not a valid name for a run")).help("use letters, digits, - and _"));
    }
    Ok(runs.join(name))
}

/// Shows a run on the terminal.
struct RunView<'a> {
    style: Style,
    says_resumed: bool,
    plan: &'a Plan<dyn Operator>,
    progress: Mutex<Option<Arc<RunProgress>>>,
}

impl Watch for RunView<'_> {
    fn resumed(&self, run: &Path) {
        if self.says_resumed {
            terminal::line(&format!("continuing the run {}", run.display()));
        }
    }
    fn started(&self, engines: ReadEngines) -> Arc<dyn Observer> {
        let progress = Arc::new(RunProgress::new(self.style, PlanOutline::new(self.plan), engines));
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&progress));
        progress
    }
    fn ended(&self) {
        if let Some(progress) = self.progress.lock().unwrap_or_else(PoisonError::into_inner).take() {
            progress.finish();
        }
    }
}

/// Runs a plan in its directory, or continues it, and prints the closing summary unless `quiet` is set.
pub fn execute(
    plan: &Arc<Plan<dyn Operator>>,
    dir: &Path,
    open: &Open<'_>,
    machine: &Machine,
    style: Style,
    quiet: bool,
    stop: &CancelFlag,
) -> Result<()> {
    let options = RunOptions { open: *open, workers: machine.workers.into(), device: &machine.device };
    let shown = RunView { style, says_resumed: !quiet, plan, progress: Mutex::new(None) };
    let ended = runner::run(plan, dir, &options, &shown, stop).map_err(|e| match e.kind() {
        ErrorKind::Cancelled => {
            e.help(format!("everything committed to {} stays; run the same command to continue", dir.display()))
        }
        _ => e,
    })?;
    if let Ended::Ran(run, _) = &ended {
        report(plan, run);
    }
    match ended {
        _ if quiet => Ok(()),
        Ended::AlreadyFinished => {
            terminal::print_line(&format!("the run {} is finished; --fresh removes it and starts again", dir.display()))
        }
        Ended::Ran(run, closing) => {
            terminal::print_lines(closing.lines(&run, terminal::known_width().unwrap_or(usize::MAX)))
        }
    }
}

/// Writes the page of a finished run. The run is complete without it, so a failure is a warning.
fn report(plan: &Plan<dyn Operator>, run: &Run) {
    if let Err(e) = runner::write_report(plan, run, &runner::report_path(run)) {
        let again = quoted(&run.dir().to_string_lossy());
        tracing::warn!("the report was not written: {e}; `reflux report {again}` writes it");
    }
}
