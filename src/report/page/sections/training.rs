//! Training curves: every measure of every training, thinned to a bounded number of points.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type, UInt32Type};
use serde_json::{Map, Value, json};

use crate::error::Result;
use crate::report::page::limits::{POINTS, POINTS_OF_CURVE, drawn, share};
use crate::report::page::section::{Content, Section};
use crate::report::page::source::PageSource;

pub(super) static TRAINING: Section =
    Section { name: "training", title: "Training", script: include_str!("training.js"), read };

/// Measures of a training that are not drawn by step.
const NOT_DRAWN: [&str; 3] = ["step", "epoch", "num_tokens"];

fn read(source: &PageSource<'_>) -> Result<Content> {
    let entries = source.run.metrics();
    if entries.is_empty() {
        return Ok(Content::Absent("No training has finished in this run."));
    }
    let mut trainings = Vec::new();
    for entry in &entries {
        let rows = source.run.load_metrics(entry)?;
        let drawn: Vec<usize> = drawn_columns(&rows);
        let points = share(POINTS, entries.len() * drawn.len(), POINTS_OF_CURVE);
        // Each point is the mean of this number of optimizer steps.
        let every = rows.num_rows().div_ceil(points).max(1);
        let mut curves = Map::new();
        for column in drawn {
            let name = rows.schema_ref().field(column).name().clone();
            curves.insert(name, curve(&rows, column, every));
        }
        let model =
            source.listed("models").iter().find(|m| m["step"] == entry.step && m["iteration"] == entry.iteration);
        trainings.push(json!({
            "step": entry.step, "iteration": entry.iteration, "optimizer_steps": entry.rows, "every": every,
            "at": steps(&rows, every), "curves": curves, "model": model.map(|m| &m["name"]),
            "training": model.map(|m| &m["training"]),
        }));
    }
    Ok(Content::Shown(json!({ "trainings": trainings, "references": source.summary["references"] })))
}

/// Columns of numbers with at least one value.
fn drawn_columns(rows: &RecordBatch) -> Vec<usize> {
    let schema = rows.schema_ref();
    let wanted = |&at: &usize| {
        let field = schema.field(at);
        let known = rows.column(at).null_count() < rows.num_rows();
        known && *field.data_type() == DataType::Float64 && !NOT_DRAWN.contains(&field.name().as_str())
    };
    (0..schema.fields().len()).filter(wanted).collect()
}

/// The last optimizer step of each point.
fn steps(rows: &RecordBatch, every: usize) -> Vec<u32> {
    let numbers = rows.column_by_name("step").and_then(|c| c.as_primitive_opt::<UInt32Type>());
    let number = |row: usize| numbers.map_or(row as u32 + 1, |n| n.value(row));
    let n = rows.num_rows();
    (0..n.div_ceil(every)).map(|point| number(((point + 1) * every).min(n) - 1)).collect()
}

/// The means of a column over `every` rows each; null where it has no value, such as between validations.
fn curve(rows: &RecordBatch, column: usize, every: usize) -> Value {
    let Some(values) = rows.column(column).as_primitive_opt::<Float64Type>() else { return Value::Null };
    let n = rows.num_rows();
    let mean = |point: usize| {
        let known: Vec<f64> = (point * every..((point + 1) * every).min(n))
            .filter(|&row| values.is_valid(row))
            .map(|row| values.value(row))
            .collect();
        (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64).and_then(drawn)
    };
    json!((0..n.div_ceil(every)).map(mean).collect::<Vec<_>>())
}
