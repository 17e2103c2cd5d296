//! `reflux bench`.

use std::path::{Path, PathBuf};

use candle_core::DType;
use clap::Subcommand;

use super::logprobs::messages;
use super::model::ModelArgs;
use super::session::Session;
use crate::bench;
use crate::cancel::CancelFlag;
use crate::data::{Columns, counted, named};
use crate::engine::EngineConfig;
use crate::error::{Error, ErrorContext, Result};
use crate::model::{Message, Model, device};
use crate::operators::PromptTemplate;
use crate::store::{ComparisonReader, Dataset, Lines};
use crate::train::{ForwardLimits, Scored};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  reflux bench gemm model.gguf                                       what the machine's matrix products reach
  reflux bench generate model.gguf --prompts prompts.txt --samples 4 --new-tokens 64
  reflux bench judge model.gguf --dataset datasets/eft --count 64 --samples 3
  reflux bench dpo model.gguf --pairs pairs.jsonl --batch 4 --steps 6

Each prints JSON, one object a line.")]
pub struct Args {
    #[command(subcommand)]
    what: BenchCommand,
}

#[derive(Subcommand)]
enum BenchCommand {
    /// Measures the model's matrix products for several numbers of rows
    Gemm(GemmArgs),
    /// Measures the sampling of answers of fixed length
    Generate(GenerateArgs),
    /// Measures the sampling of judgements, whose prompts all begin with one long rubric
    Judge(JudgeArgs),
    /// Measures DPO steps
    Dpo(TrainArgs),
    /// Measures SFT steps on the chosen answers
    Sft(TrainArgs),
}

#[derive(clap::Args)]
struct GemmArgs {
    /// A .gguf file or a Hugging Face directory; only its shapes are used
    model: PathBuf,
    /// Numbers of rows, separated by commas
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 32, 128, 512], value_parser = clap::value_parser!(u32).range(1..=4096))]
    rows: Vec<u32>,
}

#[derive(clap::Args)]
struct GenerateArgs {
    /// Text file with one prompt per line
    #[arg(long)]
    prompts: PathBuf,
    /// Uses only this many of the prompts; all if absent
    #[arg(long)]
    count: Option<usize>,
    /// Answers to each prompt
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=4096))]
    samples: u32,
    #[command(flatten)]
    common: CommonBenchArgs,
}

#[derive(clap::Args)]
struct JudgeArgs {
    /// Dataset of prompts and responses, e.g. datasets/eft
    #[arg(long)]
    dataset: PathBuf,
    /// Uses this many of the responses
    #[arg(long, default_value_t = 64)]
    count: usize,
    /// Judgements of each response
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=4096))]
    samples: u32,
    /// The judge's prompt: a built-in template or a file
    #[arg(long, default_value = "additive-5")]
    rubric: String,
    #[command(flatten)]
    common: CommonBenchArgs,
}

#[derive(clap::Args)]
struct TrainArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// .jsonl file of `prompt`, `chosen` and `rejected`, or `prompt` and `completion`
    #[arg(long)]
    pairs: PathBuf,
    /// Rows per step
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=65536))]
    batch: u32,
    /// Number of steps
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    steps: u32,
}

#[derive(clap::Args)]
struct CommonBenchArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Tokens of each answer
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    new_tokens: u32,
    /// Memory for keys and values, e.g. 2GiB; by default a share of the free memory
    #[arg(long, value_name = "SIZE", value_parser = super::model::size, help_heading = "Model")]
    kv_memory: Option<u64>,
    /// Seed of the random draws
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Also writes the texts of the prompts to a file, one JSON string per line, for use with other tools
    #[arg(long, value_name = "FILE")]
    write_prompts: Option<PathBuf>,
}

pub fn run(args: &Args, _: &Session) -> Result<()> {
    match &args.what {
        BenchCommand::Gemm(args) => gemm(args),
        BenchCommand::Generate(args) => sample(&args.common, prompts(&args.prompts, args.count)?, args.samples),
        BenchCommand::Dpo(args) => train(args, bench::dpo),
        BenchCommand::Sft(args) => train(args, bench::sft),
        BenchCommand::Judge(args) => sample(&args.common, to_judge(args)?, args.samples),
    }
}

fn gemm(args: &GemmArgs) -> Result<()> {
    let model = Model::load(&args.model, &device("cpu")?, DType::F16, false)?;
    let config = model.llama.config().clone();
    drop(model);
    args.rows.iter().try_for_each(|&rows| print(&bench::gemm(&config, rows as usize)?))
}

fn train(args: &TrainArgs, step: fn(&Model, &bench::TrainingWorkload) -> Result<bench::TrainingReport>) -> Result<()> {
    let work = || {
        let model = Model::load(&args.model.model, &device(&args.model.loading.device)?, args.model.dtype(), true)?;
        let mut rows = Vec::new();
        for row in ComparisonReader::new(Lines::open(&args.pairs)?) {
            let (line, comparison) = row?;
            let place = || format!("{}, line {line}", args.pairs.display());
            let comparison = comparison.map_err(|why| Error::user(format!("{}: {why}", place())))?;
            let turns: Vec<Vec<Message>> = comparison.completions.into_iter().map(|(_, c)| messages(c)).collect();
            rows.push(Scored::encode(&model.tokenizer, &messages(comparison.prompt), &turns).doing(place)?);
        }
        let (batch, steps) = (args.batch as usize, args.steps as usize);
        print(&step(&model, &bench::TrainingWorkload { rows, batch, steps, limits: ForwardLimits::default() })?)
    };
    args.model.on_threads(work)
}

fn sample(common: &CommonBenchArgs, prompts: Vec<String>, samples: u32) -> Result<()> {
    if let Some(path) = &common.write_prompts {
        let lines: Vec<String> =
            prompts.iter().map(|p| serde_json::Value::from(p.as_str()).to_string() + "\n").collect();
        std::fs::write(path, lines.concat()).map_err(|e| Error::system(format!("{}: {e}", path.display())))?;
    }
    let args = &common.model;
    let work =
        bench::GenerationWorkload { prompts, samples, new_tokens: common.new_tokens as usize, seed: common.seed };
    let model = Model::load(&args.model, &device(&args.loading.device)?, args.dtype(), false)?;
    let mut config = EngineConfig::default().with_threads(args.threads())?;
    config.kv_memory = common.kv_memory.unwrap_or(config.kv_memory);
    print(&bench::generate(model, config, &work, &CancelFlag::new())?)
}

/// Builds the judge's prompts for the first responses of a dataset.
fn to_judge(args: &JudgeArgs) -> Result<Vec<String>> {
    let rubric = PromptTemplate::load(&args.rubric)?;
    let mut texts = Vec::new();
    for batch in Dataset::open(&args.dataset, &named::IFT)?.batches(256) {
        let batch = batch?;
        let columns = Columns(&batch);
        let (prompts, responses) = (columns.text("prompt")?, columns.text("response")?);
        for (prompt, response) in prompts.iter().zip(responses).take(args.count.saturating_sub(texts.len())) {
            let (prompt, response) = (prompt.unwrap_or_default(), response.unwrap_or_default());
            texts.push(rubric.render(&[("prompt", prompt.into()), ("response", response.into())])?);
        }
    }
    enough(texts.len(), args.count, &args.dataset)?;
    Ok(texts)
}

fn enough(have: usize, want: usize, place: &Path) -> Result<()> {
    let place = place.display();
    match have {
        0 => Err(Error::user(format!("{place}: no prompts")).help("write one prompt per line")),
        n if n < want => Err(Error::user(format!("{place} has {}, --count asks for {want}", counted(n, "row")))),
        _ => Ok(()),
    }
}

fn prompts(path: &Path, count: Option<usize>) -> Result<Vec<String>> {
    let place = path.display();
    let text = crate::data::read_text(path).map_err(|e| Error::user(format!("{place}: {e}")))?;
    let mut prompts: Vec<String> = text.lines().map(str::trim).filter(|l| !l.is_empty()).map(Into::into).collect();
    let want = count.unwrap_or(prompts.len());
    enough(prompts.len(), want, path)?;
    prompts.truncate(want);
    Ok(prompts)
}

fn print(figures: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string(figures).map_err(|e| Error::bug(e.to_string()))?;
    super::terminal::print_json(text)
}
