//! The page of a run, which is written when the run has finished.

use std::path::{Path, PathBuf};

use super::closing::Closing;
use crate::dataflow::Operator;
use crate::error::Result;
use crate::pipeline::Plan;
use crate::report::page::{Snapshot, write_page};
use crate::report::summary::closing::REPORT;
use crate::store::Run;

/// Where the page of a run is written by default.
pub fn report_path(run: &Run) -> PathBuf {
    run.dir().join(REPORT)
}

/// Writes the page of what a run has committed. Returns its size in bytes.
///
/// # Errors
/// A committed file cannot be read, or the page cannot be written.
pub fn write_report(plan: &Plan<dyn Operator>, run: &Run, path: &Path) -> Result<u64> {
    // Read as it was written, also by the process that wrote it: numbers may change when they become text.
    let closing = Closing::again(plan, run)?;
    write_page(&Snapshot::of(plan, run, &closing.summary)?, path)
}
