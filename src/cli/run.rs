//! `reflux run`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::check::{Warnings, load, refuse, was};
use super::progress::{Progress, Style};
use super::summary::Closing;
use super::terminal;
use crate::cancel::CancelFlag;
use crate::data::quoted;
use crate::dataflow::{self, Event, Observer, Operator, RuntimeEnv, Shared, Transport};
use crate::engine::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::operators::{self, Models};
use crate::pipeline::{self, Plan};
use crate::report::{Fruitless, Outline, RunCounters};
use crate::store::{Run, RunStatus};

#[derive(clap::Args)]
pub struct Args {
    /// The pipeline file
    pub file: PathBuf,
    /// Overrides a key, e.g. --set step.dpo.beta=0.2
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Name of the run, as in runs/NAME; the pipeline's if absent
    #[arg(long)]
    name: Option<String>,
    /// Folder of the runs
    #[arg(long, default_value = "runs")]
    runs: PathBuf,
    /// Removes an earlier run of this name and starts anew
    #[arg(long)]
    fresh: bool,
    /// Continues a run with the --set overrides that it was made with
    #[arg(long, conflicts_with = "fresh")]
    resume: bool,
    #[command(flatten)]
    pub machine: Machine,
}

/// What it runs on.
#[derive(clap::Args)]
pub struct Machine {
    /// Number of timely workers; the data are the same whatever it is
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: u16,
    /// Where models run: cpu, cuda, metal, or auto
    #[arg(long, default_value = "auto")]
    device: String,
}

impl Machine {
    /// One worker and this device.
    pub fn on(device: &str) -> Self {
        Self { workers: 1, device: device.to_owned() }
    }
}

/// How a run's directory is opened.
pub enum Open<'a> {
    /// Begun, or gone on with. The options name the pipeline file on the command line of a replay.
    Continue(&'a [String]),
    /// Begun anew.
    Fresh,
    /// Just begun by a replay, with what it takes over.
    Begun,
}

impl Args {
    /// How to open a run of this file under the overrides `set`.
    pub fn open<'a>(&self, set: &[String], named: &'a mut Vec<String>) -> Open<'a> {
        if self.fresh {
            return Open::Fresh;
        }
        *named = vec!["--file".to_owned(), self.file.display().to_string()];
        named.extend(set.iter().flat_map(|s| ["--set".to_owned(), s.clone()]));
        Open::Continue(named)
    }
}

/// Counts and shows.
struct Both {
    tally: RunCounters,
    progress: Progress,
}
impl Observer for Both {
    fn event(&self, event: &Event<'_>) {
        self.tally.event(event);
        self.progress.event(event);
    }
}

pub fn run(args: &Args, style: &Style) -> Result<()> {
    let mut plan = Arc::new(load(&args.file, &args.set, Warnings::Shown)?);
    let name = args.name.as_ref().unwrap_or(&plan.name);
    let dir = directory(&args.runs, name)?;
    let mut set = args.set.clone();
    if args.resume {
        set.extend(settings_of(&dir, &plan)?);
        plan = Arc::new(load(&args.file, &set, Warnings::Hidden)?);
    }
    refuse(operators::preflight(&plan).problems)?;
    let stop = CancelFlag::default();
    stop_on_interrupt(&stop);
    if plan.study.is_some() {
        super::study::run(args, &plan, &dir, style, &stop)
    } else {
        let mut named = Vec::new();
        execute(&plan, &dir, &args.open(&set, &mut named), &args.machine, style, &stop)?;
        something_came(&plan, &dir)
    }
}

/// Says of which steps nothing came.
///
/// # Errors
/// Nothing came of the whole run.
pub fn something_came(plan: &Plan<dyn Operator>, dir: &Path) -> Result<()> {
    let fruitless = Fruitless::of(plan, &Run::open(dir)?)?;
    if fruitless.all() {
        let lines = fruitless.lines().collect::<Vec<_>>().join("; ");
        let message = format!("nothing came of the run {}: {lines}", dir.display());
        return Err(Error::nothing(message).help(fruitless.help()));
    }
    fruitless.lines().for_each(|line| tracing::warn!("nothing came of the step {line}"));
    Ok(())
}

/// The overrides that turn a file into the one that a run was made with.
///
/// # Errors
/// There is no such run, or overrides alone do not turn one into the other.
fn settings_of(dir: &Path, plan: &Plan<dyn Operator>) -> Result<Vec<String>> {
    let before = Run::open(dir)?.pipeline_text()?;
    pipeline::replay::settings(&plan.resolved, &before).ok_or_else(|| {
        Error::user(format!(
            "the run `{}` was made with another pipeline file, not only with other settings",
            dir.display()
        ))
        .help(format!("its own file is {}/pipeline.toml", dir.display()))
    })
}

/// The directory of a run of that name.
pub fn directory(runs: &Path, name: &str) -> Result<PathBuf> {
    if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\']) {
        return Err(Error::user(format!("`{name}` is no name for a run")).help("use letters, digits, - and _"));
    }
    Ok(runs.join(name))
}

/// Runs a plan in its directory, or goes on there, to the closing summary.
pub fn execute(
    plan: &Arc<Plan<dyn Operator>>,
    dir: &Path,
    open: &Open<'_>,
    machine: &Machine,
    style: &Style,
    stop: &CancelFlag,
) -> Result<()> {
    carry_out(plan, dir, open, machine, *style, *style == Style::Quiet, stop)
}

/// Adds to a refusal to go on with a run the overrides that it was made with, where those alone are missing.
fn with_settings(e: Error, plan: &Plan<dyn Operator>, dir: &Path) -> Error {
    let before = Run::open(dir).and_then(|run| run.pipeline_text()).unwrap_or_default();
    let changed = e.kind() == ErrorKind::User && !before.is_empty() && before != plan.resolved;
    let Some(set) = pipeline::replay::settings(&plan.resolved, &before).filter(|set| changed && !set.is_empty()) else {
        return e;
    };
    let set: Vec<String> = set.iter().map(|s| format!("--set {}", quoted(s))).collect();
    let mut help = e.help_text().unwrap_or_default().to_owned();
    help.push_str(&format!(
        "\n  or continue the run with the settings that it was made with: add --resume, which stands for\n    {}",
        set.join(" ")
    ));
    e.help(help)
}

/// As [`execute`]; with `quiet` progress is shown and nothing is said at the end.
pub fn carry_out(
    plan: &Arc<Plan<dyn Operator>>,
    dir: &Path,
    open: &Open<'_>,
    machine: &Machine,
    style: Style,
    quiet: bool,
    stop: &CancelFlag,
) -> Result<()> {
    let fresh = matches!(open, Open::Fresh);
    let created = Run::create_or_open_advised(dir, &plan.resolved, plan.seed, fresh, |before| {
        let Open::Continue(named) = open else { return None };
        dataflow::advice(&was(before)?, plan, dir, named)
    });
    let (run, opened) = created.map_err(|e| with_settings(e, plan, dir))?;
    let run = Arc::new(run);
    let place = dir.display();
    match opened {
        RunStatus::Finished => {
            dataflow::check_finished(plan, &run)?;
            // The process that finished it may have died before it had removed what is not to be kept.
            dataflow::drop_unkept(plan, &run)?;
            if !run.has_summary() {
                run.write_summary(Closing::again(plan, &run)?.summary.json())?;
            }
            if !quiet {
                terminal::print_line(&format!(
                    "the run {place} is finished: its data are there; --fresh starts it anew"
                ))?;
            }
            return Ok(());
        }
        RunStatus::Unfinished if !quiet && !matches!(open, Open::Begun) => {
            terminal::line(&format!("going on with the run {place}"))
        }
        _ => {}
    }
    let mut engine = Config::default().with_threads((plan.engine.threads > 0).then_some(plan.engine.threads))?;
    engine.max_rows = plan.engine.max_batch;
    engine.kv_memory = plan.engine.kv_memory.unwrap_or(engine.kv_memory);
    engine.date = plan.date;
    let services = RuntimeEnv::new(Models::new(&machine.device, engine, plan.seed)?);
    let engines = services.clone();
    let tokens = Box::new(move || engines.get::<Models>().ok()?.sampled_tokens());
    let progress = Progress::new(style, Outline::new(plan), tokens);
    let watch = Arc::new(Both { tally: RunCounters::default(), progress });
    let shared = Shared {
        plan: Arc::clone(plan),
        run: Arc::clone(&run),
        env: services.clone(),
        observer: Arc::clone(&watch) as Arc<dyn Observer>,
        stop: stop.clone(),
    };
    let began = Instant::now();
    let result = dataflow::run(shared, machine.workers.into(), Transport::Typed);
    watch.progress.finish();
    result.map_err(|e| match e.kind() {
        crate::error::ErrorKind::Cancelled => {
            e.help(format!("what was committed to {place} stays; run the same command to go on"))
        }
        _ => e,
    })?;
    let engines = services.get::<Models>()?.engines();
    let before = Closing::of(plan, &run, &watch.tally, &engines, began.elapsed())?;
    run.write_summary(before.summary.json())?;
    run.finish()?;
    dataflow::drop_unkept(plan, &run)?;
    if quiet {
        return Ok(());
    }
    terminal::print_lines(before.lines(&run))
}

/// The first Ctrl-C stops the run where it is; the second ends the process.
pub fn stop_on_interrupt(stop: &CancelFlag) {
    let stop = stop.clone();
    let handler = move || {
        if stop.is_set() {
            std::process::exit(1);
        }
        terminal::line("stopping; press Ctrl-C again to end at once");
        stop.set();
    };
    if let Err(e) = ctrlc::set_handler(handler) {
        tracing::debug!("Ctrl-C is not handled: {e}");
    }
}
