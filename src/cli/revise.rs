//! `reflux revise`.

use std::path::PathBuf;
use std::sync::Arc;

use super::check::shown;
use super::session::Session;
use crate::data::counted;
use crate::dataflow::{revisable, revise_run};
use crate::error::Result;
use crate::operators;
use crate::pipeline;
use crate::store::{Corrections, Run, find_run};

const AFTER: &str = "FILE has a row for each corrected answer, `response_id` and `score`; a null score
(in CSV an empty one) removes the answer's score:
  {\"response_id\": \"8d1f..\", \"score\": 4.5}
  {\"response_id\": \"07aa..\", \"score\": null}

The new folder holds changes.parquet, the changed pairs with a column `change` (withdrawn or added),
and revision.json, which names its sources. The folder is a dataset of all revised pairs, for
`op = \"read\"` and `reflux show`, as long as the run exists; --whole also writes the pairs, byte for
byte as a run with the corrected scores would. The run itself is not changed.

Examples:
  reflux revise quickstart --scores fix.jsonl          into runs/quickstart/revised/pairs-HASH
  reflux revise quickstart --scores human.csv --step pairs --whole --into corrected
  reflux show corrected/changes.parquet --columns change,reason,prompt_id,margin
  reflux show quickstart/revised/pairs-5d0c81f2a9b3 --format parquet > pairs.parquet";

#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub struct Args {
    /// The finished run: a directory, or a name in runs
    run: PathBuf,
    /// The corrected scores: a .parquet, .csv or .jsonl file
    #[arg(long, value_name = "FILE")]
    scores: PathBuf,
    /// The step that made the pairs; required if there are several
    #[arg(long)]
    step: Option<String>,
    /// The folder to create; RUN/revised/STEP-HASH if absent, where HASH is the hash of the scores file
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    /// Also writes all revised pairs; without it they are computed when the folder is read
    #[arg(long)]
    whole: bool,
}

pub fn run(args: &Args, session: &Session) -> Result<()> {
    let quiet = session.quiet;
    let corrections = Arc::new(Corrections::read(&args.scores)?);
    let run = Arc::new(Run::open(&find_run(&args.run))?);
    let own = run.dir().join("pipeline.toml");
    let plan = Arc::new(shown(pipeline::load_without_data(&own, &[], operators::ALL))?);
    let step = &revisable(&plan, args.step.as_deref())?.name;
    let usual = || run.dir().join("revised").join(format!("{step}-{}", &corrections.hash()[..12]));
    let into = args.into.clone().unwrap_or_else(usual);
    let done = revise_run(&plan, &run, step, &corrections, &into, args.whole)?;
    if quiet {
        return Ok(());
    }
    super::terminal::print_line(&format!(
        "{} corrected in {} of {}: {} withdrawn, {} added; {}: {}",
        counted(corrections.len(), "answer"),
        done.touched,
        counted(done.microbatches, "microbatch"),
        counted(done.withdrawn, "pair"),
        done.added,
        counted(done.pairs, "pair"),
        into.display()
    ))
}
