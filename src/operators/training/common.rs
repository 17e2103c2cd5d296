//! Code shared by `sft` and `dpo`: the optimizer's keys, progress, and committing the model and its
//! metrics.

use std::time::{Duration, Instant};

use arrow::array::Float64Array;

use super::reference::ReferenceUse;
use crate::data::{Type, counted, read_regular};
use crate::model::Model;
use crate::model::backprop::ForwardOptions;
use crate::model::ops::Dropout;
use crate::operators::shared::prelude::*;
use crate::store::Run;
use crate::train::{
    AdamWConfig, Checkpoint, Checkpoints, Decay, KeepWeights, Progress, Schedule, StepMetrics, Trained, Validation,
    ValidationMetric, Warmup,
};

/// Most pair ids that a training lists in its metrics, counting repeated use: 260 MB of ids while they are
/// written.
const MOST_PAIRS: usize = 1 << 22;

/// Reads the keys of the optimizer and its schedule.
pub fn optimizer(f: &mut Fields<'_>, learning_rate: f64, final_learning_rate: f64) -> (AdamWConfig, Schedule) {
    let decays = [
        ("cosine", "half a cosine down to final_learning_rate"),
        ("linear", "a straight line down to final_learning_rate"),
        ("constant", "none"),
    ];
    let schedule = Schedule {
        learning_rate: f.float(
            "learning_rate",
            "learning rate at the end of the warm-up",
            Some(learning_rate),
            0.0..=10.0,
        ),
        final_learning_rate: f.float(
            "final_learning_rate",
            "learning rate at the end of the training",
            Some(final_learning_rate),
            0.0..=10.0,
        ),
        decay: Decay::parse(f.choice("schedule", "how the learning rate decreases", &decays, Some("cosine")))
            .unwrap_or_default(),
        warmup: Warmup::Share(f.float(
            "warmup",
            "share of the steps during which the learning rate rises from 0",
            Some(0.),
            0.0..=1.0,
        )),
    };
    if schedule.decay == Decay::Constant {
        f.without_effect(&["final_learning_rate"], "with schedule = \"constant\"", "choose another schedule");
    }
    let betas = f.floats(
        "betas",
        "AdamW's decay rates for the mean of gradients and of their squares",
        Some(&[0.9, 0.999]),
        0.0..1.0,
    );
    if betas.len() != 2 {
        f.problem("betas", "two numbers are needed", "for example betas = [0.9, 0.95]");
    }
    let config = AdamWConfig {
        beta1: betas.first().copied().unwrap_or(0.9),
        beta2: betas.get(1).copied().unwrap_or(0.999),
        weight_decay: f.float("weight_decay", "decoupled weight decay of the matrices", Some(0.), 0.0..=10.0),
        max_grad_norm: f.float(
            "max_grad_norm",
            "maximum global norm of the gradients; 0 turns clipping off",
            Some(1.),
            0.0..=1e9,
        ),
        ..AdamWConfig::default()
    };
    (config, schedule)
}

/// Reads the key of the checkpoints.
pub fn checkpoint_every(f: &mut Fields<'_>) -> usize {
    let about = "steps between checkpoints, from which a stopped training resumes; 0 means no checkpoints";
    f.count("checkpoint_every", about, Some(50), 0..=1 << 30)
}

/// Validation during training, and what follows from it.
pub struct Validating {
    /// Whether the step has held-out rows.
    validates: bool,
    every: usize,
    measure: ValidationMetric,
    patience: Option<usize>,
    keep: KeepWeights,
}

impl Validating {
    /// Reads the keys. `rows` describes the held-out rows, and `measures` the quantities other than the
    /// loss that can select a model.
    pub fn fields(f: &mut Fields<'_>, rows: &'static str, measures: &[(&'static str, &'static str)]) -> Self {
        let validates = f.step("validation", rows).is_some();
        let every = f.count(
            "validate_every",
            "steps between measurements; the last step is always measured",
            Some(200),
            1..=1 << 30,
        );
        let measure = if measures.is_empty() {
            "loss"
        } else {
            let all: Vec<_> =
                std::iter::once(("loss", "least loss, without replay")).chain(measures.iter().copied()).collect();
            f.choice("measure", "which measurement is best", &all, Some("loss"))
        };
        let about = "number of measurements without improvement after which training stops; runs to the end if not set";
        let patience = f.optional_int("patience", about, 1..=1 << 30).map(|n| n as usize);
        if patience.is_some() && !validates {
            f.problem(
                "patience",
                "`patience` counts measurements, but there is nothing to measure on",
                "name held-out rows: validation = \"STEP\"",
            );
        }
        let kept = [("best", "those of the best measurement"), ("last", "those after the last step")];
        let keep = f.choice(
            "keep_weights",
            "which weights become the model, if there is a validation step",
            &kept,
            Some("best"),
        );
        if !validates {
            let keys: &[&str] = if measures.is_empty() {
                &["validate_every", "keep_weights"]
            } else {
                &["validate_every", "measure", "keep_weights"]
            };
            f.without_effect(keys, "without `validation`", "name held-out rows: validation = \"STEP\"");
        }
        Self {
            validates,
            every,
            measure: match measure {
                "accuracy" => ValidationMetric::Accuracy,
                "margin" => ValidationMetric::Margin,
                _ => ValidationMetric::Loss,
            },
            patience,
            keep: if keep == "last" { KeepWeights::Last } else { KeepWeights::Best },
        }
    }
    /// Returns the name of the measure.
    pub fn measure(&self) -> ValidationMetric {
        self.measure
    }
    /// Returns how often a training with this number of steps is validated.
    pub fn times(&self, steps: f64) -> f64 {
        if self.validates { (steps / self.every as f64).ceil() } else { 0. }
    }
    /// Adds the held-out rows.
    pub fn on<Row>(&self, rows: Vec<Row>) -> Validation<Row> {
        Validation { rows, every: self.every, measure: self.measure, patience: self.patience, keep: self.keep }
    }
    /// Describes the settings for `explain` if the step has held-out rows.
    pub fn explain(&self, words: &mut String) {
        if !self.validates {
            return;
        }
        *words += &format!(", validated every {} by {}", counted(self.every, "step"), self.measure.column());
        if let Some(patience) = self.patience {
            *words += &format!(" with patience {patience}");
        }
    }
}

/// Whether the step has an input with this key.
pub fn has(cx: &Context<'_>, key: &str) -> bool {
    cx.step.inputs.iter().any(|i| i.key == key)
}

/// Reads the keys of the forward pass in training.
pub fn options(f: &mut Fields<'_>) -> ForwardOptions {
    let rate = f.float(
        "dropout",
        "dropout of what each layer adds to the residual stream; the paper uses 0.1",
        Some(0.),
        0.0..=0.9,
    );
    let about = "stores only each layer's input and recomputes the rest in the backward pass: about a tenth of the memory \
                 for activations, a third more arithmetic, the same result";
    ForwardOptions { dropout: Dropout { rate }, checkpoint: f.bool("checkpoint_activations", about, Some(false)) }
}

/// Minimum time between two writes of the metrics so far.
const METRICS_INTERVAL: Duration = Duration::from_secs(1);
/// The time between two writes is at least this many times the duration of the last one, so that writing
/// costs 5% at most.
const METRICS_PATIENCE: u32 = 20;

/// Reports a training's progress, stops it if the run is cancelled, and saves its state and its metrics so
/// far in the run directory.
pub struct TrainingProgress<'a> {
    cx: &'a Context<'a>,
    /// Hash of the weights it starts from.
    start: String,
    checkpoint_every: usize,
    /// Earliest time of the next write of the metrics.
    metrics_due: Instant,
}

impl<'a> TrainingProgress<'a> {
    /// Creates the progress of the training of `model`, before its first step.
    pub fn new(cx: &'a Context<'a>, model: &Model, checkpoint_every: usize) -> Self {
        Self { cx, start: model.hash.clone(), checkpoint_every, metrics_due: Instant::now() }
    }
}

impl Progress for TrainingProgress<'_> {
    fn step(&mut self, metrics: &StepMetrics, done: usize, total: usize) -> Result<()> {
        self.cx.measured(&metrics.columns());
        self.cx.progress(done, total, "steps");
        self.forward(0)
    }
    fn recorded(&mut self, metrics: &[StepMetrics]) -> Result<()> {
        let start = Instant::now();
        if start < self.metrics_due {
            return Ok(());
        }
        self.cx.run().write_running_metrics(&self.cx.step.name, self.cx.epoch.iteration, &table(metrics, &[])?)?;
        self.metrics_due = Instant::now() + METRICS_INTERVAL.max(start.elapsed() * METRICS_PATIENCE);
        Ok(())
    }
    fn forward(&mut self, _: usize) -> Result<()> {
        if self.cx.cancelled() { Err(Error::cancelled()) } else { Ok(()) }
    }
    fn checkpoints(&mut self) -> Option<&mut dyn Checkpoints> {
        (self.checkpoint_every > 0).then_some(self)
    }
}

impl Checkpoints for TrainingProgress<'_> {
    fn every(&self) -> usize {
        self.checkpoint_every
    }
    fn start(&self) -> String {
        self.start.clone()
    }
    fn save(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let (run, step) = (self.cx.run(), &self.cx.step.name);
        run.save_checkpoint(step, self.cx.epoch.iteration, checkpoint.steps(), |files| {
            checkpoint.write(&mut |name, fill| files.put(name, |to| fill(to)))
        })
    }
    fn latest(&mut self) -> Result<Option<Checkpoint>> {
        for (step, dir) in self.cx.run().checkpoints(&self.cx.step.name, self.cx.epoch.iteration) {
            match Run::verify_checkpoint(&dir).and_then(|()| Checkpoint::read(&dir)) {
                Ok(checkpoint) => {
                    tracing::info!("training `{}` goes on from step {step}", self.cx.step.name);
                    return Ok(Some(checkpoint));
                }
                Err(e) => tracing::warn!("{e}; training continues from the previous checkpoint, or starts again"),
            }
        }
        Ok(None)
    }
}

/// `reflux.json` next to a model's weights: how the model was made.
fn origin(
    cx: &Context<'_>,
    model: &Model,
    trained: &Trained,
    measure: Option<ValidationMetric>,
    rows: &TrainingRows,
) -> Result<Vec<u8>> {
    let mut json = serde_json::json!({
        "step": cx.step.name, "operator": cx.step.kind.name, "iteration": cx.epoch.iteration,
        "start": model.hash, "steps": trained.metrics.len(), "chosen_step": trained.chosen,
    });
    if !rows.data.is_null() {
        json["data"] = rows.data.clone();
    }
    // Stored in the folder that is committed as a whole, so that a run killed before the announcement still
    // has them.
    let problems = trained.problems.iter().map(|p| LeftOutRow {
        row: p.id.clone(),
        code: p.code.into(),
        message: p.message.clone(),
    });
    let refused = rows.refused.iter().map(LeftOutRow::from);
    put_left_out(&mut json, refused.chain(problems).collect())?;
    if rows.beyond_limit > 0 {
        json[BEYOND_LIMIT] = rows.beyond_limit.into();
    }
    let chosen = trained.chosen.checked_sub(1).and_then(|i| trained.metrics.get(i));
    if let (Some(measure), Some(chosen)) = (measure, chosen) {
        json["measure"] = measure.column().into();
        json[measure.column()] = measure.value(chosen).into();
    }
    if let Some(reference) = ReferenceUse::load(cx.step, cx.run(), cx.epoch.iteration)? {
        json["reference"] = serde_json::to_value(reference).map_err(|e| Error::bug(format!("reflux.json: {e}")))?;
    }
    Ok(format!("{json:#}\n").into_bytes())
}

/// Makes the metrics of a training, one row per step. `pairs` holds the ids of the pairs that each step
/// used, if any.
fn table(metrics: &[StepMetrics], pairs: &[Vec<Arc<str>>]) -> Result<RecordBatch> {
    let numbers = StepMetrics::default().columns().len();
    let columns = named::METRICS.columns.iter().take(numbers).enumerate().map(|(i, column)| -> ArrayRef {
        match column.kind {
            Type::UInt => Arc::new(UInt32Array::from_iter_values(metrics.iter().map(|m| m.step))),
            _ => Arc::new(Float64Array::from_iter(metrics.iter().map(|m| m.columns()[i].1))),
        }
    });
    let mut columns: Vec<ArrayRef> = columns.collect();
    let count: usize = pairs.iter().map(Vec::len).sum();
    if (1..=MOST_PAIRS).contains(&count) {
        columns.push(List::of_texts(pairs));
    }
    named::METRICS.batch(columns)
}

/// The rows of a training.
#[derive(Default)]
pub struct TrainingRows {
    /// Rows that were refused before the first step.
    pub refused: Vec<RowError>,
    /// Rows beyond the step's `limit`.
    pub beyond_limit: u64,
    /// Notes about the data in `reflux.json`, if any.
    pub data: serde_json::Value,
}

/// The keys of `reflux.json` for rows that a training did not use.
const LEFT_OUT: &str = "left_out";
const BEYOND_LIMIT: &str = "beyond_limit";

/// A row that a training could not use, as stored in `reflux.json`.
#[derive(serde::Serialize, serde::Deserialize)]
struct LeftOutRow {
    row: String,
    code: String,
    message: String,
}

impl From<&RowError> for LeftOutRow {
    fn from(e: &RowError) -> Self {
        Self { row: e.row.clone(), code: e.code.clone(), message: e.message.clone() }
    }
}

fn put_left_out(json: &mut serde_json::Value, rows: Vec<LeftOutRow>) -> Result<()> {
    if !rows.is_empty() {
        json[LEFT_OUT] = serde_json::to_value(rows).map_err(|e| Error::bug(format!("reflux.json: {e}")))?;
    }
    Ok(())
}

/// Adds rows that a training did not use to its `reflux.json`, from which [`announce`] takes them.
pub fn add_left_out(json: &mut serde_json::Value, rows: &[RowError]) -> Result<()> {
    put_left_out(json, rows.iter().map(LeftOutRow::from).collect())
}

/// Commits the model and its metrics, and announces it. An adapter is merged into the model and also saved
/// next to it. `measure` is the measure of the validation, if there was any.
pub fn finish(
    cx: &Context<'_>,
    name: &str,
    model: &Model,
    trained: &Trained,
    measure: Option<ValidationMetric>,
    rows: &TrainingRows,
) -> Result<Output> {
    let metrics = table(&trained.metrics, &trained.pairs)?;
    cx.run().write_metrics(&cx.step.name, cx.epoch.iteration, &metrics)?;
    cx.run().commit_model(name, &cx.step.name, cx.epoch.iteration, |dir| {
        let path = dir.join("reflux.json");
        std::fs::write(&path, origin(cx, model, trained, measure, rows)?).doing(|| path.display())?;
        if model.llama.lora().is_some() {
            model.save_lora(Models::base(cx)?.as_deref(), &dir.join("adapter"))?;
        }
        model.save(dir)
    })?;
    announce(cx, name)
}

/// Returns the announcement of a committed model, with the rows that its training did not use.
pub fn announce(cx: &Context<'_>, name: &str) -> Result<Output> {
    let mut output = cx.announce(name)?;
    let path = cx.run().dir().join("models").join(name).join("reflux.json");
    let text = read_regular(&path).doing(|| path.display())?;
    let damaged = |e: serde_json::Error| {
        Error::user(format!("{}: {e}", path.display())).help("`reflux verify --repair` goes back to before this model")
    };
    let mut json: serde_json::Value = serde_json::from_slice(&text).map_err(damaged)?;
    let left_out = match json[LEFT_OUT].take() {
        serde_json::Value::Null => Vec::new(),
        rows => serde_json::from_value::<Vec<LeftOutRow>>(rows).map_err(damaged)?,
    };
    output.errors = left_out.into_iter().map(|e| RowError::failed(e.row, e.code, e.message)).collect();
    Ok(output.with_unused(BEYOND_LIMIT, json[BEYOND_LIMIT].as_u64().unwrap_or(0)))
}
