//! `revision.json`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::store::write_bytes;

/// What a revision was made of.
#[derive(Serialize, Deserialize)]
pub(super) struct Lineage {
    pub(super) reflux: String,
    /// The run's name, and its directory: from here if this is within it.
    pub(super) run: String,
    pub(super) directory: PathBuf,
    /// The pipeline file, by hash.
    pub(super) pipeline: String,
    pub(super) step: String,
    pub(super) from: String,
    pub(super) corrections: Given,
    pub(super) microbatches: usize,
    pub(super) pairs: u64,
    pub(super) withdrawn: usize,
    pub(super) added: usize,
    /// The microbatches that hold a corrected answer.
    pub(super) revised: Vec<Line>,
}

/// The corrections.
#[derive(Serialize, Deserialize)]
pub(super) struct Given {
    pub(super) file: Option<String>,
    pub(super) hash: String,
    pub(super) rows: usize,
    pub(super) scores_withdrawn: usize,
}

/// A microbatch.
#[derive(Serialize, Deserialize)]
pub(super) struct Line {
    /// The run's file of pairs.
    pub(super) path: String,
    /// Rows that it has now.
    pub(super) rows: u64,
    pub(super) withdrawn: usize,
    pub(super) added: usize,
    /// Hash of the file as it is now, where it was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) hash: Option<String>,
    /// Hash of the run's file.
    pub(super) was: String,
    /// Hash of the scores that it was made of.
    pub(super) scores: String,
}

/// A file larger than this is not read; each microbatch takes some 300 bytes of it.
const LARGEST: u64 = 1 << 30;

/// The name of the file in the folder of a revision.
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
                .help("`reflux revise` makes the folder anew")
        };
        let size = std::fs::metadata(&path).map_err(|e| bad(&e))?.len();
        if size > LARGEST {
            return Err(bad(&format!("it has {size} bytes, more than {LARGEST}")));
        }
        let text = crate::data::read_text(&path).map_err(|e| bad(&e))?;
        serde_json::from_str(&text).map_err(|e| bad(&e))
    }
}

/// The way to a run's directory from the folder `into`, which is still to be made: relative where the folder is within it.
pub(super) fn from_there(run: &Path, into: &Path) -> Result<PathBuf> {
    let parent = into.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (run, parent) = (run.canonicalize()?, parent.canonicalize()?);
    Ok(match parent.strip_prefix(&run) {
        Ok(within) => within.components().map(|_| "..").chain([".."]).collect(),
        Err(_) => run,
    })
}
