//! The data of a page.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::sections;
use super::source::PageSource;
use super::step_facts::{StepFacts, step_facts};
use crate::data::visible;
use crate::dataflow::Operator;
use crate::error::Result;
use crate::pipeline::Plan;
use crate::report::summary::run_summary::Summary;
use crate::store::Run;

/// Version of the snapshot's form; a page's script draws snapshots of its own version.
const FORMAT: u32 = 1;

/// What the page of a run shows: figures and sample rows, read from committed files.
#[derive(Serialize)]
pub struct Snapshot {
    format: u32,
    name: String,
    /// The run's directory, as the commands that the page shows name it.
    place: String,
    state: &'static str,
    seed: u64,
    reflux: &'static str,
    /// Iterations of the loop; 0 without one.
    iterations: u32,
    /// Name of the policy by iteration, from 1.
    policies: Vec<Value>,
    steps: Vec<StepFacts>,
    /// By the name of the section.
    sections: Map<String, Value>,
}

impl Snapshot {
    /// Reads a run. The figures are those of `summary`; rows are sampled by their places, so the same run gives the
    /// same snapshot. Its size is bounded.
    ///
    /// # Errors
    /// A committed file cannot be read.
    pub fn of(plan: &Plan<dyn Operator>, run: &Run, summary: &Summary) -> Result<Self> {
        let source = PageSource { plan, run, summary: summary.json() };
        let mut read = Map::new();
        for section in sections::ALL {
            read.insert(section.name.to_owned(), (section.read)(&source)?.into_value());
        }
        Ok(Self {
            format: FORMAT,
            name: run.name(),
            place: run.dir().display().to_string(),
            state: run.run_state().word(),
            seed: run.seed(),
            reflux: env!("CARGO_PKG_VERSION"),
            iterations: if plan.loop_.is_some() { plan.iterations } else { 0 },
            policies: source.listed("loop").iter().map(|round| round["policy"].clone()).collect(),
            steps: step_facts(&source),
            sections: read,
        })
    }

    /// The snapshot as JSON. Characters that control the layout of text, such as marks of writing direction, are
    /// shown as escapes: no text of a model can change how the page reads.
    pub fn json(&self) -> Value {
        escaped(json!(self))
    }

    /// The name of the run.
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

fn escaped(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(visible(&text).into_owned()),
        Value::Array(items) => items.into_iter().map(escaped).collect(),
        Value::Object(map) => {
            Value::Object(map.into_iter().map(|(key, value)| (visible(&key).into_owned(), escaped(value))).collect())
        }
        other => other,
    }
}
