//! Counts the judgements that `rescore` steps read differently.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::written::written_list;
use crate::data::{Columns, counted};
use crate::dataflow::Operator;
use crate::error::Result;
use crate::pipeline::Plan;
use crate::store::Run;

/// An item of `rescored` in `summary.json`: all judgements of a step, and the changed ones by old and new
/// reading.
#[derive(Debug, Serialize, Deserialize)]
struct RescoredStep {
    step: String,
    judgements: u64,
    changes: BTreeMap<String, u64>,
}

/// Counts of changed judgements by step, from committed rows.
#[derive(Debug, Default)]
pub struct Rescored {
    /// Sorted by step.
    steps: Vec<RescoredStep>,
}

impl Rescored {
    /// Counts the changes of a run.
    ///
    /// # Errors
    /// A file is damaged or missing.
    pub fn of(plan: &Plan<dyn Operator>, run: &Run) -> Result<Self> {
        let mut steps = Vec::new();
        for step in plan.steps.iter().filter(|s| s.kind.name == "rescore" && s.keep) {
            let (mut judgements, mut changes) = (0, BTreeMap::<String, u64>::new());
            for batch in run.batches(&step.name, None) {
                let rows = batch?.1;
                let said = Columns(&rows).judgements("judgements")?;
                judgements += (0..rows.num_rows()).map(|i| said.row(i).count() as u64).sum::<u64>();
                let Some(column) = rows.column_by_name("changes").and_then(|c| c.as_list_opt::<i32>()) else {
                    continue;
                };
                let Some(texts) = column.values().as_string_opt::<i32>() else { continue };
                (0..texts.len()).for_each(|i| *changes.entry(texts.value(i).to_owned()).or_default() += 1);
            }
            steps.push(RescoredStep { step: step.name.clone(), judgements, changes });
        }
        steps.sort_by(|a, b| a.step.cmp(&b.step));
        Ok(Self { steps })
    }

    /// Reads the list that a run wrote to `summary.json`.
    ///
    /// # Errors
    /// The list has unexpected keys.
    pub(crate) fn written(summary: &Value) -> Result<Self> {
        Ok(Self { steps: written_list(summary, "rescored")? })
    }

    /// Returns the list for `summary.json`.
    pub fn json(&self) -> Value {
        json!(self.steps)
    }

    /// Returns one line for each step: `scores: 12 of 96 judgements read differently than before: 12 times
    /// no_match -> score`.
    pub fn lines(&self) -> Vec<String> {
        let line = |RescoredStep { step, judgements, changes }: &RescoredStep| {
            let changed: u64 = changes.values().sum();
            let told: Vec<String> = changes.iter().map(|(change, n)| format!("{n} times {change}")).collect();
            let told = if told.is_empty() { String::new() } else { format!(": {}", told.join(", ")) };
            format!("{step}: {changed} of {} read differently than before{told}", counted(*judgements, "judgement"))
        };
        self.steps.iter().map(line).collect()
    }
}
