//! Evaluation: measured figures with their intervals, scores of judges that only look on, and all figures of the loop.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Float64Type, UInt32Type};
use serde_json::{Value, json};

use crate::data::Columns;
use crate::error::Result;
use crate::eval::bootstrap::Bootstrap;
use crate::eval::drift::LEAST_GROWTH;
use crate::report::evaluate::Drift;
use crate::report::page::limits::{RESAMPLED, RESAMPLES};
use crate::report::page::section::{Content, Section};
use crate::report::page::source::PageSource;

pub(super) static EVALUATION: Section =
    Section { name: "evaluation", title: "Evaluation", script: include_str!("evaluation.js"), read };

fn read(source: &PageSource<'_>) -> Result<Content> {
    let measures = measures(source)?;
    let scored = source.steps_with("scores");
    let small = |step: &&str| source.run.files(step).iter().map(|f| f.rows).sum::<u64>() <= RESAMPLED;
    let (resampled, whole): (Vec<&str>, Vec<&str>) = scored.into_iter().partition(small);
    let drift = match resampled.is_empty() {
        true => json!([]),
        false => {
            let bootstrap = Bootstrap { resamples: RESAMPLES, ..Bootstrap::default() };
            let steps: Vec<String> = resampled.iter().map(|s| (*s).to_owned()).collect();
            Drift::of(source.run, &steps, &bootstrap, LEAST_GROWTH)?.json()
        }
    };
    if measures.is_empty() && drift == json!([]) && whole.is_empty() {
        return Ok(Content::Absent("No step measures anything, and nothing was scored."));
    }
    Ok(Content::Shown(json!({
        "measures": measures, "drift": drift, "not_resampled": whole, "most_resampled": RESAMPLED,
        "resamples": RESAMPLES,
    })))
}

/// Every row of the `measure` steps.
fn measures(source: &PageSource<'_>) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    for step in source.steps_with("measures") {
        for batch in source.run.batches(step, None) {
            let (epoch, rows) = batch?;
            let columns = Columns(&rows);
            let (of, names) = (columns.text("step")?, columns.text("name")?);
            let number = |name: &str, row: usize| {
                let column = rows.column_by_name(name)?;
                let double = column.as_primitive_opt::<Float64Type>().filter(|c| c.is_valid(row)).map(|c| c.value(row));
                let whole = || column.as_primitive_opt::<UInt32Type>().map(|c| f64::from(c.value(row)));
                double.or_else(whole)
            };
            for row in 0..rows.num_rows() {
                all.push(json!({
                    "measure": step, "iteration": epoch.iteration, "step": of.value(row), "name": names.value(row),
                    "value": number("value", row), "low": number("low", row), "high": number("high", row),
                    "n": number("n", row),
                }));
            }
        }
    }
    Ok(all)
}
