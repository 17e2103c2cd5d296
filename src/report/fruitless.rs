//! Steps of which nothing came: scores that nobody could read, no pair, no row.

use crate::data::{Columns, counted, named};
use crate::dataflow::Operator;
use crate::error::Result;
use crate::pipeline::{Plan, Shape, Step};
use crate::store::Run;

/// What of a run's results is empty.
#[derive(Debug, Default)]
pub struct Fruitless {
    /// What is wrong with each step, in words.
    steps: Vec<String>,
    /// The first of them.
    first: Option<String>,
    /// Whether there is any result: a model, or a last step with something in it.
    some: bool,
}

impl Fruitless {
    /// Looks at the scores, and at the steps that no other step reads.
    ///
    /// # Errors
    /// A committed file cannot be read.
    pub fn of(plan: &Plan<dyn Operator>, run: &Run) -> Result<Self> {
        let mut found = Self { steps: Vec::new(), first: None, some: !run.models().is_empty() };
        for step in plan.steps.iter().filter(|s| s.kind.shape != Shape::Train) {
            let last = plan.readers(&step.name).next().is_none();
            let judged = step.op.scale().is_some() && step.schema.name == named::SCORES.name;
            if !last && !judged {
                continue;
            }
            match nothing(run, step)? {
                Some(words) => {
                    found.first.get_or_insert_with(|| step.name.clone());
                    found.steps.push(words);
                }
                None => found.some |= last,
            }
        }
        Ok(found)
    }

    /// A line for each step of which nothing came.
    pub fn lines(&self) -> &[String] {
        &self.steps
    }

    /// The name of the first step of which nothing came: what to look at.
    pub fn first(&self) -> Option<&str> {
        self.first.as_deref()
    }

    /// Whether nothing came of the whole run.
    pub fn all(&self) -> bool {
        !self.steps.is_empty() && !self.some
    }
}

/// How many rows a step has made, kept or not.
fn rows_of(run: &Run, step: &str) -> u64 {
    run.entries_of(step).iter().map(|f| f.rows).sum()
}

/// What a step lacks, in words; nothing where it has a result.
fn nothing(run: &Run, step: &Step<dyn Operator>) -> Result<Option<String>> {
    let name = &step.name;
    let rows = rows_of(run, name);
    if rows == 0 {
        let of: u64 = step.inputs.iter().map(|i| rows_of(run, &i.step)).sum();
        let what = if step.schema.name == named::PAIRS.name { "pair" } else { "row" };
        return Ok(Some(format!("`{name}`: no {what} came of {}", counted(of, "row"))));
    }
    let (column, what) = match step.schema.name {
        "scores" => ("score", "score: no judgement was readable"),
        "comparisons" => ("outcome", "outcome"),
        _ => return Ok(None),
    };
    // Rows that are not kept cannot be looked at any more.
    if run.dropped(name) {
        return Ok(None);
    }
    for batch in run.batches(name, None) {
        let (_, batch) = batch?;
        let some = match column {
            "score" => Columns(&batch).float(column)?.iter().flatten().any(f32::is_finite),
            _ => Columns(&batch).text(column)?.iter().flatten().any(|outcome| outcome != "null"),
        };
        if some {
            return Ok(None);
        }
    }
    Ok(Some(format!("`{name}`: none of {} has a {what}", counted(rows, "row"))))
}
