//! `reflux cost`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::check::{Warnings, load_without_data};
use super::session::Session;
use super::terminal;
use crate::bench::{self, Product};
use crate::data::{parse_json, read_regular};
use crate::error::{Error, ErrorContext as _, Result};
use crate::model::{Config, gguf_config, is_gguf};
use crate::pipeline::{CostAssumptions, External, ModelKind};
use crate::report::{Cost, Hardware, ModelShape};

#[derive(clap::Args)]
#[command(
    after_help = "`read` counts prompt tokens, `sampled` generated tokens, `scored` tokens whose log-probabilities are
computed (by a reference, or on held-out rows), `trained` training tokens. FLOPs: 2 per weight and token in
a forward, plus attention; training takes three times that. Memory: weights, optimizer, activations or keys
and values. See docs/cost.md. Several devices count as one: reflux itself computes on one.

Examples:
  reflux cost pipelines/paper-llama2-70b.toml --hardware 64xH100
  reflux cost my.toml --hardware RTX4090
  reflux cost my.toml --hardware cpu
  reflux cost my.toml --rows ift=3200 --shape m0=path/to/config.json --devices 1 --peak-tflops 40 --memory-gb 24
  reflux cost my.toml --rows pairs=3964,6942 --json | jq .hours"
)]
pub struct Args {
    /// The pipeline file; its datasets and models may be missing
    file: PathBuf,
    /// Overrides a key, e.g. --set step.dpo.beta=0.2
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Hardware to estimate for, by name and number: A100, H100, H200, B200, MI300X, L40S, L4, V100, T4,
    /// A6000, RTX3080 to RTX5090; or cpu, which measures this machine for a few seconds
    #[arg(long, default_value = "8xH100")]
    hardware: String,
    /// Number of devices; overrides --hardware
    #[arg(long)]
    devices: Option<f64>,
    /// Peak 16-bit TFLOPS of a device; overrides --hardware
    #[arg(long)]
    peak_tflops: Option<f64>,
    /// Memory of a device in GB; overrides --hardware
    #[arg(long)]
    memory_gb: Option<f64>,
    /// Share of the TFLOPS that training and prefill reach; by default 0.4, or 0.6 of the measured rate of
    /// cpu
    #[arg(long)]
    mfu: Option<f64>,
    /// Share of the TFLOPS that sampling reaches; by default 0.1, or 0.3 of the measured rate of cpu
    #[arg(long)]
    sampling_mfu: Option<f64>,
    /// Shape of a missing model: NAME=config.json, or a GGUF file; by default that of the model, or
    /// model.NAME.config
    #[arg(long, value_name = "NAME=PATH")]
    shape: Vec<String>,
    /// Rows of a step, by iteration if they differ: --rows ift=3200 --rows pairs=3964,6942
    #[arg(long, value_name = "STEP=N[,N..]")]
    rows: Vec<String>,
    /// Tokens of a prompt from a dataset
    #[arg(long, default_value_t = CostAssumptions::default().prompt)]
    prompt_tokens: f64,
    /// Tokens of an answer from a dataset
    #[arg(long, default_value_t = CostAssumptions::default().answer)]
    answer_tokens: f64,
    /// Tokens of the judge's rubric
    #[arg(long, default_value_t = CostAssumptions::default().rubric)]
    rubric_tokens: f64,
    /// Tokens of a judgement from a dataset
    #[arg(long, default_value_t = CostAssumptions::default().judgement)]
    judgement_tokens: f64,
    /// Length of a sampled answer, as a share of max_tokens
    #[arg(long, default_value_t = CostAssumptions::default().fill)]
    fill: f64,
    /// Share of the prompts whose answers yield pairs
    #[arg(long, default_value_t = CostAssumptions::default().pair_yield)]
    pair_yield: f64,
    /// Share of the answers that `positives` keeps
    #[arg(long, default_value_t = CostAssumptions::default().positives)]
    positives: f64,
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

fn pair<'a>(text: &'a str, flag: &str) -> Result<(&'a str, &'a str)> {
    text.split_once('=').ok_or_else(|| Error::user(format!("{flag} takes NAME=VALUE, not `{text}`")))
}

/// Shape of the model whose matrix products measure a CPU; larger products would not run faster.
const MEASURED: &str = r#"{ "vocab_size": 8192, "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 4,
    "num_attention_heads": 16, "tie_word_embeddings": true }"#;
/// Rows of the measured products, about as many as in a training batch.
const MEASURED_ROWS: usize = 256;

/// Measures this machine: the rate of its f32 matrix products, and its memory. Values given on the command
/// line are not measured.
fn this_machine(args: &Args) -> Result<Hardware> {
    let digits = |x: f64, n: f64| (x * n).round() / n;
    let peak_tflops = match args.peak_tflops {
        Some(given) => given,
        None => {
            let config: Config =
                serde_json::from_str(MEASURED).map_err(|e| Error::bug(format!("the measured shape: {e}")))?;
            let rate = bench::rate(&config, MEASURED_ROWS, Product::Gemm).doing(|| "the matrix products")?;
            digits(rate / 1e12, 1e4)
        }
    };
    let memory_gb = match args.memory_gb {
        Some(given) => given,
        None => {
            let bytes = bench::memory("/proc/meminfo", "MemTotal:").ok_or_else(|| {
                Error::user("the system does not report its memory size").help("add --memory-gb to --hardware cpu")
            })?;
            digits(bytes as f64 / 1e9, 10.)
        }
    };
    Ok(Hardware::measured(peak_tflops, memory_gb))
}

/// Reads a model shape from a GGUF file, a config.json, or a directory with one.
fn shape(path: &Path) -> Result<ModelShape> {
    if is_gguf(path) {
        return of_config(path, &gguf_config(path)?);
    }
    let path = if path.is_dir() { path.join("config.json") } else { path.to_owned() };
    let text = read_regular(&path).user(|| path.display().to_string())?;
    let wrong = |e: &dyn std::fmt::Display| Error::user(format!("{}: {e}", path.display()));
    let json = parse_json(&text).map_err(|e| wrong(&e))?;
    let config: Config = serde_json::from_value(json).map_err(|e| wrong(&e))?;
    of_config(&path, &config)
}

fn of_config(path: &Path, config: &Config) -> Result<ModelShape> {
    ModelShape::of(config)
        .ok_or_else(|| Error::user(format!("{}: a model has layers, heads, a width and a vocabulary", path.display())))
}

pub fn run(args: &Args, _: &Session) -> Result<()> {
    // `check` reports missing data and unused steps, so `cost` does not.
    let plan = load_without_data(&args.file, &args.set, Warnings::Hidden)?;
    let mut shapes = BTreeMap::new();
    for model in &plan.models {
        let beside = match &model.kind {
            ModelKind::Path(path) => Some(path.outside_of_runs())
                .filter(|path| (is_gguf(path) && path.is_file()) || path.join("config.json").exists()),
            ModelKind::Init { config, .. } => Some(config.outside_of_runs()),
            ModelKind::Hub { .. } | ModelKind::Script { .. } | ModelKind::Server(_) => None,
        };
        if let Some(path) = beside.or(model.config.as_ref().map(External::outside_of_runs)) {
            shapes.insert(model.name.clone(), shape(path)?);
        }
    }
    for text in &args.shape {
        let (name, path) = pair(text, "--shape")?;
        if plan.model(name).is_none() {
            return Err(Error::user(format!("--shape: model `{name}` not found in the file")));
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
    let named =
        if args.hardware.eq_ignore_ascii_case("cpu") { this_machine(args)? } else { Hardware::parse(&args.hardware)? };
    let hardware = Hardware {
        devices: args.devices.unwrap_or(named.devices),
        peak_tflops: args.peak_tflops.unwrap_or(named.peak_tflops),
        memory_gb: args.memory_gb.unwrap_or(named.memory_gb),
        mfu: args.mfu.unwrap_or(named.mfu),
        sampling_mfu: args.sampling_mfu.unwrap_or(named.sampling_mfu),
    };
    let assume = CostAssumptions {
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
