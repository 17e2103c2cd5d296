//! `reflux check`.

use std::path::PathBuf;

use crate::dataflow::Operator;
use crate::error::{Error, Result};
use crate::operators;
use crate::pipeline::{self, Diagnostics, Plan, colour_wanted};

#[derive(clap::Args)]
pub struct Args {
    /// The pipeline file
    pub file: PathBuf,
    /// Overrides a key, e.g. --set step.dpo.beta=0.2
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

/// Loads and checks a file; warnings go to standard error.
pub fn load(file: &std::path::Path, set: &[String], quiet: bool) -> Result<Plan<dyn Operator>> {
    let plan = check(file, set)?;
    if !plan.warnings.is_empty() && !quiet {
        eprint!("{}", plan.warnings.render(colour_wanted()));
    }
    // The variants of a study are pipelines too.
    for variant in plan.study.iter().flat_map(|s| &s.variants) {
        let set: Vec<String> = set.iter().chain(&variant.set).cloned().collect();
        check(file, &set)?;
    }
    Ok(plan)
}

/// Loads and checks a file with overrides; problems go to standard error.
pub fn check(file: &std::path::Path, set: &[String]) -> Result<Plan<dyn Operator>> {
    pipeline::load(file, set, operators::ALL).map_err(|problems: Diagnostics| {
        eprint!("{}", problems.render(colour_wanted()));
        Error::user("")
    })
}

pub fn run(args: &Args, quiet: bool) -> Result<()> {
    let plan = load(&args.file, &args.set, quiet)?;
    if quiet {
        return Ok(());
    }
    super::print(&format!("{}: {} steps, no errors", args.file.display(), plan.steps.len()))
}
