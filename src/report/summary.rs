//! The closing summary: what each step made, and the loop iteration by iteration, read back from the run directory.

use std::time::Duration;

use arrow::array::{Array, RecordBatch};
use serde_json::{Map, Value, json};

use super::health::Health;
use super::left_out::LeftOut;
use super::rescored::Rescored;
use super::tally::Tally;
use crate::data::{Columns, named};
use crate::dataflow::{Operator, model_name};
use crate::error::Result;
use crate::pipeline::{ModelUse, Placement, Plan, Step};
use crate::store::Run;

/// What a run came to.
pub struct Summary {
    json: Value,
    table: Vec<Vec<String>>,
    left_out: LeftOut,
    rescored: Rescored,
    health: Health,
}

/// A figure of a step in an iteration: column name, value, decimals shown; none where it is in `summary.json` alone.
type Figure = (String, f64, Option<usize>);

/// Columns of the table that say which row it is: iteration and policy.
const KEYS: usize = 2;
/// Places between two columns.
const GAP: usize = 2;

/// What the table shows of a `measure`; the rest is in `summary.json`.
const HEADLINES: [&str; 5] = ["win_rate", "agreement", "pairwise_accuracy", "spearman", "length_growth"];

impl Summary {
    /// Reads the run's datasets and metrics. `engines` is what each engine did, `references` what each training was held to.
    ///
    /// # Errors
    /// A committed file cannot be read.
    pub fn of(
        plan: &Plan<dyn Operator>,
        run: &Run,
        tally: &Tally,
        engines: &impl serde::Serialize,
        references: &impl serde::Serialize,
        took: Duration,
    ) -> Result<Self> {
        let counts = tally.counts();
        let mut steps = Vec::new();
        for ((step, iteration), count) in &counts {
            steps.push(json!({
                "step": step, "iteration": iteration, "microbatches": count.microbatches, "rows": count.rows,
                "errors": count.errors, "bytes": count.bytes, "busy_seconds": count.busy.as_secs_f64(), "restored": count.restored,
            }));
        }
        let (mut rounds, mut columns, mut lines) = (Vec::new(), Vec::<(String, usize)>::new(), Vec::new());
        let last = plan.steps.iter().map(|s| *s.iterations.end()).max().unwrap_or(0);
        for iteration in 1..=last {
            let mut figures: Vec<Figure> = Vec::new();
            let in_loop = |s: &&Step<dyn Operator>| s.placement != Placement::Once && s.iterations.contains(&iteration);
            // Those who only look on come last.
            for looks_on in [false, true] {
                for step in
                    plan.steps.iter().filter(in_loop).filter(|s| (s.placement == Placement::Observer) == looks_on)
                {
                    figures.extend(self::figures(plan, run, step, iteration)?);
                }
            }
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
            round.extend(figures.iter().map(|(name, value, _)| (name.clone(), json!(value))));
            rounds.push(Value::Object(round.clone()));
            lines.push((iteration, round));
        }
        let mut table = Vec::new();
        if !lines.is_empty() {
            let heads =
                ["iteration", "policy"].map(String::from).into_iter().chain(columns.iter().map(|c| c.0.clone()));
            table.push(heads.collect());
        }
        for (iteration, round) in lines {
            let mut cells = vec![iteration.to_string(), policy_name(plan, iteration)];
            for (name, decimals) in &columns {
                let value = round.get(name).and_then(Value::as_f64);
                cells.push(value.map_or_else(String::new, |v| format!("{v:.decimals$}")));
            }
            table.push(cells);
        }
        let left_out = LeftOut::of(run)?;
        let rescored = Rescored::of(plan, run)?;
        let health = Health::of(plan, run)?;
        let models: Vec<Value> = run
            .models()
            .iter()
            .map(
                |m| Ok(json!({ "name": m.name, "path": m.path, "hash": m.hash, "step": m.step, "iteration": m.iteration, "training": training(run, &m.path), "course": course(run, &m.step, m.iteration)? })),
            )
            .collect::<Result<_>>()?;
        let json = json!({
            "name": plan.name, "seed": plan.seed, "seconds": took.as_secs_f64(), "errors": left_out.rows(),
            "left_out": left_out.json(), "unused": left_out.unused_json(), "rescored": rescored.json(), "health": health.json(), "loop": rounds, "table": table, "steps": steps, "models": models, "engines": engines, "references": references,
        });
        Ok(Self { json, table, left_out, rescored, health })
    }

    /// Takes over the table that the run itself wrote, where `written` has one: rows that are not kept cannot be counted again.
    pub fn keep_table(&mut self, written: &Value) {
        if let Ok(table) = serde_json::from_value::<Vec<Vec<String>>>(written["table"].clone())
            && table.windows(2).all(|rows| rows[0].len() == rows[1].len())
        {
            self.table = table;
        }
    }

    /// As `summary.json`.
    pub fn json(&self) -> &Value {
        &self.json
    }
    /// What was read otherwise than before.
    pub fn rescored(&self) -> &Rescored {
        &self.rescored
    }
    /// What the bounds of `[health]` came to.
    pub fn health(&self) -> &Health {
        &self.health
    }
    /// What was left out.
    pub fn left_out(&self) -> &LeftOut {
        &self.left_out
    }
    /// The loop as an aligned table; empty where there is no loop.
    pub fn table(&self) -> String {
        self.tables(usize::MAX)
    }

    /// The same in at most `room` places: where it does not fit, several tables below each other, each with the iterations.
    pub fn tables(&self, room: usize) -> String {
        let Some(heads) = self.table.first() else { return String::new() };
        let width = |c: usize| self.table.iter().map(|row| row[c].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..heads.len()).map(width).collect();
        let wide = |columns: &[usize]| columns.iter().map(|&c| widths[c] + GAP).sum::<usize>() - GAP;
        let keys: Vec<usize> = (0..heads.len().min(KEYS)).collect();
        let mut parts = vec![keys.clone()];
        for (c, more) in widths.iter().enumerate().skip(keys.len()) {
            let last = parts.len() - 1;
            if parts[last].len() > keys.len() && wide(&parts[last]) + GAP + more > room {
                parts.push(keys.iter().copied().chain([c]).collect());
            } else {
                parts[last].push(c);
            }
        }
        let line = |row: &Vec<String>, columns: &[usize]| {
            let cells: Vec<String> = columns.iter().map(|&c| format!("{:>w$}", row[c], w = widths[c])).collect();
            cells.join(&" ".repeat(GAP)).trim_end().to_string()
        };
        let table = |columns: &Vec<usize>| {
            let mut lines: Vec<String> = self.table.iter().map(|row| line(row, columns)).collect();
            lines.insert(1, "-".repeat(wide(columns)));
            lines.join("\n")
        };
        parts.iter().map(table).collect::<Vec<_>>().join("\n\n")
    }
}

/// The model that is the policy of an iteration.
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

/// How a model was made, as its `reflux.json` says; null for a model without one.
fn training(run: &Run, path: &str) -> Value {
    let text = crate::data::read_text(&run.dir().join(path).join("reflux.json")).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

/// What is worth telling of a step's rows, by their schema.
fn figures(plan: &Plan<dyn Operator>, run: &Run, step: &Step<dyn Operator>, iteration: u32) -> Result<Vec<Figure>> {
    let name = &step.name;
    if step.schema.name == named::MODELS.name {
        let mut figures = train_figures(run, name, iteration)?;
        // Where validation chose the weights, which step it was and what it measured there.
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

/// The figures of a `measure`, each with the step that it is of before its name.
fn measured(rows: &RecordBatch) -> Result<Vec<Figure>> {
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

/// How a training went: its steps, its loss at the first step and over the last tenth of them, and its mean accuracy.
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

/// Means over the optimizer steps of an iteration.
fn train_figures(run: &Run, step: &str, iteration: u32) -> Result<Vec<Figure>> {
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
        assert_eq!(summary.table(), whole);
        assert_eq!(summary.tables(34), whole);
        let parts = "iteration  policy  pairs\n------------------------\n        1      M1    266\n        2      M2\n\n\
                     iteration  policy  dpo loss\n---------------------------\n        1      M1    2.4837\n        2      M2";
        assert_eq!(summary.tables(33), parts);
        assert_eq!(summary.tables(1), parts, "a column is shown in any case");
    }
}
