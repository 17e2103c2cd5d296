//! `reflux run` of a file with `[study]` runs the pipeline with several seeds and in several variants.

use std::path::Path;

use super::progress::Style;
use super::terminal;
use crate::data::counted;
use crate::dataflow::Operator;
use crate::error::{Error, ErrorContext as _, Result};
use crate::pipeline::Plan;
use crate::report;
use crate::store::write_parquet;

/// Runs every variant with every seed, each in its own directory, then prints means and intervals and
/// writes all figures to `study.parquet`. `run_one` runs the file with additional overrides in a directory.
/// Finished runs are not repeated.
pub fn run(
    plan: &Plan<dyn Operator>,
    dir: &Path,
    style: &Style,
    run_one: &dyn Fn(&[String], &Path) -> Result<()>,
) -> Result<()> {
    let Some(study) = &plan.study else { return Err(Error::bug("a study without a plan")) };
    let mut came = report::StudyReport::default();
    let all = study.variants.len() * study.seeds.len();
    let runs = study.variants.iter().flat_map(|v| study.seeds.iter().map(move |&seed| (v, seed)));
    for (i, (variant, seed)) in runs.enumerate() {
        let dir = dir.join(&variant.name).join(format!("seed={seed}"));
        terminal::line(&format!("{} of {all}: {}, seed {seed}", i + 1, variant.name));
        run_one(&variant.overrides(seed), &dir)?;
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
