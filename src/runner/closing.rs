//! The end of a run: its summary and the closing lines that are printed.

use std::time::Duration;

use serde_json::Value;

use crate::dataflow::{Event, Observer, Operator};
use crate::error::{Error, ErrorContext as _, Result};
use crate::operators::ReferenceUse;
use crate::pipeline::Plan;
use crate::report::{RunCounters, Summary};
use crate::store::Run;

/// A run's summary, with the other inputs of its closing lines.
pub struct Closing {
    /// Every figure.
    pub summary: Summary,
    /// The reference model of each training step, in words.
    pub references: Vec<String>,
}

impl Closing {
    /// Summarises what is committed. `engines` holds each engine's statistics; `took` is the run's
    /// duration, or 0 if unknown.
    ///
    /// # Errors
    /// A committed file cannot be read.
    pub fn of(
        plan: &Plan<dyn Operator>,
        run: &Run,
        tally: &RunCounters,
        engines: &impl serde::Serialize,
        took: Duration,
    ) -> Result<Self> {
        let references = ReferenceUse::load_all(plan, run)?;
        let summary = Summary::of(plan, run, tally, engines, &references, took)?;
        Ok(Self { summary, references: references.iter().map(ToString::to_string).collect() })
    }

    /// Returns the lines to print, at most `width` columns wide where possible.
    pub fn lines(&self, run: &Run, width: usize) -> Vec<String> {
        self.summary.closing(run, &self.references, width)
    }

    /// Summarises a run of another process, finished or in progress. Reads the summary that a finished run
    /// wrote, or else computes one from what is committed; rows that were not kept, the duration and the
    /// engines' statistics are then unknown.
    ///
    /// # Errors
    /// A committed file cannot be read.
    pub fn again(plan: &Plan<dyn Operator>, run: &Run) -> Result<Self> {
        match Self::written(run) {
            Some(closing) => Ok(closing),
            None => Self::of(plan, run, &committed(plan, run), &Vec::<Value>::new(), Duration::ZERO),
        }
    }

    /// Reads the summary that a finished run wrote. Returns `None` if the file is absent, or, with a
    /// warning, if it cannot be parsed.
    pub fn written(run: &Run) -> Option<Self> {
        let read = || {
            let Some(json) = run.summary()? else { return Ok(None) };
            let name = || format!("`{}`", run.dir().join("summary.json").display());
            let references = match &json["references"] {
                Value::Null => Vec::new(),
                list => serde_json::from_value::<Vec<ReferenceUse>>(list.clone())
                    .map_err(|e| Error::user(format!("`references`: {e}")).doing(name()))?,
            };
            let references = references.iter().map(ToString::to_string).collect();
            Ok(Some(Self { summary: Summary::written(json).doing(name)?, references }))
        };
        if !run.finished() {
            return None;
        }
        read().unwrap_or_else(|e: Error| {
            tracing::warn!("{e}; what is committed is counted instead, without rows that were not kept");
            None
        })
    }
}

/// Counts what is committed as if the run had just restored it.
fn committed(plan: &Plan<dyn Operator>, run: &Run) -> RunCounters {
    let tally = RunCounters::default();
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
