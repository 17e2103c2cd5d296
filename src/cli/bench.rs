//! `reflux bench`.

use std::path::{Path, PathBuf};

use candle_core::DType;
use clap::{Subcommand, ValueEnum};

use crate::bench;
use crate::engine::{Cancel, Config};
use crate::error::{Error, Result};
use crate::model::{Model, device};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  reflux bench gemm model.gguf                                       what the machine's matrix products reach
  reflux bench generate model.gguf --prompts prompts.txt --samples 4 --new-tokens 64

Each prints JSON, one object a line.")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Rates of the model's matrix products for several numbers of rows
    Gemm(GemmArgs),
    /// Samples answers of fixed length and prints how fast
    Generate(GenerateArgs),
}

#[derive(clap::Args)]
struct GemmArgs {
    /// A .gguf file, or a Hugging Face directory; only its shapes are used
    model: PathBuf,
    /// Numbers of rows, separated by commas
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 32, 128, 512], value_parser = clap::value_parser!(u32).range(1..=4096))]
    rows: Vec<u32>,
}

#[derive(clap::Args)]
struct GenerateArgs {
    /// A .gguf file, or a Hugging Face directory
    model: PathBuf,
    /// Text file with a prompt on each line
    #[arg(long)]
    prompts: PathBuf,
    /// Takes this many of the prompts; all if absent
    #[arg(long)]
    count: Option<usize>,
    /// Answers of each prompt
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    samples: u32,
    /// Tokens of each answer
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    new_tokens: u32,
    /// Threads that compute; all cores if absent
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Type that the weights are kept in
    #[arg(long, value_enum, default_value = "f32")]
    dtype: Dtype,
    /// Where the model runs: cpu, cuda, metal, or auto
    #[arg(long, default_value = "auto")]
    device: String,
    /// Key of the draws
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Dtype {
    F32,
    Bf16,
    F16,
}

pub fn run(args: &Args) -> Result<()> {
    match &args.what {
        What::Gemm(args) => gemm(args),
        What::Generate(args) => generate(args),
    }
}

fn gemm(args: &GemmArgs) -> Result<()> {
    let model = Model::load(&args.model, &device("cpu")?, DType::F16, false)?;
    let config = model.llama.config().clone();
    drop(model);
    args.rows.iter().try_for_each(|&rows| print(&bench::gemm(&config, rows as usize)?))
}

fn generate(args: &GenerateArgs) -> Result<()> {
    let dtype = match args.dtype {
        Dtype::F32 => DType::F32,
        Dtype::Bf16 => DType::BF16,
        Dtype::F16 => DType::F16,
    };
    let work = bench::Workload {
        prompts: prompts(&args.prompts, args.count)?,
        samples: args.samples,
        new_tokens: args.new_tokens as usize,
        seed: args.seed,
    };
    let model = Model::load(&args.model, &device(&args.device)?, dtype, false)?;
    let config = Config { threads: args.threads.map(usize::from), ..Config::default() };
    print(&bench::generate(model, config, &work, &Cancel::new())?)
}

fn prompts(path: &Path, count: Option<usize>) -> Result<Vec<String>> {
    let place = path.display();
    let text = std::fs::read_to_string(path).map_err(|e| Error::user(format!("{place}: {e}")))?;
    let mut prompts: Vec<String> = text.lines().map(str::trim).filter(|l| !l.is_empty()).map(Into::into).collect();
    let (have, want) = (prompts.len(), count.unwrap_or(prompts.len()));
    if have == 0 || want == 0 {
        return Err(Error::user(format!("{place}: no prompts")).help("put one on each line"));
    }
    if want > have {
        return Err(Error::user(format!("{place} has {have} prompts, --count asks for {want}")));
    }
    prompts.truncate(want);
    Ok(prompts)
}

fn print(figures: &impl serde::Serialize) -> Result<()> {
    super::print(&serde_json::to_string(figures).map_err(|e| Error::bug(e.to_string()))?)
}
