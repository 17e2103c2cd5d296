//! `reflux eval drift`.

use std::path::PathBuf;

use super::common::Intervals;
use crate::cli::terminal;
use crate::error::Result;
use crate::eval::drift::LEAST_GROWTH;
use crate::report::Drift;
use crate::store::{Run, find_run};

const AFTER: &str = "Examples:
  reflux eval drift quickstart
  reflux eval drift runs/my-run --step scores --json | jq '.[] | [.iteration, .tokens.value, .score.value]'

For each step and iteration: answers, tokens and words (means), cut (share truncated by max_tokens), \
distinct_1 and distinct_2 (of the first 1000 answers), score (mean), and relative to the previous \
iteration score_shift (Wasserstein distance, in points), score_variation (total variation, bins of half a \
point), length_growth and score_growth. It warns if answers grow faster than their score rises: the judge \
may mistake length for quality.";

#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub struct Args {
    /// The run: a directory, or a name in runs/
    run: PathBuf,
    /// A step with answers; by default every step with scores, or every step with answers if none has
    /// scores
    #[arg(long, value_name = "STEP")]
    step: Vec<String>,
    /// Smallest relative growth in length that causes a warning
    #[arg(long, value_name = "X", default_value_t = LEAST_GROWTH, value_parser = growth)]
    growth: f64,
    #[command(flatten)]
    intervals: Intervals,
}

pub fn run(args: &Args) -> Result<()> {
    let run = Run::open(&find_run(&args.run))?;
    let drift = Drift::of(&run, &args.step, &args.intervals.bootstrap(), args.growth)?;
    if args.intervals.json {
        terminal::print_json(drift.json())?;
    } else {
        terminal::print(&drift.table())?;
    }
    drift.warnings().for_each(|warning| terminal::warning(&warning));
    Ok(())
}

fn growth(text: &str) -> Result<f64, String> {
    let growth = text.parse().ok().filter(|g: &f64| *g >= 0.);
    growth.ok_or_else(|| "expected a share of 0 or more, such as 0.1".into())
}
