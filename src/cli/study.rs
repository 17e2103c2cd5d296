//! `reflux run` of a file with `[study]`: the same pipeline over several seeds and in several variants.

use std::path::Path;
use std::sync::Arc;

use super::check::check;
use super::progress::Style;
use super::run::{Args, execute};
use super::terminal;
use crate::cancel::CancelFlag;
use crate::data::counted;
use crate::dataflow::Operator;
use crate::error::{Context as _, Error, Result};
use crate::pipeline::Plan;
use crate::report;
use crate::store::write_parquet;

/// Runs every variant with every seed, each in a directory of its own, then tells means and intervals and keeps every
/// figure in `study.parquet`. What is finished is not run again.
pub fn run(args: &Args, plan: &Plan<dyn Operator>, dir: &Path, style: &Style, stop: &CancelFlag) -> Result<()> {
    let Some(study) = &plan.study else { return Err(Error::bug("a study without a plan")) };
    let mut came = report::Study::default();
    let all = study.variants.len() * study.seeds.len();
    let runs = study.variants.iter().flat_map(|v| study.seeds.iter().map(move |&seed| (v, seed)));
    for (i, (variant, seed)) in runs.enumerate() {
        let set: Vec<String> = args.set.iter().cloned().chain(variant.overrides(seed)).collect();
        let dir = dir.join(&variant.name).join(format!("seed={seed}"));
        terminal::line(&format!("{} of {all}: {}, seed {seed}", i + 1, variant.name));
        let plan = Arc::new(check(&args.file, &set)?);
        let mut named = Vec::new();
        let open = args.open(&set, &mut named);
        execute(&plan, &dir, &open, &args.machine, &Style::Quiet, stop).doing(|| dir.display())?;
        let path = dir.join("summary.json");
        let summary = crate::data::read_regular(&path).doing(|| path.display())?;
        let summary =
            serde_json::from_slice(&summary).map_err(|e| Error::user(format!("`{}`: {e}", path.display())))?;
        came.add(&variant.name, seed, &summary);
    }
    let path = dir.join("study.parquet");
    write_parquet(&path, &came.rows()?)?;
    if *style == Style::Quiet {
        return Ok(());
    }
    terminal::print(&came.tables(&study.measures))?;
    terminal::print_lines(["".to_owned(), format!("{}: {}", counted(all, "run"), path.display())])
}
