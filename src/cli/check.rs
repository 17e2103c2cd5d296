//! `reflux check`.

use std::path::{Path, PathBuf};

use super::interrupt::stop_on_interrupt;
use super::session::Session;
use super::terminal;
use crate::cancel::CancelFlag;
use crate::data::counted;
use crate::dataflow::Operator;
use crate::error::{Error, Result};
use crate::operators::{self, Preflight};
use crate::pipeline::{self, Diagnostics, Plan};

#[derive(clap::Args)]
pub struct Args {
    /// The pipeline file
    pub file: PathBuf,
    /// Overrides a key, e.g. --set step.dpo.beta=0.2
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Only warns about missing datasets and models
    #[arg(long)]
    pub no_data: bool,
    /// Also asks the servers of models what they can do, with a few short requests
    #[arg(long, conflicts_with = "no_data")]
    pub online: bool,
}

/// Whether the warnings of a file are printed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Warnings {
    /// Prints warnings to standard error.
    Shown,
    /// Prints no warnings: they were printed before, or another command prints them.
    Hidden,
}

/// Loads and checks a file and its study variants.
pub fn load(file: &Path, set: &[String], warnings: Warnings) -> Result<Plan<dyn Operator>> {
    load_by(file, set, warnings, check)
}

/// Like [`load`], but only warns about missing datasets and models.
pub fn load_without_data(file: &Path, set: &[String], warnings: Warnings) -> Result<Plan<dyn Operator>> {
    load_by(file, set, warnings, |file, set| shown(pipeline::load_without_data(file, set, operators::ALL)))
}

fn load_by(
    file: &Path,
    set: &[String],
    warnings: Warnings,
    check: impl Fn(&Path, &[String]) -> Result<Plan<dyn Operator>>,
) -> Result<Plan<dyn Operator>> {
    let plan = check(file, set)?;
    if !plan.warnings.is_empty() && warnings == Warnings::Shown {
        terminal::diagnostics(&plan.warnings);
    }
    // The variants of a study are pipelines of their own, so they are checked too.
    for variant in plan.study.iter().flat_map(|s| &s.variants) {
        let set: Vec<String> = set.iter().chain(&variant.set).cloned().collect();
        check(file, &set)?;
    }
    Ok(plan)
}

/// Loads and checks a file with overrides; prints problems to standard error.
pub fn check(file: &Path, set: &[String]) -> Result<Plan<dyn Operator>> {
    shown(pipeline::load(file, set, operators::ALL))
}

/// Prints the problems of a file and turns them into an error without text.
pub fn shown(plan: Result<Plan<dyn Operator>, Diagnostics>) -> Result<Plan<dyn Operator>> {
    plan.map_err(|problems: Diagnostics| {
        terminal::diagnostics(&problems);
        // A machine error says nothing about the file, so it must not count as a user error.
        let machine = problems.iter().any(|problem| problem.code.id == pipeline::codes::NO_THREAD.id);
        if machine { Error::system("") } else { Error::user("") }
    })
}

/// Returns all problems as one error; all but the first are printed.
///
/// # Errors
/// There is at least one problem.
pub fn refuse(problems: Vec<Error>) -> Result<()> {
    let mut problems = problems.into_iter();
    let Some(first) = problems.next() else { return Ok(()) };
    for other in problems {
        terminal::error(&other);
    }
    Err(first)
}

pub fn run(args: &Args, session: &Session) -> Result<()> {
    let quiet = session.quiet;
    let load = if args.no_data { load_without_data } else { load };
    let plan = load(&args.file, &args.set, Warnings::Shown)?;
    let found = if args.no_data { Preflight::default() } else { operators::preflight(&plan) };
    refuse(found.problems)?;
    let mut notes = found.notes;
    if args.online {
        let stop = CancelFlag::default();
        stop_on_interrupt(&stop);
        notes.extend(operators::check_servers(&plan, &stop)?);
    }
    if quiet {
        return Ok(());
    }
    for note in notes {
        terminal::print_line(&format!("note: {note}"))?;
    }
    terminal::print_line(&format!("{}: {}, no errors", args.file.display(), counted(plan.steps.len(), "step")))
}
