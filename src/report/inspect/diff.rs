//! Finds where two runs first differ, in dataflow order, and counts the differing files of each step.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::RecordBatch;
use serde_json::{Value, json};

use super::show::{aligned, objects, printable};
use crate::data::{Epoch, counted};
use crate::error::Result;
use crate::store::{FileEntry, Run, changed_lines};

/// Maximum number of characters shown of a value.
const SHOWN: usize = 120;

/// One place where two runs differ.
#[derive(Debug)]
struct DiffPlace {
    step: String,
    iteration: u32,
    microbatch: Option<u32>,
    /// One of `rows`, `left out`, `metrics`, `model`.
    part: &'static str,
    what: DifferenceKind,
}

#[derive(Debug)]
enum DifferenceKind {
    /// Only one run has it: the first (`true`) or the second.
    Only(bool),
    /// The numbers of rows differ; the rows that both have are equal.
    Rows(usize, usize),
    /// A value differs.
    Value { row: usize, column: String, first: Value, second: Value },
    /// The names or types of the columns differ.
    Columns(String, String),
    /// The hashes differ, and the content cannot be compared.
    Hash(String, String),
    /// The rows are equal, but the bytes of the files differ.
    Bytes,
}

/// Counts of equal and differing files of a step in one iteration.
#[derive(Clone, Copy, Debug, Default)]
struct FileCount {
    same: usize,
    differ: usize,
    only_first: usize,
    only_second: usize,
}

/// The comparison of two runs.
#[derive(Debug)]
pub struct Difference {
    names: [String; 2],
    /// Lines that differ between the pipeline files; empty if none do.
    settings: String,
    seeds: [u64; 2],
    first: Option<DiffPlace>,
    /// Counts by iteration and step, in dataflow order.
    counts: Vec<(u32, String, FileCount)>,
    /// Names of models whose weights differ, or that only one run has.
    models: Vec<String>,
    /// Steps whose rows come from a model on a server, in either run.
    from_servers: BTreeSet<String>,
}

impl Difference {
    /// Compares the runs by hashes and reads only the first file that differs. `from_servers` are the steps whose rows
    /// come from a model on a server, in either run.
    ///
    /// # Errors
    /// The file that differs is damaged.
    pub fn of(first: &Run, second: &Run, from_servers: BTreeSet<String>) -> Result<Self> {
        let text = |run: &Run| run.pipeline_text().unwrap_or_default();
        let mut steps = first.steps_in_order();
        steps.extend(second.steps_in_order().into_iter().filter(|s| first.entries_of(s).is_empty()));
        let mut all = Self {
            names: [first, second].map(|run| run.dir().display().to_string()),
            settings: changed_lines(&text(first), &text(second)),
            seeds: [first.seed(), second.seed()],
            first: None,
            counts: Vec::new(),
            models: Vec::new(),
            from_servers,
        };
        let iterations: BTreeSet<u32> = [first, second].iter().flat_map(|r| r.entries()).map(|f| f.iteration).collect();
        for iteration in iterations {
            for step in &steps {
                all.step(first, second, step, iteration)?;
            }
        }
        let names: BTreeSet<String> = [first, second].iter().flat_map(|r| r.models()).map(|m| m.name).collect();
        let hash = |run: &Run, name: &str| run.model(name).map(|m| m.hash);
        all.models = names.into_iter().filter(|n| hash(first, n) != hash(second, n)).collect();
        Ok(all)
    }

    fn step(&mut self, first: &Run, second: &Run, step: &str, iteration: u32) -> Result<()> {
        // A training's metrics and model come before the row that announces the model.
        self.training(first, second, step, iteration)?;
        let of = |run: &Run| -> BTreeMap<u32, FileEntry> {
            let here = run.entries_of(step).into_iter().filter(|f| f.iteration == iteration);
            here.map(|f| (f.microbatch, f)).collect()
        };
        let (ours, theirs) = (of(first), of(second));
        let microbatches: BTreeSet<u32> = ours.keys().chain(theirs.keys()).copied().collect();
        let mut count = FileCount::default();
        for microbatch in microbatches {
            let pair = match (ours.get(&microbatch), theirs.get(&microbatch)) {
                (Some(a), Some(b)) => Ok((a, b)),
                (a, _) => Err(a.is_some()),
            };
            let errors = |f: &FileEntry| f.errors.as_ref().map(|e| e.hash.clone());
            let found = match &pair {
                Err(is_first) => {
                    *(if *is_first { &mut count.only_first } else { &mut count.only_second }) += 1;
                    Some(("rows", DifferenceKind::Only(*is_first)))
                }
                Ok((a, b)) if a.hash == b.hash && errors(a) == errors(b) => {
                    count.same += 1;
                    None
                }
                Ok((a, b)) => {
                    count.differ += 1;
                    if self.first.is_some() {
                        continue;
                    }
                    if a.hash == b.hash {
                        let what = match (first.left_out(a)?, second.left_out(b)?) {
                            (Some(a), Some(b)) => rows(&a, &b)?,
                            (a, _) => DifferenceKind::Only(a.is_some()),
                        };
                        Some(("left out", what))
                    } else if first.dropped(step) || second.dropped(step) {
                        Some(("rows", DifferenceKind::Hash(a.hash.clone(), b.hash.clone())))
                    } else {
                        Some(("rows", rows(&first.load_entry(a)?, &second.load_entry(b)?)?))
                    }
                }
            };
            if let (Some((part, what)), None) = (found, &self.first) {
                let Epoch { iteration, microbatch } = Epoch::new(iteration, microbatch);
                self.first = Some(DiffPlace { step: step.into(), iteration, microbatch: Some(microbatch), part, what });
            }
        }
        if !ours.is_empty() || !theirs.is_empty() {
            self.counts.push((iteration, step.to_owned(), count));
        }
        Ok(())
    }

    /// Compares the metrics and the model of a training step.
    fn training(&mut self, first: &Run, second: &Run, step: &str, iteration: u32) -> Result<()> {
        if self.first.is_some() {
            return Ok(());
        }
        let metrics = |run: &Run| run.metrics().into_iter().find(|m| m.step == step && m.iteration == iteration);
        let what = match (metrics(first), metrics(second)) {
            (Some(a), Some(b)) if a.hash != b.hash => {
                let read = |run: &Run, path: &str| crate::store::read_parquet(&run.dir().join(path));
                Some(rows(&read(first, &a.path)?, &read(second, &b.path)?)?)
            }
            (None, None) | (Some(_), Some(_)) => None,
            (a, _) => Some(DifferenceKind::Only(a.is_some())),
        };
        let place = |part, what| DiffPlace { step: step.to_owned(), iteration, microbatch: None, part, what };
        if let Some(what) = what {
            self.first = Some(place("metrics", what));
            return Ok(());
        }
        let model = |run: &Run| run.models().into_iter().find(|m| m.step == step && m.iteration == iteration);
        match (model(first), model(second)) {
            (Some(a), Some(b)) if a.hash != b.hash => {
                self.first = Some(place("model", DifferenceKind::Hash(a.hash, b.hash)))
            }
            (None, None) | (Some(_), Some(_)) => {}
            (a, _) => self.first = Some(place("model", DifferenceKind::Only(a.is_some()))),
        }
        Ok(())
    }

    /// Whether the runs agree in settings, seed, rows, rows left out, metrics and models.
    pub fn same(&self) -> bool {
        self.settings.is_empty() && self.seeds[0] == self.seeds[1] && self.first.is_none() && self.models.is_empty()
    }

    /// The steps that differ and whose rows come from servers.
    fn differing_served(&self) -> Vec<&str> {
        let differs = |step: &&String| {
            let counts = self.counts.iter().filter(|(_, name, _)| name == *step);
            counts.map(|(_, _, c)| c.differ + c.only_first + c.only_second).sum::<usize>() > 0
        };
        self.from_servers.iter().filter(differs).map(String::as_str).collect()
    }

    /// Returns one JSON object.
    pub fn json(&self) -> Value {
        let count = |(iteration, step, c): &(u32, String, FileCount)| json!({ "iteration": iteration, "step": step, "same": c.same, "differ": c.differ, "only_first": c.only_first, "only_second": c.only_second });
        json!({
            "first": self.names[0], "second": self.names[1], "same": self.same(), "settings": self.settings, "seeds": self.seeds,
            "first_difference": self.first.as_ref().map(DiffPlace::json), "microbatches": self.counts.iter().map(count).collect::<Value>(),
            "models": self.models, "from_servers": self.from_servers,
        })
    }

    /// Formats the comparison as text.
    pub fn lines(&self) -> Vec<String> {
        let [a, b] = &self.names;
        if self.same() {
            let files: usize = self.counts.iter().map(|c| c.2.same).sum();
            return vec![format!(
                "{a} and {b} are the same: settings, {}, metrics and models",
                counted(files, "microbatch")
            )];
        }
        let mut lines = vec![format!("- {a}"), format!("+ {b}")];
        if self.seeds[0] != self.seeds[1] {
            lines.push(String::new());
            lines.push(format!("seed: {} and {}", self.seeds[0], self.seeds[1]));
        }
        if !self.settings.is_empty() {
            lines.push(String::new());
            lines.push("lines of pipeline.toml that differ:".to_owned());
            lines.extend(self.settings.lines().map(|l| format!("  {l}")));
        }
        match &self.first {
            None => lines.extend([String::new(), "the rows and metrics are the same".to_owned()]),
            Some(place) => {
                lines.push(String::new());
                lines.push("the first difference:".to_owned());
                lines.extend(place.lines().into_iter().map(|l| format!("  {l}")));
                let row = |(iteration, step, c): &(u32, String, FileCount)| {
                    let numbers = [c.same, c.differ, c.only_first, c.only_second].map(|n| n.to_string());
                    [step.clone(), iteration.to_string()].into_iter().chain(numbers).collect()
                };
                let differing = |c: &&(u32, String, FileCount)| c.2.differ + c.2.only_first + c.2.only_second > 0;
                let rows: Vec<Vec<String>> = self.counts.iter().filter(differing).map(row).collect();
                if !rows.is_empty() {
                    lines.push(String::new());
                    lines.push("microbatches of the steps that differ:".to_owned());
                    let head = ["step", "iteration", "same", "differ", "only in -", "only in +"];
                    lines.extend(aligned(&head, &[false, true, true, true, true, true], &rows));
                }
            }
        }
        let served = self.differing_served();
        if !served.is_empty() {
            lines.push(String::new());
            let steps = served.join(", ");
            lines.push(format!(
                "from servers: {steps}. A server may answer the same request differently in a second run"
            ));
        }
        if !self.models.is_empty() {
            lines.push(String::new());
            lines.push(format!("models that differ: {}", self.models.join(", ")));
        }
        lines
    }
}

impl DiffPlace {
    fn json(&self) -> Value {
        let mut json =
            json!({ "step": self.step, "iteration": self.iteration, "microbatch": self.microbatch, "part": self.part });
        match &self.what {
            DifferenceKind::Only(first) => json["only_in"] = if *first { "first" } else { "second" }.into(),
            DifferenceKind::Rows(a, b) => json["rows"] = json!([a, b]),
            DifferenceKind::Value { row, column, first, second } => {
                json["row"] = json!(row);
                json["column"] = json!(column);
                json["values"] = json!([first, second]);
            }
            DifferenceKind::Columns(a, b) => json["columns"] = json!([a, b]),
            DifferenceKind::Hash(a, b) => json["hashes"] = json!([a, b]),
            DifferenceKind::Bytes => json["bytes_only"] = json!(true),
        }
        json
    }

    fn lines(&self) -> Vec<String> {
        let microbatch = self.microbatch.map(|m| format!(", microbatch {m}")).unwrap_or_default();
        let part = if self.part == "rows" { String::new() } else { format!(", {}", self.part) };
        let place = format!("{}, iteration {}{microbatch}{part}", self.step, self.iteration);
        match &self.what {
            DifferenceKind::Only(first) => vec![format!("{place}: only in {}", if *first { "-" } else { "+" })],
            DifferenceKind::Rows(a, b) => {
                vec![format!("{place}: {a} and {}; the rows that both have are equal", counted(*b, "row"))]
            }
            DifferenceKind::Value { row, column, first, second } => {
                let (first, second) = apart(first, second);
                vec![format!("{place}, row {row}, column {column}:"), format!("- {first}"), format!("+ {second}")]
            }
            DifferenceKind::Columns(a, b) => {
                vec![format!("{place}: the columns differ"), format!("- {a}"), format!("+ {b}")]
            }
            DifferenceKind::Hash(a, b) => {
                vec![format!("{place}: the hashes differ"), format!("- {a}"), format!("+ {b}")]
            }
            DifferenceKind::Bytes => vec![format!("{place}: equal rows, but different bytes")],
        }
    }
}

/// Formats two values as text, starting shortly before their first difference.
fn apart(first: &Value, second: &Value) -> (String, String) {
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), |s| format!("{s:?}"));
    let (a, b) = (text(first), text(second));
    let common = a.chars().zip(b.chars()).take_while(|(x, y)| x == y).count();
    let from = if common > SHOWN / 2 { common - SHOWN / 4 } else { 0 };
    let cut = |text: &str| {
        let head = if from > 0 { "…" } else { "" };
        let rest = text.chars().skip(from);
        let tail = if rest.clone().count() > SHOWN { "…" } else { "" };
        format!("{head}{}{tail}", printable(&rest.take(SHOWN).collect::<String>()))
    };
    (cut(&a), cut(&b))
}

/// Finds the first row and column in which two tables differ. Rows count from 0.
fn rows(first: &RecordBatch, second: &RecordBatch) -> Result<DifferenceKind> {
    let columns = |rows: &RecordBatch| {
        let fields = rows.schema_ref().fields().iter().map(|f| format!("{} {}", f.name(), f.data_type()));
        fields.collect::<Vec<_>>().join(", ")
    };
    let (ours, theirs) = (columns(first), columns(second));
    if ours != theirs {
        return Ok(DifferenceKind::Columns(ours, theirs));
    }
    let shared = first.num_rows().min(second.num_rows());
    for row in 0..shared {
        for (at, (a, b)) in first.columns().iter().zip(second.columns()).enumerate() {
            if a.slice(row, 1) != b.slice(row, 1) {
                let column = first.schema_ref().field(at).name().clone();
                let value = |rows: &RecordBatch| -> Result<Value> {
                    let one = objects(&rows.slice(row, 1).project(&[at])?)?.pop().unwrap_or_default();
                    Ok(one.into_iter().next().map_or(Value::Null, |(_, v)| v))
                };
                return Ok(DifferenceKind::Value { row, column, first: value(first)?, second: value(second)? });
            }
        }
    }
    Ok(match (first.num_rows(), second.num_rows()) {
        (a, b) if a == b => DifferenceKind::Bytes,
        (a, b) => DifferenceKind::Rows(a, b),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_values_are_shown_where_they_part() {
        let long = |end: &str| json!("x".repeat(500) + end);
        let (a, b) = apart(&long("left"), &long("right"));
        assert!(a.starts_with("…x") && a.contains("left") && b.contains("right"), "{a} {b}");
        assert_eq!(apart(&json!(1.5), &json!(null)), ("1.5".to_owned(), "null".to_owned()));
        assert_eq!(apart(&json!("a\nb"), &json!("a")).0, "\"a\\nb\"");
    }
}
