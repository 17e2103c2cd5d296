//! Rows a second and peak memory of the whole dataflow, with scripted models: what it costs beside the models.
//!
//! `cargo bench --profile dev --bench dataflow [-- PROMPTS ... --microbatch 256]`; each size runs in a process of its own, so that
//! its peak memory is its own. A row is one that a step has written: of P prompts P are read, 4 P answered, 4 P judged (three
//! judgements in a row each), and most prompts give a pair.

#[path = "scripted/mod.rs"]
mod scripted;

use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use reflux::bench::peak_rss_mb;
use reflux::cancel::CancelFlag;
use reflux::dataflow::{self, RuntimeEnv, Shared, WorkerTransport};
use reflux::engine::EngineConfig;
use reflux::operators::{self, Models};
use reflux::pipeline;
use reflux::report::RunCounters;
use reflux::store::Run;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    if let Ok(prompts) = std::env::var("REFLUX_BENCH_PROMPTS") {
        return measure(prompts.parse()?, std::env::var("REFLUX_BENCH_MICROBATCH")?.parse()?);
    }
    let (mut sizes, mut microbatch) = (Vec::new(), "256".to_owned());
    let mut given = std::env::args().skip(1).filter(|a| a != "--bench");
    while let Some(argument) = given.next() {
        match argument.as_str() {
            "--microbatch" => microbatch = given.next().ok_or("--microbatch needs a number")?,
            _ => sizes.push(argument),
        }
    }
    if sizes.is_empty() {
        sizes = ["1000", "10000", "100000"].map(String::from).to_vec();
    }
    for size in sizes {
        let mut sized = Command::new(std::env::current_exe()?);
        sized.env("REFLUX_BENCH_PROMPTS", size).env("REFLUX_BENCH_MICROBATCH", &microbatch);
        let status = sized.status()?;
        if !status.success() {
            return Err(format!("the measured process ended with {status}").into());
        }
    }
    Ok(())
}

fn measure(rows: usize, microbatch: usize) -> Result<(), Failure> {
    let dir = std::env::temp_dir().join(format!("reflux-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let text = scripted::pipeline(&dir, rows, microbatch)?;
    let plan = pipeline::parse_str("bench.toml", &text, &[], operators::ALL)?;
    let (run, _) = Run::create_or_open(&dir.join("run"), &plan.resolved, plan.seed, true)?;
    let (env, tally) =
        (RuntimeEnv::new(Models::new("cpu", EngineConfig::default(), 0)?), Arc::new(RunCounters::default()));
    let observer = Arc::clone(&tally) as Arc<dyn dataflow::Observer>;
    let began = Instant::now();
    dataflow::run(
        Shared { plan: Arc::new(plan), run: Arc::new(run), env, observer, stop: CancelFlag::default() },
        1,
        WorkerTransport::Typed,
    )?;
    let seconds = began.elapsed().as_secs_f64();
    let all: u64 = tally.counts().values().map(|c| c.rows).sum();
    let memory = peak_rss_mb();
    println!(
        "{rows} prompts, {microbatch} at a time: {all} rows in {seconds:.2} s, {:.0} rows/s, {:.0} judgements/s, peak memory {memory} MB",
        all as f64 / seconds,
        (rows * 4 * 3) as f64 / seconds
    );
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}
