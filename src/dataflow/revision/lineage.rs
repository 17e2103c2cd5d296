//! Reads and writes `revision.json`, the lineage of a revision.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::store::write_bytes;

/// What a revision was made from.
#[derive(Serialize, Deserialize)]
pub(super) struct Lineage {
    pub(super) reflux: String,
    /// Name of the run, and its directory: relative to this folder if the folder lies within it.
    pub(super) run: String,
    pub(super) directory: PathBuf,
    /// Hash of the pipeline file.
    pub(super) pipeline: String,
    pub(super) step: String,
    pub(super) from: String,
    pub(super) corrections: CorrectionsFile,
    pub(super) microbatches: usize,
    pub(super) pairs: u64,
    pub(super) withdrawn: usize,
    pub(super) added: usize,
    /// Microbatches that hold a corrected answer.
    pub(super) revised: Vec<RevisedMicrobatch>,
}

/// The file of corrections.
#[derive(Serialize, Deserialize)]
pub(super) struct CorrectionsFile {
    pub(super) file: Option<String>,
    pub(super) hash: String,
    pub(super) rows: usize,
    pub(super) scores_withdrawn: usize,
}

/// A revised microbatch.
#[derive(Serialize, Deserialize)]
pub(super) struct RevisedMicrobatch {
    /// Path of the run's file of pairs.
    pub(super) path: String,
    /// Number of rows after the revision.
    pub(super) rows: u64,
    pub(super) withdrawn: usize,
    pub(super) added: usize,
    /// Hash of the revised file, if it was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) hash: Option<String>,
    /// Hash of the run's file.
    pub(super) was: String,
    /// Hash of the file of scores that it was made from.
    pub(super) scores: String,
}

/// Larger files are refused; each microbatch takes about 300 bytes.
const LARGEST: u64 = 1 << 30;

/// Name of the file in the folder of a revision.
pub(super) const NAME: &str = "revision.json";

impl Lineage {
    pub(super) fn write(&self, dir: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::bug(format!("{NAME}: {e}")))?;
        write_bytes(&dir.join(NAME), format!("{text}\n").as_bytes()).map(drop)
    }

    pub(super) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(NAME);
        let bad = |e: &dyn std::fmt::Display| {
            Error::user(format!("`{}` cannot be read: {e}", path.display()))
                .help("`reflux revise` makes the folder again")
        };
        let size = std::fs::metadata(&path).map_err(|e| bad(&e))?.len();
        if size > LARGEST {
            return Err(bad(&format!("it has {size} bytes, more than {LARGEST}")));
        }
        let text = crate::data::read_text(&path).map_err(|e| bad(&e))?;
        serde_json::from_str(&text).map_err(|e| bad(&e))
    }
}

/// Returns the path from the folder `into`, which does not exist yet, to a run's directory: relative if the
/// folder lies within it.
pub(super) fn from_there(run: &Path, into: &Path) -> Result<PathBuf> {
    let parent = into.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (run, parent) = (run.canonicalize()?, parent.canonicalize()?);
    Ok(match parent.strip_prefix(&run) {
        Ok(within) => within.components().map(|_| "..").chain([".."]).collect(),
        Err(_) => run,
    })
}
