//! The contents of a run: its steps, models and metrics, with counts.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::show::aligned;
use crate::data::counted;
use crate::store::{MetricsEntry, ModelEntry, Run, RunState, Taken};

/// Counts of a step in one iteration.
#[derive(Debug, Default, PartialEq, Eq)]
struct ContentCount {
    microbatches: u64,
    rows: u64,
    bytes: u64,
    left_out: u64,
    dropped: bool,
}

/// The contents of a run, as listed in its manifest.
#[derive(Debug)]
pub struct RunContents {
    name: String,
    state: RunState,
    seed: u64,
    /// The run that a replayed run took its first files from.
    taken: Option<Taken>,
    /// Sorted by iteration, then by the order in which the steps first committed.
    steps: Vec<(u32, String, ContentCount)>,
    models: Vec<ModelEntry>,
    metrics: Vec<MetricsEntry>,
    /// Unfinished trainings: step, iteration, optimizer step.
    checkpoints: Vec<(String, u32, usize)>,
}

/// Formats a size with a unit.
pub(crate) fn size(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < units.len() {
        value /= 1000.;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

impl RunContents {
    /// Reads the contents from the manifest alone.
    pub fn of(run: &Run) -> Self {
        let order = run.steps_in_order();
        let mut steps: BTreeMap<(u32, usize), ContentCount> = BTreeMap::new();
        for file in run.entries() {
            let place = order.iter().position(|step| *step == file.step).unwrap_or(order.len());
            let count = steps.entry((file.iteration, place)).or_default();
            let errors = file.errors.as_ref();
            count.microbatches += 1;
            count.rows += file.rows;
            count.dropped = run.dropped(&file.step);
            count.left_out += errors.map_or(0, |e| e.rows);
            count.bytes += if count.dropped { 0 } else { file.bytes } + errors.map_or(0, |e| e.bytes);
        }
        let named = |((iteration, place), count): ((u32, usize), ContentCount)| {
            (iteration, order.get(place).cloned().unwrap_or_default(), count)
        };
        let at = |(step, iteration, at, _)| (step, iteration, at);
        Self {
            name: run.dir().display().to_string(),
            state: run.run_state(),
            seed: run.seed(),
            taken: run.taken(),
            steps: steps.into_iter().map(named).collect(),
            models: run.models(),
            metrics: run.metrics(),
            checkpoints: run.all_checkpoints().into_iter().map(at).collect(),
        }
    }

    /// Returns one JSON object; sizes are in bytes.
    pub fn json(&self) -> Value {
        let step = |(iteration, step, c): &(u32, String, ContentCount)| json!({ "step": step, "iteration": iteration, "microbatches": c.microbatches, "rows": c.rows, "left_out": c.left_out, "bytes": c.bytes, "kept": !c.dropped });
        let checkpoint = |(step, iteration, at): &(String, u32, usize)| json!({ "step": step, "iteration": iteration, "optimizer_step": at });
        json!({
            "run": self.name, "state": self.state.word(), "writer": self.state.writer().and_then(|w| w.pid), "seed": self.seed, "taken": self.taken,
            "steps": self.steps.iter().map(step).collect::<Value>(), "models": self.models, "metrics": self.metrics,
            "checkpoints": self.checkpoints.iter().map(checkpoint).collect::<Value>(),
        })
    }

    /// Formats the contents as text.
    pub fn lines(&self) -> Vec<String> {
        let state = match self.state {
            RunState::Unfinished => "unfinished; `reflux run` of the same file continues it".to_owned(),
            state => state.to_string(),
        };
        let mut lines = vec![format!("{}: {state}; seed {}", self.name, self.seed)];
        if let Some(Taken { run, from, entries, .. }) = &self.taken {
            let from = if from.is_empty() { String::new() } else { format!(" from {}", from.join(", ")) };
            lines.push(format!("replays {run}{from}: {} of files and models reused", counted(*entries, "entry")));
        }
        lines.push(String::new());
        let step = |(iteration, step, c): &(u32, String, ContentCount)| {
            let bytes = if c.dropped { "not kept".to_owned() } else { size(c.bytes) };
            let number = |n: u64| n.to_string();
            vec![step.clone(), iteration.to_string(), number(c.microbatches), number(c.rows), number(c.left_out), bytes]
        };
        let rows: Vec<Vec<String>> = self.steps.iter().map(step).collect();
        let head = ["step", "iteration", "microbatches", "rows", "left out", "size"];
        lines.extend(aligned(&head, &[false, true, true, true, true, true], &rows));
        if !self.models.is_empty() {
            let model = |m: &ModelEntry| vec![m.name.clone(), m.step.clone(), m.iteration.to_string(), m.hash.clone()];
            let rows: Vec<Vec<String>> = self.models.iter().map(model).collect();
            lines.push(String::new());
            lines.extend(aligned(&["model", "made by", "iteration", "hash"], &[false, false, true, false], &rows));
        }
        if !self.metrics.is_empty() {
            let metrics =
                |m: &MetricsEntry| vec![m.step.clone(), m.iteration.to_string(), m.rows.to_string(), size(m.bytes)];
            let rows: Vec<Vec<String>> = self.metrics.iter().map(metrics).collect();
            lines.push(String::new());
            lines.extend(aligned(&["metrics of", "iteration", "rows", "size"], &[false, true, true, true], &rows));
        }
        for (step, iteration, at) in &self.checkpoints {
            lines.push(String::new());
            lines.push(format!("{step}, iteration {iteration}: in training, saved up to optimizer step {at}"));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes_are_read_by_people() {
        let sizes = [0, 999, 1000, 52_149, 999_949, 999_950, 2_500_000_000].map(super::size);
        assert_eq!(sizes, ["0 B", "999 B", "1.0 kB", "52.1 kB", "999.9 kB", "1.0 MB", "2.5 GB"]);
    }
}
