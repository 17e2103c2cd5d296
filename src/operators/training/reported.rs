//! What an external trainer reports of its steps, as the metrics of a training.
//!
//! It writes JSON lines to the file that it is given, or leaves the `trainer_state.json` of transformers' `Trainer`.
//! Names are those of [`StepMetrics`]. Beside them, a line may have `pairs` (rows trained on so far, each counted
//! once), `world_size` and `versions`.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use arrow::array::Float64Array;
use serde_json::{Map, Value};

use crate::data::{counted, one_line, open_regular, parse_json, read_text};
use crate::operators::shared::prelude::*;
use crate::train::StepMetrics;

/// File in which transformers' `Trainer` keeps its history.
const TRAINER_STATE: &str = "trainer_state.json";

/// Bounds of what is read and kept of reports.
const MAX_REPORTS: u64 = 256 << 20;
const MAX_LINE: usize = 1 << 20;
const MAX_UNKNOWN: usize = 100;
const MAX_NAME_CHARS: usize = 100;
const MAX_VERSIONS: usize = 16 << 10;

/// The reports of a trainer.
#[derive(Debug, Default)]
pub(crate) struct Reported {
    /// The file that they are from; `None` if there was none.
    pub file: Option<PathBuf>,
    /// Values of metrics by optimizer step.
    steps: BTreeMap<u32, BTreeMap<&'static str, f64>>,
    /// How often a key came that is no metric.
    pub unknown: BTreeMap<String, u64>,
    /// How often a key came that is no metric and that `unknown` has no room for.
    pub unnamed: u64,
    /// Lines that are no report, and what is wrong with the first.
    pub unreadable: Option<(u64, String)>,
    /// Rows that were trained on, if it reports them.
    pub pairs: Option<u64>,
    /// Number of processes that trained, if it reports it.
    pub world_size: Option<u64>,
    /// Versions of its libraries, if it reports them.
    pub versions: Option<Value>,
}

impl Reported {
    /// Reads the reports: those of `lines`, or else those in the folder that the trainer left. What cannot be read is
    /// counted, because a training that has ended is not lost over it.
    pub fn read(lines: &Path, output: &Path) -> Self {
        let mut reported = Self::default();
        if lines.is_file() {
            if let Err(e) = reported.read_lines(lines) {
                reported.unreadable(e.to_string());
            }
            reported.file = Some(lines.to_owned());
        } else if let Some(state) = trainer_state(output) {
            match read_text(&state).map_err(|e| e.to_string()).and_then(|text| {
                // Its history is a list of reports.
                parse_json(text.as_bytes()).map_err(|e| e.to_string())
            }) {
                Ok(mut json) => match json["log_history"].take() {
                    Value::Array(reports) => reports.into_iter().for_each(|report| match report {
                        Value::Object(report) => reported.add(report),
                        _ => reported.unreadable("an entry of `log_history` is not a JSON object".into()),
                    }),
                    _ => reported.unreadable("it has no list `log_history`".into()),
                },
                Err(e) => reported.unreadable(e),
            }
            reported.file = Some(state);
        }
        reported
    }

    /// Reads JSON lines. No line and no file takes memory without bound.
    fn read_lines(&mut self, path: &Path) -> std::io::Result<()> {
        let file = open_regular(path)?;
        let length = file.metadata()?.len();
        let mut reader = BufReader::new(file.take(MAX_REPORTS));
        let mut line = Vec::new();
        for number in 1u64.. {
            line.clear();
            let mut part = (&mut reader).take(MAX_LINE as u64 + 1);
            if part.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            if line.len() > MAX_LINE {
                self.unreadable(format!("line {number} has more than {} MiB", MAX_LINE >> 20));
                reader.skip_until(b'\n')?;
            } else if !line.trim_ascii().is_empty() {
                match metrics_of(&line) {
                    Ok(report) => self.add(report),
                    Err(e) => self.unreadable(format!("line {number}: {e}")),
                }
            }
        }
        if length > MAX_REPORTS {
            self.unreadable(format!("what follows the first {} MiB is not read", MAX_REPORTS >> 20));
        }
        Ok(())
    }

    /// Adds one report. A step that is reported again, by a trainer that was started again, has its last values.
    fn add(&mut self, report: Map<String, Value>) {
        let step = report.get("step").and_then(Value::as_f64).filter(|step| *step >= 1. && step.fract() == 0.);
        let step = step.filter(|step| *step <= f64::from(u32::MAX)).map(|step| step as u32);
        let mut values = BTreeMap::new();
        for (key, value) in report {
            match (key.as_str(), value.as_f64()) {
                ("step", _) => {}
                ("pairs", Some(n)) => self.pairs = Some(self.pairs.unwrap_or(0).max(n.max(0.) as u64)),
                ("world_size", Some(n)) => self.world_size = Some(n.max(0.) as u64),
                ("versions", _) if value.to_string().len() <= MAX_VERSIONS => self.versions = Some(value),
                ("versions", _) => self.unreadable(format!("`versions` has more than {} KiB", MAX_VERSIONS >> 10)),
                (name, number) => match (metric(name), number, step) {
                    (Some(name), Some(number), Some(_)) => drop(values.insert(name, number)),
                    _ => self.add_unknown(&key),
                },
            }
        }
        // An `epoch` alone is no measurement.
        if let Some(step) = step
            && values.keys().any(|name| *name != "epoch")
        {
            self.steps.entry(step).or_default().extend(values);
        }
    }

    fn add_unknown(&mut self, key: &str) {
        let name: String = key.chars().take(MAX_NAME_CHARS).collect();
        if self.unknown.len() < MAX_UNKNOWN || self.unknown.contains_key(&name) {
            *self.unknown.entry(name).or_default() += 1;
        } else {
            self.unnamed += 1;
        }
    }

    fn unreadable(&mut self, why: String) {
        self.unreadable.get_or_insert((0, why)).0 += 1;
    }

    /// Number of optimizer steps with a report.
    pub fn steps(&self) -> usize {
        self.steps.len()
    }

    /// Makes the metrics, one row per reported step. A number that every training has, and that this one did not
    /// report, is NaN.
    ///
    /// # Errors
    /// A bug: the columns do not fit the schema.
    pub fn table(&self) -> Result<RecordBatch> {
        let names = StepMetrics::default().columns().map(|(name, _)| name);
        let columns = named::METRICS.columns.iter().zip(names).map(|(column, name)| -> ArrayRef {
            if name == "step" {
                return Arc::new(UInt32Array::from_iter_values(self.steps.keys().copied()));
            }
            let missing = (!column.nullable).then_some(f64::NAN);
            let values = self.steps.values().map(|values| values.get(name).copied().or(missing));
            Arc::new(Float64Array::from_iter(values))
        });
        named::METRICS.batch(columns.collect())
    }

    /// Returns what a user must know: nothing was reported, part of it could not be read, or fewer rows were
    /// trained on than the `given` ones.
    pub fn warnings(&self, given: u64) -> Vec<String> {
        let mut warnings = Vec::new();
        let Some(file) = &self.file else {
            return vec![format!(
                "the trainer reported no metrics: let it write to {{metrics}}, or leave {TRAINER_STATE} in {{output}}"
            )];
        };
        let file = file.display();
        if let Some((lines, first)) = &self.unreadable {
            warnings.push(format!("{file}: {} could not be read; {}", counted(*lines, "report"), one_line(first)));
        }
        if self.unnamed > 0 {
            warnings.push(format!(
                "{file}: values of more than {MAX_UNKNOWN} names that are no metrics; {} without a note of the name",
                counted(self.unnamed, "value")
            ));
        }
        if self.steps.is_empty() {
            warnings.push(format!("{file} has no report with a `step` and a metric"));
        }
        if let Some(pairs) = self.pairs.filter(|pairs| *pairs < given) {
            let processes = match self.world_size {
                Some(n) => format!(" by {}", counted(n, "process")),
                None => String::new(),
            };
            warnings.push(format!(
                "the trainer was given {} and reports that {pairs} were trained on{processes}: was it stopped early, \
                 or did it start fewer processes than it was told to?",
                counted(given, "row")
            ));
        }
        warnings
    }
}

/// Parses a line with a report.
pub(crate) fn metrics_of(line: &[u8]) -> std::result::Result<Map<String, Value>, String> {
    match parse_json(line) {
        Ok(Value::Object(report)) => Ok(report),
        Ok(_) => Err("it is not a JSON object".into()),
        Err(e) => Err(e.to_string()),
    }
}

/// The metrics of a report with a step, in their order.
pub(crate) fn metric_values(report: Map<String, Value>) -> Option<Vec<(&'static str, Option<f64>)>> {
    let names = StepMetrics::default().columns().into_iter().map(|(name, _)| name);
    let values = names.filter_map(|name| Some((name, Some(report.get(name)?.as_f64()?))));
    let values: Vec<_> = values.collect();
    (values.len() > 1 && values.iter().any(|(name, _)| *name == "step")).then_some(values)
}

/// The metric with this name.
fn metric(name: &str) -> Option<&'static str> {
    StepMetrics::default().columns().into_iter().map(|(known, _)| known).find(|known| *known == name)
}

/// The history that `Trainer` left: in the folder, or in the last of its checkpoints.
fn trainer_state(output: &Path) -> Option<PathBuf> {
    let whole = output.join(TRAINER_STATE);
    if whole.is_file() {
        return Some(whole);
    }
    let entries = std::fs::read_dir(output).into_iter().flatten().flatten();
    let numbered = entries.filter_map(|entry| {
        let number: u64 = entry.file_name().to_str()?.strip_prefix("checkpoint-")?.parse().ok()?;
        Some((number, entry.path().join(TRAINER_STATE)))
    });
    numbered.filter(|(_, path)| path.is_file()).max().map(|(_, path)| path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_rows_and_the_rest_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let lines = dir.path().join("metrics.jsonl");
        let text = "{\"step\": 1, \"loss\": 0.7, \"pairs\": 2, \"world_size\": 1, \"versions\": {\"trl\": \"1\"}}\n\
                    {\"step\": 2, \"loss\": 0.9}\n{\"step\": 2, \"lo\n\n3\n{\"step\": 2, \"loss\": 0.6, \"epoch\": 0.5, \
                    \"rewards/margins\": 0.1, \"logits/chosen\": 3.0, \"note\": \"x\", \"pairs\": 4}\n{\"loss\": 1.0}\n";
        std::fs::write(&lines, text).unwrap();
        let reported = Reported::read(&lines, dir.path());
        assert_eq!((reported.pairs, reported.world_size, reported.steps()), (Some(4), Some(1), 2));
        let unknown = [("logits/chosen", 1), ("loss", 1), ("note", 1)].map(|(k, n)| (k.to_owned(), n));
        assert_eq!(reported.unknown, BTreeMap::from(unknown));
        let table = reported.table().unwrap();
        let columns = Columns(&table);
        assert_eq!(columns.uint("step").unwrap().values().to_vec(), [1, 2]);
        // The second step was reported again.
        assert_eq!(columns.double("loss").unwrap().values().to_vec(), [0.7, 0.6]);
        assert!(columns.double("grad_norm").unwrap().value(0).is_nan());
        assert!(columns.double("rewards/margins").unwrap().is_null(0));
        let warnings = reported.warnings(8);
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].contains(": 2 reports could not be read; line 3: "), "{warnings:?}");
        assert_eq!(
            warnings[1],
            "the trainer was given 8 rows and reports that 4 were trained on by 1 process: was it stopped early, or \
             did it start fewer processes than it was told to?"
        );
        assert_eq!(reported.warnings(4).len(), 1);
    }

    #[test]
    fn reports_of_any_size_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let lines = dir.path().join("metrics.jsonl");
        let keys: String = (0..20_000).map(|i| format!("\"\\u001b[31m{i}\": 1, ")).collect();
        let (half, long) = (&keys[..keys.len() / 2], "x".repeat(5 << 20));
        let half = &half[..half.rfind(", ").unwrap()];
        let text = format!(
            "{{{half}}}\n{{\"step\": 1, \"loss\": \"{long}\"}}\n{{\"step\": 1, \"loss\": NaN}}\n\
             {{\"step\": 1, \"step\": 2, \"loss\": 1}}\n{{\"step\": 3, \"loss\": 0.5, \"versions\": \"{}\"}}\n\u{1b}[2J",
            "v".repeat(20_000)
        );
        std::fs::write(&lines, text).unwrap();
        let reported = Reported::read(&lines, dir.path());
        assert_eq!((reported.steps(), reported.unknown.len(), reported.versions.is_none()), (1, MAX_UNKNOWN, true));
        let warnings = reported.warnings(0);
        assert!(warnings[0].contains(": 5 reports could not be read; line 2 has more than 1 MiB"), "{warnings:?}");
        assert!(warnings[1].contains("more than 100 names"), "{warnings:?}");
        assert!(!warnings.concat().contains('\u{1b}'), "{warnings:?}");
    }

    #[test]
    fn the_history_of_transformers_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let (none, output) = (dir.path().join("none"), dir.path().join("output"));
        assert!(Reported::read(&none, &output).warnings(1)[0].contains("reported no metrics"));
        let state = r#"{"log_history": [{"step": 1, "loss": 0.5, "epoch": 0.5}, {"step": 1, "eval_loss": 0.4},
            {"step": 2, "epoch": 1.0, "train_loss": 0.5, "train_runtime": 3.0}]}"#;
        for (checkpoint, text) in [("checkpoint-9", "{}"), ("checkpoint-10", state)] {
            std::fs::create_dir_all(output.join(checkpoint)).unwrap();
            std::fs::write(output.join(checkpoint).join(TRAINER_STATE), text).unwrap();
        }
        let reported = Reported::read(&none, &output);
        let table = reported.table().unwrap();
        assert_eq!((table.num_rows(), Columns(&table).double("eval_loss").unwrap().value(0)), (1, 0.4));
        assert_eq!(reported.unknown.keys().collect::<Vec<_>>(), ["train_loss", "train_runtime"]);
        assert!(reported.warnings(1).is_empty());
        std::fs::write(output.join(TRAINER_STATE), "{\"log_history\": 1}").unwrap();
        assert_eq!(Reported::read(&none, &output).warnings(1).len(), 2);
    }
}
