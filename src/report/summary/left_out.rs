//! Rows that a run left out, by step, iteration and reason.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::written::written_list;
use crate::data::{Columns, counted};
use crate::error::Result;
use crate::store::Run;

/// Counts of rows that were left out, read from the committed `errors` files, so a resume does not change
/// them.
#[derive(Debug, Default)]
pub struct LeftOut {
    /// Rows by step, iteration, kind and code.
    counts: Vec<LeftOutRows>,
    /// Valid input rows that no output row of the step uses, by step, iteration and reason.
    unused: Vec<UnusedRows>,
}

/// An item of `left_out` in `summary.json`.
#[derive(Debug, Serialize, Deserialize)]
struct LeftOutRows {
    step: String,
    iteration: u32,
    kind: String,
    code: String,
    rows: u64,
}

/// An item of `unused` in `summary.json`.
#[derive(Debug, Serialize, Deserialize)]
struct UnusedRows {
    step: String,
    iteration: u32,
    reason: String,
    rows: u64,
}

/// Maximum number of reasons shown for a step; `summary.json` has all of them.
const TOLD: usize = 6;

impl LeftOut {
    /// Counts the rows that a run left out.
    ///
    /// # Errors
    /// A file is damaged or missing.
    pub fn of(run: &Run) -> Result<Self> {
        let (mut counts, mut unused) = (BTreeMap::<_, u64>::new(), BTreeMap::<_, u64>::new());
        for step in run.steps() {
            for entry in run.files(&step) {
                for (reason, rows) in &entry.unused {
                    *unused.entry((step.clone(), entry.iteration, reason.clone())).or_default() += rows;
                }
                let Some(rows) = run.left_out(&entry)? else { continue };
                let columns = Columns(&rows);
                for (kind, code) in columns.text("kind")?.iter().zip(columns.text("code")?) {
                    let [kind, code] = [kind, code].map(|text| text.unwrap_or_default().to_owned());
                    let key = (step.clone(), entry.iteration, kind, code);
                    *counts.entry(key).or_default() += 1;
                }
            }
        }
        let counted = |((step, iteration, kind, code), rows)| LeftOutRows { step, iteration, kind, code, rows };
        let unused_rows = |((step, iteration, reason), rows)| UnusedRows { step, iteration, reason, rows };
        Ok(Self {
            counts: counts.into_iter().map(counted).collect(),
            unused: unused.into_iter().map(unused_rows).collect(),
        })
    }

    /// Reads the lists that a run wrote to `summary.json`.
    ///
    /// # Errors
    /// A list has unexpected keys.
    pub(crate) fn written(summary: &Value) -> Result<Self> {
        Ok(Self { counts: written_list(summary, "left_out")?, unused: written_list(summary, "unused")? })
    }

    /// Returns the list for `summary.json`: step, iteration, kind, code and rows.
    pub fn json(&self) -> Value {
        json!(self.counts)
    }

    /// Returns the unused rows for `summary.json`: step, iteration, reason and rows.
    pub fn unused_json(&self) -> Value {
        json!(self.unused)
    }

    /// Returns one line for each step with unused rows, over all iterations: `pairs: 40 rows unused
    /// (in_no_pair 40)`.
    pub fn unused_lines(&self) -> Vec<String> {
        let mut steps: BTreeMap<&str, BTreeMap<&str, u64>> = BTreeMap::new();
        for UnusedRows { step, reason, rows, .. } in &self.unused {
            *steps.entry(step).or_default().entry(reason).or_default() += rows;
        }
        let line = |(step, reasons): (&str, BTreeMap<&str, u64>)| {
            let told: Vec<String> = reasons.iter().map(|(reason, rows)| format!("{reason} {rows}")).collect();
            format!("{step}: {} unused ({})", counted(reasons.values().sum::<u64>(), "row"), told.join(", "))
        };
        steps.into_iter().map(line).collect()
    }

    /// Total number of rows left out.
    pub fn rows(&self) -> u64 {
        self.counts.iter().map(|counted| counted.rows).sum()
    }

    /// Returns one line for each step and kind, over all iterations: `pairs: 12 dropped (tie 8,
    /// below_margin 4)`.
    pub fn lines(&self) -> Vec<String> {
        let mut steps: BTreeMap<(&str, &str), BTreeMap<&str, u64>> = BTreeMap::new();
        for LeftOutRows { step, kind, code, rows, .. } in &self.counts {
            *steps.entry((step, kind)).or_default().entry(code).or_default() += rows;
        }
        let line = |((step, kind), codes): ((&str, &str), BTreeMap<&str, u64>)| {
            let mut ranked: Vec<(&str, u64)> = codes.into_iter().collect();
            ranked.sort_by_key(|&(_, rows)| std::cmp::Reverse(rows));
            let told: Vec<String> = ranked.iter().take(TOLD).map(|(code, rows)| format!("{code} {rows}")).collect();
            let mut line = format!("{step}: {} {kind} ({}", ranked.iter().map(|r| r.1).sum::<u64>(), told.join(", "));
            if ranked.len() > TOLD {
                // Writing to a string cannot fail.
                let _ = write!(line, ", {}", counted(ranked.len() - TOLD, "other reason"));
            }
            line + ")"
        };
        steps.into_iter().map(line).collect()
    }
}
