//! `reflux eval reward`.

use std::path::PathBuf;

use super::common::{CommonEvalArgs, JudgingArgs, Mode, there};
use crate::cli::progress::Style;
use crate::error::Result;
use crate::report::Evaluation;

const AFTER: &str = "Examples:
  reflux eval reward judge.gguf --data datasets/ranked
  reflux eval reward models/M2 --data ranked.parquet --mode expected --json
  reflux eval reward judge.gguf --data LLMBar/Natural/dataset.json --mode pairwise

The data are `ranked` rows (`reflux schema ranked`), as Parquet or .jsonl, or a format that `reflux import` converts to them.

Figures, as in Table 4 of the paper: pairwise_accuracy (share of the pairs ordered by people that the \
scores order the same way; a tie does not count), pairwise_tied, five_best (share of answers with a \
perfect score that people rank first), exact_match (share of prompts whose whole order is correct), \
spearman and kendall (mean over prompts). In pairwise mode the judge compares every two answers of a \
prompt in both orders: agreement is the share of the pairs whose verdict matches the ranks; \
agreement_first and agreement_second are the shares in one order alone, with the better answer first or \
second.";

#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub struct Args {
    /// The judge model
    model: PathBuf,
    /// Answers that people have ranked
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// How answers are judged
    #[arg(long, value_enum, default_value = "sampled")]
    mode: Mode,
    /// The score that counts as perfect for five_best
    #[arg(long, value_name = "X", default_value_t = 5.)]
    perfect: f64,
    #[command(flatten)]
    judging: JudgingArgs,
    #[command(flatten)]
    common: CommonEvalArgs,
}

pub fn run(args: &Args, style: Style) -> Result<()> {
    there(&args.model, "model")?;
    there(&args.data, "data")?;
    let place = args.common.place()?;
    let mut evaluation = Evaluation::new("reward", &place.dir, args.common.setting());
    evaluation.reward(&args.model, &args.data, &args.judging.judging(args.mode), args.perfect)?;
    args.common.print_figures(&evaluation, &place, style)
}
