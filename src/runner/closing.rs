//! What a run closes with: its summary, and the lines that are printed of it.

use std::time::Duration;

use serde_json::Value;

use crate::dataflow::{Event, Observer, Operator};
use crate::error::{Context as _, Error, Result};
use crate::operators::ReferenceUse;
use crate::pipeline::Plan;
use crate::report::{RunCounters, Summary};
use crate::store::Run;

/// A run's summary, and what else its closing lines are made of.
pub struct Closing {
    /// Every figure.
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
        tally: &RunCounters,
        engines: &impl serde::Serialize,
        took: Duration,
    ) -> Result<Self> {
        let references = ReferenceUse::load_all(plan, run)?;
        let summary = Summary::of(plan, run, tally, engines, &references, took)?;
        Ok(Self { summary, references: references.iter().map(ToString::to_string).collect() })
    }

    /// The lines to print, in at most `width` columns where that is possible.
    pub fn lines(&self, run: &Run, width: usize) -> Vec<String> {
        self.summary.closing(run, &self.references, width)
    }

    /// The same for a run that another process made, or makes: as a finished run wrote it, or else from what is committed,
    /// where figures of rows that were not kept, how long it took and what its engines did are not known.
    ///
    /// # Errors
    /// A committed file cannot be read.
    pub fn again(plan: &Plan<dyn Operator>, run: &Run) -> Result<Self> {
        match Self::written(run) {
            Some(closing) => Ok(closing),
            None => Self::of(plan, run, &committed(plan, run), &Vec::<Value>::new(), Duration::ZERO),
        }
    }

    /// What a finished run wrote; none where it is not there, or with a warning not as a run writes it.
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

/// Counts what is committed as if it had just been restored.
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
