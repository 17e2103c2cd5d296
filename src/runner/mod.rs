//! Runs a plan in a run directory, from opening it to writing the closing summary.
//!
//! [`run`] is the entry point: it opens the directory or continues the run in it, loads the models, runs
//! the dataflow and writes `summary.json`. The command line only adds flags and printing.

mod closing;
mod report;

pub use closing::Closing;
pub use report::{report_path, write_report};

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crate::cancel::CancelFlag;
use crate::data::quoted;
use crate::dataflow::{self, Event, Observer, Operator, RuntimeEnv, Shared, WorkerTransport};
use crate::engine::EngineConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::operators::{self, EngineUse, Models};
use crate::pipeline::{self, Plan};
use crate::report::{EngineReading, Fruitless, RunCounters, ServerReading};
use crate::store::{PriorState, Run};

/// How to open a run's directory.
#[derive(Clone, Copy, Debug)]
pub enum Open<'a> {
    /// Starts a run, or continues the one in the directory. The options name the pipeline file on the
    /// command line of a replay; an error suggests that command if the run was made with another file or
    /// with other inputs.
    Continue(&'a [String]),
    /// Starts a run and removes an earlier run in the same place.
    Fresh,
    /// Continues a run that [`dataflow::Replay::begin`] has just started with the data that it takes over.
    Begun,
}

/// Options of a run in addition to its plan.
#[derive(Clone, Copy, Debug)]
pub struct RunOptions<'a> {
    /// How to open the directory.
    pub open: Open<'a>,
    /// Number of timely workers, at least 1. It does not affect the data.
    pub workers: usize,
    /// Where models run: a device name for [`crate::model::device`].
    pub device: &'a str,
}

impl Default for RunOptions<'_> {
    /// Continues the run in the directory, with one worker, on the first accelerator that this build
    /// supports or the CPU.
    fn default() -> Self {
        Self { open: Open::Continue(&[]), workers: 1, device: "auto" }
    }
}

/// Returns what all engines have done so far, or `None` if reading it would block.
pub type ReadEngines = Box<dyn Fn() -> Option<EngineReading> + Send + Sync>;

/// Observes a run from outside. The default methods do nothing.
pub trait Watch {
    /// Called when the run continues an earlier process.
    fn resumed(&self, _run: &Path) {}
    /// Called before the dataflow starts. Returns the observer of its events.
    fn started(&self, _engines: ReadEngines) -> Arc<dyn Observer> {
        Arc::new(dataflow::NullObserver)
    }
    /// Called when the dataflow has ended, with or without an error.
    fn ended(&self) {}
}

/// A [`Watch`] that does nothing.
pub struct Unwatched;
impl Watch for Unwatched {}

/// How a run ended.
pub enum Ended {
    /// The run completed, in this directory and with these closing figures.
    Ran(Arc<Run>, Box<Closing>),
    /// The run had already finished; nothing was computed.
    AlreadyFinished,
}

/// Counts events and forwards them to another observer.
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

/// Runs a plan in the directory `dir`, or continues the run in it, and writes the closing summary.
///
/// The same plan, inputs and seed produce the same bytes of data, models and metrics, however often the run
/// was interrupted.
///
/// # Errors
/// The directory holds another run or a damaged one, a model cannot be loaded, a step fails, or `cancel`
/// was set. Everything committed before the error stays, and the same call continues from there.
pub fn run(
    plan: &Arc<Plan<dyn Operator>>,
    dir: &Path,
    options: &RunOptions<'_>,
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
        PriorState::Finished => return finished(plan, &run).map(|()| Ended::AlreadyFinished),
        PriorState::Unfinished if !matches!(options.open, Open::Begun) => watch.resumed(dir),
        _ => {}
    }
    let models = Models::new(options.device, engine_config(plan)?, plan.seed)?;
    for line in models.check_servers(plan, Some(&run), cancel)? {
        tracing::info!("{line}");
    }
    let env = RuntimeEnv::new(models);
    let servers = StopServers { env: env.clone(), run: Arc::clone(&run) };
    let engines = env.clone();
    let read = Box::new(move || Some(reading(&engines.get::<Models>().ok()?.try_engines()?)));
    let counting = Arc::new(Counting { counters: RunCounters::default(), observer: watch.started(read) });
    let shared = Shared {
        plan: Arc::clone(plan),
        run: Arc::clone(&run),
        env: env.clone(),
        observer: Arc::clone(&counting) as Arc<dyn Observer>,
        stop: cancel.clone(),
    };
    let began = Instant::now();
    let result = dataflow::run(shared, options.workers, WorkerTransport::Typed);
    drop(servers);
    watch.ended();
    result?;
    let engines = env.get::<Models>()?.engines();
    let closing = Closing::of(plan, &run, &counting.counters, &engines, began.elapsed())?;
    run.write_summary(closing.summary.json())?;
    run.finish()?;
    dataflow::drop_unkept(plan, &run)?;
    Ok(Ended::Ran(run, Box::new(closing)))
}

/// What progress shows of the engines.
fn reading(engines: &[EngineUse]) -> EngineReading {
    let mut reading = EngineReading::default();
    for used in engines {
        reading.sampled_tokens += used.stats.generated_tokens;
        for endpoint in &used.endpoints {
            let server = ServerReading {
                model: used.model.clone(),
                requests: endpoint.requests,
                in_flight: endpoint.in_flight as u64,
                retries: endpoint.retries,
                prompt_tokens: endpoint.prompt_tokens,
                cached_prompt_tokens: endpoint.cached_prompt_tokens,
                generated_tokens: endpoint.generated_tokens,
                cost: used.cost,
            };
            match reading.servers.iter_mut().find(|other| other.model == server.model) {
                // The cost is that of the model, and not of one of its servers.
                Some(other) => other.add(&ServerReading { cost: None, ..server }),
                None => reading.servers.push(server),
            }
        }
    }
    reading
}

/// Stops the servers that a run has started, however it ends.
struct StopServers {
    env: RuntimeEnv,
    run: Arc<Run>,
}

impl Drop for StopServers {
    fn drop(&mut self) {
        let stopped = self.env.get::<Models>().and_then(|models| models.stop_servers(&self.run));
        if let Err(e) = stopped {
            tracing::warn!("the folder of a server stays: {e}");
        }
    }
}

/// Completes the work that the process which finished the run may have left undone when it died.
fn finished(plan: &Arc<Plan<dyn Operator>>, run: &Arc<Run>) -> Result<()> {
    dataflow::check_finished(plan, run)?;
    dataflow::drop_unkept(plan, run)?;
    if !run.has_summary() {
        run.write_summary(Closing::again(plan, run)?.summary.json())?;
    }
    Ok(())
}

/// Builds the engine's settings from the file's `[engine]` section.
fn engine_config(plan: &Plan<dyn Operator>) -> Result<EngineConfig> {
    let mut config = EngineConfig::default().with_threads((plan.engine.threads > 0).then_some(plan.engine.threads))?;
    config.max_rows = plan.engine.max_batch;
    config.kv_memory = plan.engine.kv_memory.unwrap_or(config.kv_memory);
    config.date = plan.date;
    Ok(config)
}

/// Parses the plan stored in a run's directory. Its data and models need not exist any more.
pub fn plan_of_text(resolved: &str) -> Option<Plan<dyn Operator>> {
    pipeline::parse_str_without_data("pipeline.toml", resolved, operators::ALL).ok()
}

/// Adds the run's overrides to a refusal to continue it, if the overrides are the only difference.
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

/// Returns the overrides that turn a file's plan into the plan of an existing run.
///
/// # Errors
/// The run does not exist, or overrides alone cannot turn one plan into the other.
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

/// Warns about steps that produced no rows.
///
/// # Errors
/// No step of the run produced any rows.
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
