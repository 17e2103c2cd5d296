//! What was left out of a run, by step, iteration and reason.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::data::Columns;
use crate::error::Result;
use crate::store::Run;

/// The rows that were left out, counted from the committed `errors` files: the same after a resume.
#[derive(Debug, Default)]
pub struct LeftOut {
    /// Rows by step, iteration, kind and code.
    counts: BTreeMap<(String, u32, String, String), u64>,
}

/// Reasons of a step that are told by name; `summary.json` has all.
const TOLD: usize = 6;

impl LeftOut {
    /// Counts what a run has left out.
    ///
    /// # Errors
    /// A file is damaged or gone.
    pub fn of(run: &Run) -> Result<Self> {
        let mut counts = BTreeMap::new();
        for step in run.steps() {
            for entry in run.files(&step) {
                let Some(rows) = run.left_out(&entry)? else { continue };
                let columns = Columns(&rows);
                for (kind, code) in columns.text("kind")?.iter().zip(columns.text("code")?) {
                    let key = (
                        step.clone(),
                        entry.iteration,
                        kind.unwrap_or_default().into(),
                        code.unwrap_or_default().into(),
                    );
                    *counts.entry(key).or_default() += 1;
                }
            }
        }
        Ok(Self { counts })
    }

    /// As in `summary.json`: a list of step, iteration, kind, code and rows.
    pub fn json(&self) -> Value {
        let one = |((step, iteration, kind, code), rows): (&(String, u32, String, String), &u64)| json!({ "step": step, "iteration": iteration, "kind": kind, "code": code, "rows": rows });
        self.counts.iter().map(one).collect()
    }

    /// Rows in all.
    pub fn rows(&self) -> u64 {
        self.counts.values().sum()
    }

    /// A line for each step and kind, over all iterations: `pairs: 12 dropped (tie 8, below_margin 4)`.
    pub fn lines(&self) -> Vec<String> {
        let mut steps: BTreeMap<(&str, &str), BTreeMap<&str, u64>> = BTreeMap::new();
        for ((step, _, kind, code), rows) in &self.counts {
            *steps.entry((step, kind)).or_default().entry(code).or_default() += rows;
        }
        let line = |((step, kind), codes): ((&str, &str), BTreeMap<&str, u64>)| {
            let mut ranked: Vec<(&str, u64)> = codes.into_iter().collect();
            ranked.sort_by_key(|&(_, rows)| std::cmp::Reverse(rows));
            let told: Vec<String> = ranked.iter().take(TOLD).map(|(code, rows)| format!("{code} {rows}")).collect();
            let mut line = format!("{step}: {} {kind} ({}", ranked.iter().map(|r| r.1).sum::<u64>(), told.join(", "));
            if ranked.len() > TOLD {
                // Writing to a string cannot fail.
                let _ = write!(line, ", {} other reasons", ranked.len() - TOLD);
            }
            line + ")"
        };
        steps.into_iter().map(line).collect()
    }
}
