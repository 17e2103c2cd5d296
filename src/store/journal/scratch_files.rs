//! Removal of scratch folders and logs of programs outside.

use std::fs;
use std::path::{Path, PathBuf};

use super::owned::{is_link, remove_dir, remove_empty, remove_file};
use super::paths::{CANARY_FILE, LOGS, SCRATCH};
use crate::error::Result;
use crate::store::files::io_error::io_error;

/// Whether a name is that of an iteration's folder, or with `suffix` of its file.
fn is_of_iteration(name: &str, suffix: &str) -> bool {
    let number = name.strip_prefix("iteration=").and_then(|n| n.strip_suffix(suffix));
    number.is_some_and(|n| n.parse::<u32>().is_ok())
}

/// Removes the scratch folders for which `done` returns true.
pub(crate) fn collect_scratch(run: &Path, done: impl Fn(&str, u32) -> bool) -> Result<()> {
    let top = run.join(SCRATCH);
    for (step, dir) in steps_in(&top)? {
        for name in names(&dir)?.into_iter().filter(|name| is_of_iteration(name, "")) {
            let iteration = name.trim_start_matches("iteration=").parse().unwrap_or(u32::MAX);
            if done(&step, iteration) {
                remove_dir(&dir.join(name))?;
            }
        }
        remove_empty(&dir, run);
    }
    Ok(())
}

/// Removes the logs of a run. Files with other names stay.
pub(crate) fn remove_logs(run: &Path) -> Result<()> {
    for (_, dir) in steps_in(&run.join(LOGS))? {
        for name in names(&dir)?.into_iter().filter(|name| is_of_iteration(name, ".log") || name == CANARY_FILE) {
            remove_file(&dir.join(name))?;
        }
        remove_empty(&dir, run);
    }
    Ok(())
}

/// Names and paths of the folders in `top`, one for each step.
fn steps_in(top: &Path) -> Result<Vec<(String, PathBuf)>> {
    if is_link(top) {
        return Ok(Vec::new());
    }
    let steps = names(top)?.into_iter().map(|name| (name.clone(), top.join(name)));
    Ok(steps.filter(|(_, dir)| dir.is_dir() && !is_link(dir)).collect())
}

fn names(dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let entry = entry.map_err(|e| io_error("listing", dir, &e))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}
