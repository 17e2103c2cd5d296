//! Names of the files in a run's directory.

use crate::data::Epoch;
use crate::error::{Error, Result};

/// Manifest of a replay that is being set up, or of a run that `--fresh` is removing.
pub(crate) const UNFINISHED_MANIFEST: &str = "manifest.unfinished.jsonl";

/// Start of the backup's name that a repair gives the old manifest: `manifest.before-repair-1.jsonl` and so
/// on.
pub(crate) const MANIFEST_BACKUP: &str = "manifest.before-repair-";

/// Folder of what programs outside are given and leave, until their step is done.
pub(crate) const SCRATCH: &str = "scratch";

/// Folder of what programs outside printed.
pub(crate) const LOGS: &str = "logs";
/// File next to the logs of a server with what its first policy was found to compute.
pub(crate) const CANARY_FILE: &str = "canary.json";

/// Checks a name that becomes part of a path.
pub(crate) fn check_name(what: &str, name: &str) -> Result<()> {
    let fine = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > 120 || name.starts_with('.') || !name.chars().all(fine) {
        return Err(Error::user(format!("`{name}` cannot be the name of a {what}"))
            .help("use letters, digits, `-`, `_` and `.`, at most 120 bytes, not beginning with `.`"));
    }
    Ok(())
}

/// Path of a microbatch's rows.
pub(crate) fn data_path(step: &str, epoch: Epoch) -> String {
    format!("data/{step}/iteration={}/microbatch={:05}.parquet", epoch.iteration, epoch.microbatch)
}

/// Path of a microbatch's failed rows. It is not Hive-style: the rows have columns `step`, `iteration` and
/// `microbatch` already, and readers refuse a column that the path repeats.
pub(crate) fn errors_path(step: &str, epoch: Epoch) -> String {
    format!("data/errors/{step}/iteration-{}/microbatch-{:05}.parquet", epoch.iteration, epoch.microbatch)
}

/// Path of a training's metrics.
pub(crate) fn metrics_path(step: &str, iteration: u32) -> String {
    format!("metrics/{step}/iteration={iteration}/metrics.parquet")
}
