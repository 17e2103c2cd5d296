//! Distributions by iteration: scores, margins, and the lengths of chosen and rejected answers.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Float32Type;
use serde_json::{Value, json};

use crate::error::Result;
use crate::report::page::histogram::Histogram;
use crate::report::page::section::{Content, Section};
use crate::report::page::source::PageSource;
use crate::store::FileEntry;

pub(super) static SCORES: Section =
    Section { name: "scores", title: "Scores, margins and lengths", script: include_str!("scores.js"), read };

/// A quantity whose distribution is drawn.
struct Quantity {
    name: &'static str,
    title: &'static str,
    /// Schema of the steps that have it, and the columns that it is computed from.
    schema: &'static str,
    columns: &'static [&'static str],
    /// The value of a row, if it has one.
    value: fn(&RecordBatch, usize) -> Option<f64>,
}

/// Every quantity. A row without a value is counted.
const QUANTITIES: [Quantity; 6] = [
    Quantity {
        name: "score",
        title: "Scores",
        schema: "scores",
        columns: &["score"],
        value: |r, i| float(r, "score", i),
    },
    Quantity {
        name: "length",
        title: "Length of judged answers (tokens)",
        schema: "scores",
        columns: &["response_tokens"],
        value: |r, i| length(r, "response_tokens", i),
    },
    Quantity {
        name: "margin",
        title: "Margins of the pairs",
        schema: "pairs",
        columns: &["margin"],
        value: |r, i| float(r, "margin", i),
    },
    Quantity {
        name: "chosen_length",
        title: "Length of chosen answers (tokens)",
        schema: "pairs",
        columns: &["chosen_tokens"],
        value: |r, i| length(r, "chosen_tokens", i),
    },
    Quantity {
        name: "rejected_length",
        title: "Length of rejected answers (tokens)",
        schema: "pairs",
        columns: &["rejected_tokens"],
        value: |r, i| length(r, "rejected_tokens", i),
    },
    Quantity {
        name: "length_gap",
        title: "Chosen minus rejected length (tokens)",
        schema: "pairs",
        columns: &["chosen_tokens", "rejected_tokens"],
        value: |r, i| Some(length(r, "chosen_tokens", i)? - length(r, "rejected_tokens", i)?),
    },
];

fn float(rows: &RecordBatch, name: &str, row: usize) -> Option<f64> {
    let values = rows.column_by_name(name)?.as_primitive_opt::<Float32Type>()?;
    values.is_valid(row).then(|| f64::from(values.value(row)))
}

fn length(rows: &RecordBatch, name: &str, row: usize) -> Option<f64> {
    let lists = rows.column_by_name(name)?.as_list_opt::<i32>()?;
    lists.is_valid(row).then(|| f64::from(lists.value_length(row)))
}

fn read(source: &PageSource<'_>) -> Result<Content> {
    let mut shown = Vec::new();
    for schema in ["scores", "pairs"] {
        for step in source.steps_with(schema) {
            let quantities: Vec<&Quantity> = QUANTITIES.iter().filter(|q| q.schema == schema).collect();
            let mut all = Vec::<Vec<(u32, Histogram, u64)>>::from_iter(quantities.iter().map(|_| Vec::new()));
            for (iteration, files) in source.by_iteration(step) {
                let of_iteration = histograms(source, &files, &quantities)?;
                for (list, (histogram, without)) in all.iter_mut().zip(of_iteration) {
                    list.push((iteration, histogram, without));
                }
            }
            for (quantity, iterations) in quantities.iter().zip(&mut all) {
                shown.extend(distribution(step, quantity, iterations));
            }
        }
    }
    if shown.is_empty() {
        return Ok(Content::Absent("No step of this run scores answers or makes pairs."));
    }
    Ok(Content::Shown(json!({ "distributions": shown, "health": entropies(source) })))
}

/// The histogram of each quantity in these files, with the number of rows that lack it.
fn histograms(source: &PageSource<'_>, files: &[FileEntry], quantities: &[&Quantity]) -> Result<Vec<(Histogram, u64)>> {
    let columns: Vec<&str> = quantities.iter().flat_map(|q| q.columns.iter().copied()).collect();
    let mut all = vec![(Histogram::default(), 0); quantities.len()];
    for file in files {
        for rows in source.columns(file, &columns)? {
            let rows = rows?;
            for (quantity, (histogram, without)) in quantities.iter().zip(&mut all) {
                for row in 0..rows.num_rows() {
                    match (quantity.value)(&rows, row) {
                        Some(value) => histogram.add(value),
                        None => *without += 1,
                    }
                }
            }
        }
    }
    Ok(all)
}

/// A quantity of a step in all iterations; none if no row has it.
fn distribution(step: &str, quantity: &Quantity, iterations: &mut [(u32, Histogram, u64)]) -> Option<Value> {
    if iterations.iter().all(|(_, histogram, _)| histogram.n() == 0) {
        return None;
    }
    Histogram::align(iterations.iter_mut().map(|(_, histogram, _)| histogram));
    let of: Vec<Value> = iterations
        .iter()
        .map(|(iteration, histogram, without)| {
            let mut value = histogram.json();
            value["iteration"] = json!(iteration);
            value["without"] = json!(without);
            value
        })
        .collect();
    Some(json!({ "step": step, "name": quantity.name, "title": quantity.title, "iterations": of }))
}

/// Entropy of the scores by iteration, as the health gate measures it.
fn entropies(source: &PageSource<'_>) -> Value {
    let mut all = BTreeMap::new();
    for value in source.listed("health").iter().filter(|v| v["gate"] == "score_entropy") {
        all.insert(value["iteration"].as_u64(), json!([value["iteration"], value["value"]]));
    }
    all.into_values().collect()
}
