//! `reflux eval win-rate`.

use std::path::PathBuf;

use super::common::{CommonEvalArgs, JudgingArgs, Mode, SamplingArgs, there};
use crate::cli::progress::Style;
use crate::error::Result;
use crate::report::{Evaluation, Side};

const AFTER: &str = "Examples:
  reflux eval win-rate models/M2 models/M1 --prompts held-out.jsonl --judge judge.gguf
  reflux eval win-rate ours.jsonl outputs.json --judge judge.gguf --into evals/ours      stored answers; the rows stay
  reflux eval win-rate quickstart/answers@3 quickstart/answers@1 --judge judge.gguf     two iterations of a run
  reflux eval win-rate models/M2 baseline.json --judge judge.gguf --mode expected --json | jq .comparisons.win_rate

A and B are each a model (a GGUF file, a Hugging Face directory or an adapter directory) or answers: rows \
of JSON lines, a JSON array or Parquet with `prompt` (or `instruction`) and `response` (or `output`), or \
RUN/STEP, with @N for one iteration. Answers are matched by prompt_id or the prompt's text, and by their \
number. Without --prompts the prompts of the stored answers are used. A prompts file has rows with \
`prompt`, `instruction` or `turns`, as JSON, CSV or Parquet; a .txt file has one prompt per line.

Figures describe A: win_rate counts a tie as half a win, and omits comparisons without a readable verdict \
(nulls). The judge reads every pair in both orders; if they disagree, it is a tie, and order_agreement is \
the share in which they agree. Intervals are percentiles of bootstrap resamples of prompts.";

#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub struct Args {
    /// A model, or answers
    a: PathBuf,
    /// Another model, or answers
    b: PathBuf,
    /// The judge model
    #[arg(long, value_name = "MODEL")]
    judge: PathBuf,
    /// Prompts for the models to answer
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// How the better answer is determined
    #[arg(long, value_enum, default_value = "pairwise")]
    mode: Mode,
    /// Answers of a model to each prompt
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    samples: u32,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    judging: JudgingArgs,
    #[command(flatten)]
    common: CommonEvalArgs,
}

pub fn run(args: &Args, style: Style) -> Result<()> {
    there(&args.judge, "judge")?;
    let place = args.common.place()?;
    let mut evaluation = Evaluation::new("win-rate", &place.dir, args.common.setting());
    let (a, b) = (Side::of(&args.a), Side::of(&args.b));
    let (sampled, judging) = (args.sampling.sampled(args.samples), args.judging.judging(args.mode));
    evaluation.win_rate(&a, &b, args.prompts.as_deref(), &sampled, &args.judge, &judging)?;
    args.common.print_figures(&evaluation, &place, style)
}
