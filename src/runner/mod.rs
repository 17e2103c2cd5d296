//! Runs a plan in a run directory, to its closing summary.
//!
//! [`run`] is the whole of it: it opens the directory, or continues what is there; loads the models; runs the dataflow;
//! and writes `summary.json`. The command line adds flags and printing, and nothing else.

mod closing;

pub use closing::Closing;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crate::cancel::CancelFlag;
use crate::data::quoted;
use crate::dataflow::{self, Event, Observer, Operator, RuntimeEnv, Shared, Transport};
use crate::engine::EngineConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::operators::{self, Models};
use crate::pipeline::{self, Plan};
use crate::report::{Fruitless, RunCounters};
use crate::store::{Run, RunStatus};

/// How a run's directory is opened.
#[derive(Clone, Copy, Debug)]
pub enum Open<'a> {
    /// Begun, or continued if it is there. The options name the pipeline file on the command line of a replay, which an
    /// error proposes where the run was made with another file or with other inputs.
    Continue(&'a [String]),
    /// Begun; an earlier run in its place is removed.
    Fresh,
    /// Continued; [`dataflow::Replay::begin`] has just begun it with what it takes over.
    Begun,
}

/// What a run needs beside its plan.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// How the directory is opened.
    pub open: Open<'a>,
    /// Number of timely workers, at least 1. The data do not depend on it.
    pub workers: usize,
    /// Where models run: a name for [`crate::model::device`].
    pub device: &'a str,
}

impl Default for Options<'_> {
    /// Continues what is there, with one worker, on the first accelerator of the build or the CPU.
    fn default() -> Self {
        Self { open: Open::Continue(&[]), workers: 1, device: "auto" }
    }
}

/// Reads how many tokens all engines have sampled so far; none while that would take waiting.
pub type SampledTokens = Box<dyn Fn() -> Option<u64> + Send + Sync>;

/// Follows a run from outside. Each method has a default that does nothing.
pub trait Watch {
    /// The run continues where an earlier process left it.
    fn resumed(&self, _run: &Path) {}
    /// The dataflow is about to start. Returns the observer of its events.
    fn started(&self, _tokens: SampledTokens) -> Arc<dyn Observer> {
        Arc::new(dataflow::NullObserver)
    }
    /// The dataflow has ended, well or not.
    fn ended(&self) {}
}

/// Watches nothing.
pub struct Unwatched;
impl Watch for Unwatched {}

/// How a run ended.
pub enum Ended {
    /// It ran to its end, in this directory and with these closing figures.
    Ran(Arc<Run>, Box<Closing>),
    /// It had been finished before; nothing was computed.
    AlreadyFinished,
}

/// Counts events and passes them on.
struct Counting {
    counters: RunCounters,
    observer: Arc<dyn Observer>,
}

impl Observer for Counting {
    fn event(&self, event: &Event<'_>) {
        self.counters.event(event);
        self.observer.event(event);
    }
}

/// Runs a plan in the directory `dir`, or continues there, and writes the closing summary.
///
/// The same plan, inputs and seed give the same bytes of data, models and metrics, however often the run was stopped.
///
/// # Errors
/// The directory holds another run, or a damaged one; a model cannot be loaded; what a step reports; or `cancel` was set.
/// What is committed by then stays, and the same call continues with it.
pub fn run(
    plan: &Arc<Plan<dyn Operator>>,
    dir: &Path,
    options: &Options<'_>,
    watch: &dyn Watch,
    cancel: &CancelFlag,
) -> Result<Ended> {
    let fresh = matches!(options.open, Open::Fresh);
    let created = Run::create_or_open_advised(dir, &plan.resolved, plan.seed, fresh, |before| {
        let Open::Continue(named) = options.open else { return None };
        dataflow::advice(&plan_of_text(before)?, plan, dir, named)
    });
    let (run, status) = created.map_err(|e| with_settings(e, plan, dir))?;
    let run = Arc::new(run);
    match status {
        RunStatus::Finished => return finished(plan, &run).map(|()| Ended::AlreadyFinished),
        RunStatus::Unfinished if !matches!(options.open, Open::Begun) => watch.resumed(dir),
        _ => {}
    }
    let env = RuntimeEnv::new(Models::new(options.device, engine_config(plan)?, plan.seed)?);
    let engines = env.clone();
    let tokens = Box::new(move || engines.get::<Models>().ok()?.sampled_tokens());
    let counting = Arc::new(Counting { counters: RunCounters::default(), observer: watch.started(tokens) });
    let shared = Shared {
        plan: Arc::clone(plan),
        run: Arc::clone(&run),
        env: env.clone(),
        observer: Arc::clone(&counting) as Arc<dyn Observer>,
        stop: cancel.clone(),
    };
    let began = Instant::now();
    let result = dataflow::run(shared, options.workers, Transport::Typed);
    watch.ended();
    result?;
    let engines = env.get::<Models>()?.engines();
    let closing = Closing::of(plan, &run, &counting.counters, &engines, began.elapsed())?;
    run.write_summary(closing.summary.json())?;
    run.finish()?;
    dataflow::drop_unkept(plan, &run)?;
    Ok(Ended::Ran(run, Box::new(closing)))
}

/// Completes what the process that finished the run may have left undone when it died.
fn finished(plan: &Arc<Plan<dyn Operator>>, run: &Arc<Run>) -> Result<()> {
    dataflow::check_finished(plan, run)?;
    dataflow::drop_unkept(plan, run)?;
    if !run.has_summary() {
        run.write_summary(Closing::again(plan, run)?.summary.json())?;
    }
    Ok(())
}

/// The engine's settings by the file's `[engine]` section.
fn engine_config(plan: &Plan<dyn Operator>) -> Result<EngineConfig> {
    let mut config = EngineConfig::default().with_threads((plan.engine.threads > 0).then_some(plan.engine.threads))?;
    config.max_rows = plan.engine.max_batch;
    config.kv_memory = plan.engine.kv_memory.unwrap_or(config.kv_memory);
    config.date = plan.date;
    Ok(config)
}

/// The plan that a run has in its directory; its data and models need not be here any more.
pub fn plan_of_text(resolved: &str) -> Option<Plan<dyn Operator>> {
    pipeline::parse_str_without_data("pipeline.toml", resolved, operators::ALL).ok()
}

/// Adds to a refusal to continue a run the overrides that it was made with, where only those are missing.
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

/// The overrides that turn a file into the one that a run was made with.
///
/// # Errors
/// There is no such run, or overrides alone do not turn one into the other.
pub fn settings_of(dir: &Path, plan: &Plan<dyn Operator>) -> Result<Vec<String>> {
    let before = Run::open(dir)?.pipeline_text()?;
    pipeline::replay::settings(&plan.resolved, &before).ok_or_else(|| {
        Error::user(format!(
            "the run `{}` was made with another pipeline file, not only with other settings",
            dir.display()
        ))
        .help(format!("its own file is {}/pipeline.toml", dir.display()))
    })
}

/// Warns of the steps that made no row.
///
/// # Errors
/// No step of the run made any.
pub fn check_rows_came(plan: &Plan<dyn Operator>, dir: &Path) -> Result<()> {
    let fruitless = Fruitless::of(plan, &Run::open(dir)?)?;
    if fruitless.all() {
        let lines = fruitless.lines().collect::<Vec<_>>().join("; ");
        let message = format!("nothing came of the run {}: {lines}", dir.display());
        return Err(Error::nothing(message).help(fruitless.help()));
    }
    fruitless.lines().for_each(|line| tracing::warn!("nothing came of the step {line}"));
    Ok(())
}
