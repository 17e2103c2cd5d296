//! Results of a study: every figure of every run as rows, and tables of means with intervals over the
//! seeds.

use std::sync::Arc;

use arrow::array::{Float64Array, RecordBatch, StringArray, UInt32Array};
use serde_json::Value;

use crate::data::named;
use crate::error::Result;
use crate::eval::student::mean_and_interval;

/// One figure of one run.
struct StudyRow {
    variant: String,
    seed: u32,
    iteration: u32,
    policy: String,
    measure: String,
    value: f64,
}

/// The figures of a study's runs.
#[derive(Default)]
pub struct StudyReport {
    rows: Vec<StudyRow>,
}

/// Returns the distinct items in order of first occurrence.
fn distinct<'a, T: PartialEq + 'a>(of: impl Iterator<Item = T>) -> Vec<T> {
    of.fold(Vec::new(), |mut seen, x| {
        if !seen.contains(&x) {
            seen.push(x);
        }
        seen
    })
}

impl StudyReport {
    /// Adds the figures of a run from its `summary.json`.
    pub fn add(&mut self, variant: &str, seed: u32, summary: &Value) {
        for round in summary["loop"].as_array().into_iter().flatten() {
            let iteration = round["iteration"].as_u64().and_then(|i| u32::try_from(i).ok()).unwrap_or(0);
            let policy = round["policy"].as_str().unwrap_or_default();
            for (measure, value) in round.as_object().into_iter().flatten().filter(|(key, _)| *key != "iteration") {
                let Some(value) = value.as_f64() else { continue };
                let (variant, policy, measure) = (variant.to_owned(), policy.to_owned(), measure.clone());
                self.rows.push(StudyRow { variant, seed, iteration, policy, measure, value });
            }
        }
    }

    /// Returns the figures as a dataset of schema `study`.
    ///
    /// # Errors
    /// The columns do not fit the schema, which is a bug.
    pub fn rows(&self) -> Result<RecordBatch> {
        let text = |of: fn(&StudyRow) -> &str| -> Arc<StringArray> {
            Arc::new(self.rows.iter().map(|r| Some(of(r))).collect())
        };
        named::STUDY.batch(vec![
            text(|r| &r.variant),
            Arc::new(UInt32Array::from_iter_values(self.rows.iter().map(|r| r.seed))),
            Arc::new(UInt32Array::from_iter_values(self.rows.iter().map(|r| r.iteration))),
            text(|r| &r.policy),
            text(|r| &r.measure),
            Arc::new(Float64Array::from_iter_values(self.rows.iter().map(|r| r.value))),
        ])
    }

    fn value(&self, variant: &str, seed: u32, iteration: u32, measure: &str) -> Option<f64> {
        let here =
            |r: &&StudyRow| r.variant == variant && r.seed == seed && r.iteration == iteration && r.measure == measure;
        self.rows.iter().find(here).map(|r| r.value)
    }

    /// Formats the requested measures (all if none is named) as tables. A table has a line for each
    /// variant, with the mean over the seeds and the half-width of its 95% t-interval for each iteration,
    /// followed by the same for the change within each seed.
    pub fn tables(&self, measures: &[String]) -> String {
        let known = distinct(self.rows.iter().map(|r| r.measure.as_str()));
        let asked = |m: &&str| measures.is_empty() || measures.iter().any(|asked| asked == m);
        known.into_iter().filter(asked).map(|m| self.table(m)).collect::<Vec<_>>().join("\n\n")
    }

    fn table(&self, measure: &str) -> String {
        let here = || self.rows.iter().filter(|r| r.measure == measure);
        let mut points = distinct(here().map(|r| (r.iteration, r.policy.as_str())));
        points.sort_unstable();
        let variants = distinct(here().map(|r| r.variant.as_str()));
        let seeds = distinct(self.rows.iter().map(|r| r.seed));
        let steps: Vec<_> = points.windows(2).map(|w| (w[0], w[1])).collect();
        let ends = (points.len() > 2).then(|| (points[0], points[points.len() - 1]));
        let changes: Vec<_> = steps.into_iter().chain(ends).collect();
        let names = points.iter().map(|p| p.1.to_owned());
        let heads = names.chain(changes.iter().map(|(a, b)| format!("{} to {}", a.1, b.1)));
        let mut lines: Vec<Vec<String>> = vec![std::iter::once(measure.to_owned()).chain(heads).collect()];
        for variant in variants {
            let at = |seed: u32, iteration: u32| self.value(variant, seed, iteration, measure);
            let cell = |of: &dyn Fn(u32) -> Option<f64>, sign: bool| {
                let values: Vec<f64> = seeds.iter().filter_map(|&s| of(s)).collect();
                match mean_and_interval(&values) {
                    Some((mean, half)) => {
                        let mean = if sign { format!("{mean:+.3}") } else { format!("{mean:.3}") };
                        half.map_or(mean.clone(), |h| format!("{mean} ±{h:.3}"))
                    }
                    None => String::new(),
                }
            };
            let mut line = vec![variant.to_owned()];
            line.extend(points.iter().map(|p| cell(&|seed| at(seed, p.0), false)));
            line.extend(changes.iter().map(|(a, b)| cell(&|seed| Some(at(seed, b.0)? - at(seed, a.0)?), true)));
            lines.push(line);
        }
        aligned(&lines)
    }
}

/// Aligns the first column to the left and the others to the right, with a rule below the first line.
fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |c: usize| lines.iter().map(|l| l[c].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text: Vec<String> = Vec::new();
    for line in lines {
        let cells = line.iter().zip(&widths).enumerate();
        let cells = cells.map(|(i, (cell, &w))| if i == 0 { format!("{cell:<w$}") } else { format!("{cell:>w$}") });
        text.push(cells.collect::<Vec<_>>().join("  ").trim_end().to_owned());
    }
    text.insert(1, "-".repeat(widths.iter().sum::<usize>() + 2 * columns.saturating_sub(1)));
    text.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_each_seeds_own() {
        let mut study = StudyReport::default();
        // Levels differ much between seeds, changes do not: 1.0 and 1.2, mean 1.1, half-width 12.706 x 0.1.
        for (seed, first) in [(1, 3.0), (2, 1.0)] {
            let change = if seed == 1 { 1.0 } else { 1.2 };
            let json = serde_json::json!({"loop": [
                {"iteration": 1, "policy": "M1", "truth mean": first, "pairs": 7},
                {"iteration": 2, "policy": "M2", "truth mean": first + change},
            ]});
            study.add("plain", seed, &json);
        }
        let table = study.tables(&["truth mean".into()]);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 3, "{table}");
        assert!(lines[0].starts_with("truth mean") && lines[0].ends_with("M1 to M2"), "{table}");
        assert!(lines[2].starts_with("plain") && lines[2].contains("2.000 ±12.706"), "{table}");
        assert!(lines[2].ends_with("+1.100 ±1.271"), "{table}");
        assert_eq!(study.rows().unwrap().num_rows(), 6);
        assert!(study.tables(&[]).contains("pairs"));
    }
}
