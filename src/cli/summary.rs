//! `reflux summary`, and the closing lines of `reflux run`.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::check::was;
use super::terminal;
use crate::data::read_regular;
use crate::dataflow::{Event, Observer, Operator};
use crate::error::{Error, Result};
use crate::operators::ReferenceUse;
use crate::pipeline::Plan;
use crate::report::{Summary, Tally};
use crate::store::{Run, find_run};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  reflux summary quickstart                what the run runs/quickstart closed with, or has so far
  reflux summary quickstart --json | jq .models")]
pub struct Args {
    /// The run: a directory, or a name in runs
    run: PathBuf,
    /// As one JSON object, as summary.json has it
    #[arg(long)]
    json: bool,
}

/// A run's summary, and what else its closing lines are made of.
pub struct Closing {
    pub summary: Summary,
    /// What each training was held to, in words.
    pub references: Vec<String>,
}

impl Closing {
    /// From what is committed; `engines` is what each engine did, `took` how long the run took, 0 where it is not known.
    ///
    /// # Errors
    /// A committed file cannot be read.
    pub fn of(
        plan: &Plan<dyn Operator>,
        run: &Run,
        tally: &Tally,
        engines: &impl serde::Serialize,
        took: Duration,
    ) -> Result<Self> {
        let references = ReferenceUse::of(plan, run)?;
        let summary = Summary::of(plan, run, tally, engines, &references, took)?;
        Ok(Self { summary, references: references.iter().map(ToString::to_string).collect() })
    }

    /// The lines to print.
    pub fn lines(&self, run: &Run) -> Vec<String> {
        self.summary.closing(run, &self.references, terminal::known_width().unwrap_or(usize::MAX))
    }

    /// The same for a run that another process made, or makes. How long it took and what its engines did is in its
    /// `summary.json`, and so is the table with figures of rows that were not kept; what is not there is not known.
    ///
    /// # Errors
    /// A committed file cannot be read.
    pub fn again(plan: &Plan<dyn Operator>, run: &Run) -> Result<Self> {
        let written = written(run);
        let engines = written["engines"].as_array().cloned().unwrap_or_default();
        let seconds = written["seconds"].as_f64().filter(|s| s.is_finite() && *s > 0.).unwrap_or_default();
        let took = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        let mut closing = Self::of(plan, run, &committed(plan, run), &engines, took)?;
        closing.summary.keep_table(&written);
        Ok(closing)
    }
}

/// The summary that a finished run wrote; null where there is none, or not as it was written.
fn written(run: &Run) -> Value {
    if !run.finished() || !run.has_summary() {
        return Value::Null;
    }
    let text = read_regular(&run.dir().join("summary.json")).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Counts what is committed as if it had just been restored.
fn committed(plan: &Plan<dyn Operator>, run: &Run) -> Tally {
    let tally = Tally::default();
    let count = |rows: u64| usize::try_from(rows).unwrap_or(usize::MAX);
    for file in run.entries().iter().filter(|f| plan.step(&f.step).is_some()) {
        tally.event(&Event::Done {
            step: &file.step,
            epoch: file.epoch(),
            rows: count(file.rows),
            errors: file.errors.as_ref().map_or(0, |e| count(e.rows)),
            bytes: file.bytes,
            began: Duration::ZERO,
            busy: Duration::ZERO,
            restored: true,
        });
    }
    tally
}

pub fn run(args: &Args) -> Result<()> {
    let run = Run::open(&find_run(&args.run))?;
    let plan = was(&run.pipeline_text()?).ok_or_else(|| {
        Error::user(format!("{}/pipeline.toml is not a pipeline file of this version", run.dir().display()))
            .help("`reflux check --no-data` of it says what is wrong")
    })?;
    let closing = Closing::again(&plan, &run)?;
    if args.json {
        let written = written(&run);
        return terminal::print_json(format!(
            "{:#}",
            if written.is_null() { closing.summary.json() } else { &written }
        ));
    }
    terminal::print_lines(closing.lines(&run).iter().skip_while(|line| line.is_empty()))
}
