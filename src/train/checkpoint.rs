//! The state of a running training, and its files.
//!
//! With the settings and the data, weights, moments and the metrics so far are all there is: shuffles, replay and the
//! learning rate are functions of the step number ([`order`](super::order)), so the step is the place in the data too.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::metrics::StepMetrics;
use crate::error::{Error, ErrorContext, Result};
use crate::model::{read_tensors, write_tensors};

/// Trainable weights.
const WEIGHTS: &str = "model.safetensors";
/// Moments under torch's names.
const MOMENTS: &str = "optimizer.safetensors";
/// Weights of the best measurement so far.
const BEST: &str = "best.safetensors";
/// The rest.
const STATE: &str = "trainer.json";
/// Version of the files.
const FORMAT: u32 = 1;

/// A training after some optimizer steps. Tensors share memory with the trainer: write or copy them before the next
/// step.
pub struct Checkpoint {
    /// The trainable weights by name.
    pub weights: BTreeMap<String, Tensor>,
    /// The optimizer's moments; see [`Trainer::moments`](super::Trainer::moments).
    pub moments: BTreeMap<String, Tensor>,
    /// The weights with the best validation so far, if they are needed and differ from `weights`.
    pub best: Option<BTreeMap<String, Tensor>>,
    /// Hash of the settings, the planned length and the start, which must be the same for a training to continue.
    pub settings: String,
    /// Rows that the training had been given; see `data`.
    pub rows: usize,
    /// Hash of those rows in their order.
    pub data: String,
    /// The metrics of every step so far; their number is the number of steps.
    pub metrics: Vec<StepMetrics>,
}

/// `trainer.json`. Numbers of the metrics are texts: JSON readers may be off by the last bit.
#[derive(Serialize, Deserialize)]
struct State {
    format: u32,
    step: usize,
    epoch: f64,
    num_tokens: u64,
    settings: String,
    rows: usize,
    data: String,
    columns: Vec<String>,
    metrics: Vec<Vec<Option<String>>>,
}

impl Checkpoint {
    /// Optimizer steps taken.
    pub fn steps(&self) -> usize {
        self.metrics.len()
    }

    /// Tokens seen.
    pub fn num_tokens(&self) -> u64 {
        self.metrics.last().map_or(0, |m| m.num_tokens as u64)
    }

    /// Hands over its files one by one: `put` is given a name, and what writes the content.
    ///
    /// # Errors
    /// What `put` returns.
    #[expect(clippy::type_complexity, reason = "a writer of files by name, used here only")]
    pub fn write(&self, put: &mut dyn FnMut(&str, &dyn Fn(&mut dyn Write) -> Result<()>) -> Result<()>) -> Result<()> {
        put(WEIGHTS, &|to| write_tensors(&self.weights, to))?;
        put(MOMENTS, &|to| write_tensors(&self.moments, to))?;
        if let Some(best) = &self.best {
            put(BEST, &|to| write_tensors(best, to))?;
        }
        let exact = |m: &StepMetrics| m.columns().iter().map(|(_, v)| v.map(|v| v.to_string())).collect();
        let state = State {
            format: FORMAT,
            step: self.steps(),
            epoch: self.metrics.last().map_or(0., |m| m.epoch),
            num_tokens: self.num_tokens(),
            settings: self.settings.clone(),
            rows: self.rows,
            data: self.data.clone(),
            columns: StepMetrics::default().columns().iter().map(|(name, _)| (*name).to_owned()).collect(),
            metrics: self.metrics.iter().map(exact).collect(),
        };
        let text = serde_json::to_vec(&state).map_err(|e| Error::bug(format!("{STATE}: {e}")))?;
        put(STATE, &|to| Ok(to.write_all(&text)?))
    }

    /// Reads the files of [`Checkpoint::write`] from a directory; tensors are on the CPU.
    ///
    /// # Errors
    /// A file is missing or not what it should be, or another version of reflux wrote it.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(STATE);
        let wrong = |what: String| Error::user(format!("{}: {what}", path.display()));
        let text = crate::data::read_regular(&path).doing(|| path.display())?;
        let state: State = serde_json::from_slice(&text).map_err(|e| wrong(e.to_string()))?;
        if state.format != FORMAT || state.metrics.len() != state.step {
            return Err(wrong(format!("format {}, {} steps", state.format, state.step)));
        }
        let row = |row: &Vec<Option<String>>| -> Option<StepMetrics> {
            let mut m = StepMetrics::default();
            for (name, text) in state.columns.iter().zip(row) {
                let value = text.as_ref().map(|t| t.parse::<f64>()).transpose().ok()?;
                m.set(name, value).then_some(())?;
            }
            (row.len() == state.columns.len()).then_some(m)
        };
        let metrics = state.metrics.iter().map(row).collect::<Option<Vec<_>>>();
        let metrics = metrics.ok_or_else(|| wrong("the metrics are not those of this version".into()))?;
        let best = dir.join(BEST);
        Ok(Self {
            weights: read_tensors(&dir.join(WEIGHTS), &Device::Cpu)?,
            moments: read_tensors(&dir.join(MOMENTS), &Device::Cpu)?,
            best: best.exists().then(|| read_tensors(&best, &Device::Cpu)).transpose()?,
            settings: state.settings,
            rows: state.rows,
            data: state.data,
            metrics,
        })
    }
}

/// Stores a training's checkpoints.
pub trait Checkpoints {
    /// Optimizer steps between checkpoints. 0 saves none, not even when the training is stopped.
    fn every(&self) -> usize;

    /// Identifies the start of the training, for example the hash of the model's weights. A checkpoint of another
    /// start is not used.
    fn start(&self) -> String;

    /// Saves a checkpoint in place of the earlier ones.
    ///
    /// # Errors
    /// It cannot be written.
    fn save(&mut self, checkpoint: &Checkpoint) -> Result<()>;

    /// The latest complete checkpoint.
    ///
    /// # Errors
    /// Only an error that must stop the run. A damaged checkpoint is skipped.
    fn latest(&mut self) -> Result<Option<Checkpoint>>;
}
