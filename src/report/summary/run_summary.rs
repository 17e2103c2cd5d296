//! The closing summary: what each step produced, and the loop by iteration, read back from the run
//! directory.

use std::time::Duration;

use arrow::array::{Array, RecordBatch};
use serde_json::{Map, Value, json};

use super::counters::RunCounters;
use super::health::Health;
use super::left_out::LeftOut;
use super::rescored::Rescored;
use super::written::written_list;
use crate::data::{Columns, named};
use crate::dataflow::{Operator, model_name};
use crate::error::{Error, Result};
use crate::pipeline::{ModelUse, Placement, Plan, Step};
use crate::report::inspect::show::{aligned, width};
use crate::store::Run;

/// The summary of a run.
pub struct Summary {
    json: Value,
    table: Vec<Vec<String>>,
    left_out: LeftOut,
    rescored: Rescored,
    health: Health,
}

/// A figure of a step in an iteration: column name, value and displayed decimals; `None` if only
/// `summary.json` has it.
type SummaryFigure = (String, f64, Option<usize>);

/// Leading columns that identify a row of the table: iteration and policy.
const KEYS: usize = 2;
/// Spaces between two columns.
const GAP: usize = 2;

/// Figures of a `measure` step that the table shows; `summary.json` has the rest.
const HEADLINES: [&str; 5] = ["win_rate", "agreement", "pairwise_accuracy", "spearman", "length_growth"];

/// Figures of each iteration of the loop.
#[derive(Default)]
struct Rounds {
    json: Vec<Value>,
    table: Vec<Vec<String>>,
}

impl Rounds {
    fn of(plan: &Plan<dyn Operator>, run: &Run) -> Result<Self> {
        let (mut columns, mut rounds) = (Vec::<(String, usize)>::new(), Vec::new());
        let last = plan.steps.iter().map(|s| *s.iterations.end()).max().unwrap_or(0);
        for iteration in 1..=last {
            let figures = figures_of(plan, run, iteration)?;
            for (name, _, decimals) in &figures {
                if let Some(decimals) = *decimals
                    && columns.iter().all(|(have, _)| have != name)
                {
                    columns.push((name.clone(), decimals));
                }
            }
            let mut round = Map::new();
            round.insert("iteration".into(), iteration.into());
            round.insert("policy".into(), policy_name(plan, iteration).into());
            round.extend(figures.into_iter().map(|(name, value, _)| (name, json!(value))));
            rounds.push(round);
        }
        if rounds.is_empty() {
            return Ok(Self::default());
        }
        let mut table = vec![["iteration", "policy"].map(str::to_owned).to_vec()];
        table[0].extend(columns.iter().map(|(name, _)| name.clone()));
        for (iteration, round) in (1..=last).zip(&rounds) {
            let mut cells = vec![iteration.to_string(), policy_name(plan, iteration)];
            for (name, decimals) in &columns {
                let value = round.get(name).and_then(Value::as_f64);
                cells.push(value.map_or_else(String::new, |v| format!("{v:.decimals$}")));
            }
            table.push(cells);
        }
        Ok(Self { json: rounds.into_iter().map(Value::Object).collect(), table })
    }
}

/// Returns the figures of all steps of an iteration.
fn figures_of(plan: &Plan<dyn Operator>, run: &Run, iteration: u32) -> Result<Vec<SummaryFigure>> {
    let mut all = Vec::new();
    // Observers come last.
    for looks_on in [false, true] {
        let wanted = |s: &&Step<dyn Operator>| {
            s.placement != Placement::Once
                && s.iterations.contains(&iteration)
                && (s.placement == Placement::Observer) == looks_on
        };
        for step in plan.steps.iter().filter(wanted) {
            all.extend(figures(plan, run, step, iteration)?);
        }
    }
    Ok(all)
}

/// Reads the table that a run wrote to its summary.
fn written_table(summary: &Value) -> Result<Vec<Vec<String>>> {
    let table = written_list::<Vec<String>>(summary, "table")?;
    let columns = table.first().map_or(KEYS, Vec::len);
    if columns < KEYS || table.iter().any(|row| row.len() != columns) {
        return Err(Error::user("`table`: its rows are too short or differ in length"));
    }
    Ok(table)
}

impl Summary {
    /// Reads the run's datasets and metrics. `engines` describes what each engine did, `references` the
    /// reference model of each training.
    ///
    /// # Errors
    /// A committed file cannot be read.
    pub fn of(
        plan: &Plan<dyn Operator>,
        run: &Run,
        tally: &RunCounters,
        engines: &impl serde::Serialize,
        references: &impl serde::Serialize,
        took: Duration,
    ) -> Result<Self> {
        let counts = tally.counts();
        let mut steps = Vec::new();
        for ((step, iteration), count) in &counts {
            steps.push(json!({
                "step": step, "iteration": iteration, "microbatches": count.microbatches, "rows": count.rows,
                "errors": count.errors, "bytes": count.bytes, "busy_seconds": count.busy.as_secs_f64(),
                "restored": count.restored,
                "began_seconds": count.span.map(|(began, _)| began.as_secs_f64()),
                "ended_seconds": count.span.map(|(_, ended)| ended.as_secs_f64()),
            }));
        }
        let rounds = Rounds::of(plan, run)?;
        let (left_out, rescored, health) = (LeftOut::of(run)?, Rescored::of(plan, run)?, Health::of(plan, run)?);
        let mut models = Vec::new();
        for m in run.models() {
            models.push(json!({
                "name": m.name, "path": m.path, "hash": m.hash, "step": m.step, "iteration": m.iteration,
                "training": training(run, &m.path), "course": course(run, &m.step, m.iteration)?,
            }));
        }
        let json = json!({
            "name": plan.name, "seed": plan.seed, "seconds": took.as_secs_f64(), "errors": left_out.rows(),
            "left_out": left_out.json(), "unused": left_out.unused_json(), "rescored": rescored.json(),
            "health": health.json(), "loop": rounds.json, "table": rounds.table, "steps": steps, "models": models,
            "engines": engines, "references": references, "machine": machine(),
            "from_servers": plan.steps.iter().filter(|s| plan.from_servers(s)).map(|s| &s.name).collect::<Vec<_>>(),
        });
        Ok(Self { json, table: rounds.table, left_out, rescored, health })
    }

    /// Reads the summary that the run itself wrote; it includes figures of rows that were not kept.
    ///
    /// # Errors
    /// The summary has unexpected keys.
    pub fn written(summary: Value) -> Result<Self> {
        Ok(Self {
            table: written_table(&summary)?,
            left_out: LeftOut::written(&summary)?,
            rescored: Rescored::written(&summary)?,
            health: Health::written(&summary)?,
            json: summary,
        })
    }

    /// Returns the content of `summary.json`.
    pub fn json(&self) -> &Value {
        &self.json
    }
    /// Judgements that were read differently.
    pub fn rescored(&self) -> &Rescored {
        &self.rescored
    }
    /// Results of the `[health]` gates.
    pub fn health(&self) -> &Health {
        &self.health
    }
    /// Rows that were left out.
    pub fn left_out(&self) -> &LeftOut {
        &self.left_out
    }
    /// Formats the loop as an aligned table of at most `room` columns; empty for a pipeline without a loop.
    /// A wider table is split into several, one below the other, each with the leading columns.
    pub fn tables(&self, room: usize) -> String {
        let Some((heads, rows)) = self.table.split_first() else { return String::new() };
        let widest = |c: usize| self.table.iter().map(|row| width(&row[c])).max().unwrap_or(0);
        let widths: Vec<usize> = (0..heads.len()).map(widest).collect();
        let keys: Vec<usize> = (0..heads.len().min(KEYS)).collect();
        let mut parts = vec![keys.clone()];
        for (c, more) in widths.iter().enumerate().skip(keys.len()) {
            let last = parts.len() - 1;
            let taken: usize = parts[last].iter().map(|&c| widths[c] + GAP).sum();
            if parts[last].len() > keys.len() && taken + more > room {
                parts.push(keys.iter().copied().chain([c]).collect());
            } else {
                parts[last].push(c);
            }
        }
        let table = |columns: &Vec<usize>| {
            let heads: Vec<&str> = columns.iter().map(|&c| heads[c].as_str()).collect();
            let some = |row: &Vec<String>| columns.iter().map(|&c| row[c].clone()).collect::<Vec<_>>();
            let rows: Vec<Vec<String>> = rows.iter().map(some).collect();
            aligned(&heads, &vec![true; heads.len()], &rows).join("\n")
        };
        parts.iter().map(table).collect::<Vec<_>>().join("\n\n")
    }
}

/// Describes the machine that finished the run.
fn machine() -> Value {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    json!({ "os": std::env::consts::OS, "architecture": std::env::consts::ARCH, "cores": cores })
}

/// Returns the name of the policy model of an iteration.
fn policy_name(plan: &Plan<dyn Operator>, iteration: u32) -> String {
    match &plan.loop_ {
        Some(l) if iteration > 1 => model_name(plan, &l.next, iteration - 1),
        Some(l) => match &l.policy {
            ModelUse::Step(step) => model_name(plan, step, 0),
            other => other.to_string(),
        },
        None => String::new(),
    }
}

/// Reads how a model was made from its `reflux.json`; null for a model without one.
fn training(run: &Run, path: &str) -> Value {
    let text = crate::data::read_text(&run.dir().join(path).join("reflux.json")).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// Returns the figures of a step's rows that the summary shows, by schema.
fn figures(
    plan: &Plan<dyn Operator>,
    run: &Run,
    step: &Step<dyn Operator>,
    iteration: u32,
) -> Result<Vec<SummaryFigure>> {
    let name = &step.name;
    if step.schema.name == named::MODELS.name {
        let mut figures = train_figures(run, name, iteration)?;
        // If validation chose the weights, show the chosen step and its validation measure.
        let made = run.model(&model_name(plan, name, iteration)).map(|m| training(run, &m.path)).unwrap_or_default();
        if let (Some(measure), Some(at)) = (made["measure"].as_str(), made["chosen_step"].as_f64()) {
            figures.push((format!("{name} chosen step"), at, Some(0)));
            figures.extend(made[measure].as_f64().map(|v| (format!("{name} {measure}"), v, Some(4))));
        }
        return Ok(figures);
    }
    let Some(rows) = run.read_step(name, Some(iteration))? else { return Ok(Vec::new()) };
    let count = |name: &str| (name.to_string(), rows.num_rows() as f64, Some(0));
    let mean = |column: &str| mean(&rows, column);
    Ok(match step.schema.name {
        "measures" => measured(&rows)?,
        "scores" => mean("score")?.map(|m| (format!("{name} mean"), m, Some(3))).into_iter().collect(),
        "pairs" => [Some(count(name)), mean("margin")?.map(|m| ("mean margin".into(), m, Some(2)))]
            .into_iter()
            .flatten()
            .collect(),
        _ => vec![count(name)],
    })
}

/// Returns the figures of a `measure`; each name is preceded by the name of the measured step.
fn measured(rows: &RecordBatch) -> Result<Vec<SummaryFigure>> {
    let columns = Columns(rows);
    let (steps, names, values) = (columns.text("step")?, columns.text("name")?, columns.double("value")?);
    let known = (0..rows.num_rows()).filter(|&i| values.is_valid(i));
    let figure = |i: usize| {
        let shown = HEADLINES.contains(&names.value(i)).then_some(3);
        (format!("{} {}", steps.value(i), names.value(i)), values.value(i), shown)
    };
    Ok(known.map(figure).collect())
}

fn mean(rows: &RecordBatch, column: &str) -> Result<Option<f64>> {
    let values = Columns(rows).float(column)?;
    let known: Vec<f64> = values.iter().flatten().map(f64::from).collect();
    Ok((!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64))
}

/// Summarizes a training: its steps, its first loss, the mean loss over the last tenth of the steps, and
/// the mean accuracy.
fn course(run: &Run, step: &str, iteration: u32) -> Result<Value> {
    let all = run.metrics();
    let Some(entry) = all.iter().rfind(|m| m.step == step && m.iteration == iteration) else { return Ok(Value::Null) };
    let rows = run.load_metrics(entry)?;
    let known = |column: &str| -> Result<Vec<f64>> { Ok(Columns(&rows).double(column)?.iter().flatten().collect()) };
    let mean = |values: &[f64]| (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64);
    let (losses, accuracies) = (known("loss")?, known("rewards/accuracies")?);
    let last = losses.len() - losses.len().div_ceil(10);
    Ok(json!({
        "steps": rows.num_rows(), "loss_first": losses.first(), "loss_last": mean(&losses[last..]),
        "accuracy_mean": mean(&accuracies),
    }))
}

/// Returns means over the optimizer steps of an iteration.
fn train_figures(run: &Run, step: &str, iteration: u32) -> Result<Vec<SummaryFigure>> {
    let all = run.metrics();
    let Some(entry) = all.iter().rfind(|m| m.step == step && m.iteration == iteration) else { return Ok(Vec::new()) };
    let rows = run.load_metrics(entry)?;
    let mut figures = Vec::new();
    for (column, what, decimals) in [("loss", "loss", 4), ("rewards/accuracies", "accuracy", 3)] {
        let values = Columns(&rows).double(column)?;
        let known: Vec<f64> = (0..values.len()).filter(|&i| values.is_valid(i)).map(|i| values.value(i)).collect();
        if !known.is_empty() {
            figures.push((format!("{step} {what}"), known.iter().sum::<f64>() / known.len() as f64, Some(decimals)));
        }
    }
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_is_too_wide_stands_below_itself() {
        let rows = [["iteration", "policy", "pairs", "dpo loss"], ["1", "M1", "266", "2.4837"], ["2", "M2", "", ""]];
        let table = rows.iter().map(|row| row.map(str::to_owned).to_vec()).collect();
        let (left_out, rescored) = (LeftOut::default(), Rescored::default());
        let summary = Summary { json: Value::Null, table, left_out, rescored, health: Health::default() };
        let whole = "iteration  policy  pairs  dpo loss\n----------------------------------\n        \
                     1      M1    266    2.4837\n        2      M2";
        assert_eq!(summary.tables(usize::MAX), whole);
        assert_eq!(summary.tables(34), whole);
        let parts = "iteration  policy  pairs\n------------------------\n        1      M1    266\n        2      M2\n\n\
                     iteration  policy  dpo loss\n---------------------------\n        1      M1    2.4837\n        2      M2";
        assert_eq!(summary.tables(33), parts);
        assert_eq!(summary.tables(1), parts, "at least one column is always shown");
    }

    #[test]
    fn columns_are_as_wide_as_a_terminal_shows_them() {
        let summary = json!({ "table": [["iteration", "policy", "世界"], ["1", "M1", "4"]] });
        let table = Summary::written(summary).unwrap().tables(usize::MAX);
        assert_eq!(table, "iteration  policy  世界\n-----------------------\n        1      M1     4");
    }

    #[test]
    fn a_summary_that_no_run_wrote_is_refused_or_shown() {
        for (summary, wrong) in [
            (json!({ "table": [[]] }), "table"),
            (json!({ "table": [["a"], ["b"]] }), "table"),
            (json!({ "table": [["a", "b"], ["c"]] }), "table"),
            (json!({ "table": 3 }), "table"),
            (json!({ "health": [{}] }), "health"),
            (json!({ "left_out": [{ "step": 3 }] }), "left_out"),
            (json!({ "unused": {} }), "unused"),
            (json!({ "rescored": [1] }), "rescored"),
        ] {
            let error = Summary::written(summary).err().unwrap().to_string();
            assert!(error.starts_with(&format!("`{wrong}`: ")), "{error}");
        }
        for summary in [json!({}), json!([]), json!({ "table": [] }), Value::Null] {
            assert_eq!(Summary::written(summary).unwrap().tables(usize::MAX), "");
        }
        let table = vec![vec![]];
        let (left_out, rescored) = (LeftOut::default(), Rescored::default());
        let summary = Summary { json: Value::Null, table, left_out, rescored, health: Health::default() };
        assert_eq!(summary.tables(3), "\n");
    }
}
