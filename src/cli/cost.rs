//! `reflux cost`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::check::load_without_data;
use super::terminal;
use crate::data::read_regular;
use crate::error::{Context as _, Error, Result};
use crate::model::Config;
use crate::pipeline::{Assume, External, ModelKind};
use crate::report::{Cost, Hardware, ModelShape};

#[derive(clap::Args)]
#[command(
    after_help = "Counts: `read` are tokens of prompts, `sampled` those generated, `scored` those whose log-probabilities are
computed (a reference's, held-out rows), `trained` those trained on. FLOPs: 2 a weight and token forward, with attention;
training takes three times that. Memory: weights, optimizer, activations or keys and values. See docs/cost.md.
Devices count as one: reflux itself computes on one.

Examples:
  reflux cost pipelines/paper-llama2-70b.toml --hardware 64xH100
  reflux cost my.toml --rows ift=3200 --shape m0=path/to/config.json --devices 1 --peak-tflops 40 --memory-gb 24
  reflux cost my.toml --rows pairs=3964,6942 --json | jq .hours"
)]
pub struct Args {
    /// The pipeline file; its datasets and models need not be there
    file: PathBuf,
    /// Overrides a key, e.g. --set step.dpo.beta=0.2
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// What it would run on, by name and number: A100, H100, H200, B200, MI300X, L40S
    #[arg(long, default_value = "8xH100")]
    hardware: String,
    /// Devices, instead of the hardware's
    #[arg(long)]
    devices: Option<f64>,
    /// Greatest 16-bit TFLOPS of a device, instead of the hardware's
    #[arg(long)]
    peak_tflops: Option<f64>,
    /// Memory of a device in GB, instead of the hardware's
    #[arg(long)]
    memory_gb: Option<f64>,
    /// Share of the TFLOPS that training and reading prompts reach
    #[arg(long, default_value_t = Hardware::MFU)]
    mfu: f64,
    /// Share of the TFLOPS that sampling reaches
    #[arg(long, default_value_t = Hardware::SAMPLING_MFU)]
    sampling_mfu: f64,
    /// Shape of a model that is not here: NAME=config.json; by default that beside the model, or model.NAME.config
    #[arg(long, value_name = "NAME=PATH")]
    shape: Vec<String>,
    /// Rows of a step, by iteration where they differ: --rows ift=3200 --rows pairs=3964,6942
    #[arg(long, value_name = "STEP=N[,N..]")]
    rows: Vec<String>,
    /// Tokens of a given prompt
    #[arg(long, default_value_t = Assume::default().prompt)]
    prompt_tokens: f64,
    /// Tokens of a given answer
    #[arg(long, default_value_t = Assume::default().answer)]
    answer_tokens: f64,
    /// Tokens of the judge's rubric
    #[arg(long, default_value_t = Assume::default().rubric)]
    rubric_tokens: f64,
    /// Tokens of a given judgement
    #[arg(long, default_value_t = Assume::default().judgement)]
    judgement_tokens: f64,
    /// Share of max_tokens that a sampled answer has
    #[arg(long, default_value_t = Assume::default().fill)]
    fill: f64,
    /// Share of the prompts whose answers give pairs
    #[arg(long, default_value_t = Assume::default().pair_yield)]
    pair_yield: f64,
    /// Share of the answers that `positives` keeps
    #[arg(long, default_value_t = Assume::default().positives)]
    positives: f64,
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

fn pair<'a>(text: &'a str, flag: &str) -> Result<(&'a str, &'a str)> {
    text.split_once('=').ok_or_else(|| Error::user(format!("{flag} takes NAME=VALUE, not `{text}`")))
}

/// The shape that a config.json, or the directory of one, tells.
fn shape(path: &Path) -> Result<ModelShape> {
    let path = if path.is_dir() { path.join("config.json") } else { path.to_owned() };
    let text = read_regular(&path).user(|| path.display().to_string())?;
    let config: Config = serde_json::from_slice(&text).map_err(|e| Error::user(format!("{}: {e}", path.display())))?;
    ModelShape::of(&config)
        .ok_or_else(|| Error::user(format!("{}: a model has layers, heads, a width and a vocabulary", path.display())))
}

pub fn run(args: &Args) -> Result<()> {
    // That data is absent, or a step unused, is `check`'s to say.
    let plan = load_without_data(&args.file, &args.set, true)?;
    let mut shapes = BTreeMap::new();
    for model in &plan.models {
        let beside = match &model.kind {
            ModelKind::Path(path) => Some(path.outside_of_runs()).filter(|path| path.join("config.json").exists()),
            ModelKind::Init { config, .. } => Some(config.outside_of_runs()),
            ModelKind::Hub { .. } | ModelKind::Script { .. } => None,
        };
        if let Some(path) = beside.or(model.config.as_ref().map(External::outside_of_runs)) {
            shapes.insert(model.name.clone(), shape(path)?);
        }
    }
    for text in &args.shape {
        let (name, path) = pair(text, "--shape")?;
        if plan.model(name).is_none() {
            return Err(Error::user(format!("--shape names `{name}`, which is no model of the file")));
        }
        shapes.insert(name.to_owned(), shape(Path::new(path))?);
    }
    let mut rows = BTreeMap::new();
    for text in &args.rows {
        let (name, numbers) = pair(text, "--rows")?;
        let number = |n: &str| n.trim().parse::<u32>().map(f64::from);
        let numbers: Result<Vec<f64>, _> = numbers.split(',').map(number).collect();
        rows.insert(name.to_owned(), numbers.map_err(|e| Error::user(format!("--rows {text}: {e}")))?);
    }
    let named = Hardware::parse(&args.hardware)?;
    let hardware = Hardware {
        devices: args.devices.unwrap_or(named.devices),
        peak_tflops: args.peak_tflops.unwrap_or(named.peak_tflops),
        memory_gb: args.memory_gb.unwrap_or(named.memory_gb),
        mfu: args.mfu,
        sampling_mfu: args.sampling_mfu,
    };
    let assume = Assume {
        prompt: args.prompt_tokens,
        answer: args.answer_tokens,
        rubric: args.rubric_tokens,
        judgement: args.judgement_tokens,
        fill: args.fill,
        pair_yield: args.pair_yield,
        positives: args.positives,
    };
    hardware.check()?;
    assume.check().map_err(Error::user)?;
    let cost = Cost::of(&plan, &shapes, &rows, &assume, hardware)?;
    if args.json { terminal::print_json(format_args!("{:#}", cost.json())) } else { terminal::print(&cost.table()) }
}
