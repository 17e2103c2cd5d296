//! Names of the files in a run's directory.

use crate::data::Epoch;
use crate::error::{Error, Result};

/// The list of what a replay takes over, until it is the manifest; or of what `--fresh` removes, until it is gone.
pub(crate) const UNFINISHED_MANIFEST: &str = "manifest.unfinished.jsonl";

/// Where the old manifest is kept: `manifest.before-repair-1.jsonl` and so on.
pub(crate) const MANIFEST_BACKUP: &str = "manifest.before-repair-";

/// A name that is to be part of a path.
pub(crate) fn check_name(what: &str, name: &str) -> Result<()> {
    let fine = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > 120 || name.starts_with('.') || !name.chars().all(fine) {
        return Err(Error::user(format!("`{name}` cannot be the name of a {what}"))
            .help("use letters, digits, `-`, `_` and `.`, at most 120 bytes, not beginning with `.`"));
    }
    Ok(())
}

/// Where the rows of a microbatch are.
pub(crate) fn data_path(step: &str, epoch: Epoch) -> String {
    format!("data/{step}/iteration={}/microbatch={:05}.parquet", epoch.iteration, epoch.microbatch)
}

/// Where the rows that failed are. Not Hive-style: the rows themselves have the columns step, iteration and microbatch, and readers refuse both.
pub(crate) fn errors_path(step: &str, epoch: Epoch) -> String {
    format!("data/errors/{step}/iteration-{}/microbatch-{:05}.parquet", epoch.iteration, epoch.microbatch)
}

/// Path of a training's metrics.
pub(crate) fn metrics_path(step: &str, iteration: u32) -> String {
    format!("metrics/{step}/iteration={iteration}/metrics.parquet")
}
