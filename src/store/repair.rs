//! Going back to a run's last good point: the manifest is written anew without the lines that are named, the old one is kept
//! beside it, and the next start of the run sweeps away the files that no line names any more.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::atomic::{io_error, write_bytes};
use super::lock::Lock;
use super::manifest::{Entry, FORMAT};
use super::run::pipeline_hash;
use super::sweep::remove_dir;
use super::verify::{Inspected, Thing};
use crate::error::{Error, Result};

/// Where the old manifest is kept: `manifest.before-repair-1.jsonl` and so on.
pub(super) const KEPT: &str = "manifest.before-repair-";

/// The right to repair a run: while it lives, nobody else writes the run.
#[derive(Debug)]
pub struct Repair {
    dir: PathBuf,
    _lock: Lock,
}

impl Repair {
    /// Takes the lock of the run in `dir`.
    ///
    /// # Errors
    /// There is no run; another process writes it; the directory cannot be written.
    pub fn begin(dir: &Path) -> Result<Self> {
        if !dir.join("manifest.jsonl").is_file() {
            return Err(Error::user(format!("there is no run at `{}`", dir.display())));
        }
        let (lock, _) = Lock::take(dir)?;
        Ok(Self { dir: dir.to_owned(), _lock: lock })
    }

    /// Takes the lines numbered in `goes` out of the manifest, and removes damaged checkpoints. A first line that cannot be
    /// read is written anew for `pipeline.toml` and `seed`. Returns the name under which the old manifest is kept, if it
    /// changed.
    ///
    /// # Errors
    /// A full disk: then the manifest is what it was. The first line is damaged and there is no seed.
    pub fn apply(&self, found: &Inspected, goes: &BTreeSet<usize>, seed: Option<u64>) -> Result<Option<String>> {
        for finding in &found.findings {
            if let Thing::Checkpoint(path) = &finding.thing {
                remove_dir(&self.dir.join(path))?;
            }
        }
        let first_is_damaged = found.findings.iter().any(|f| f.thing == Thing::Line(1));
        if goes.is_empty() && !first_is_damaged {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        for line in found.lines.iter().filter(|l| l.number == 1 || !goes.contains(&l.number)) {
            if line.number == 1 && first_is_damaged {
                bytes.extend(self.first_line(seed)?);
            } else {
                bytes.extend(&line.bytes);
            }
        }
        let path = self.dir.join("manifest.jsonl");
        let before = fs::read(&path).map_err(|e| io_error("reading", &path, &e))?;
        let names = (1u32..).map(|n| format!("{KEPT}{n}.jsonl"));
        let free = names.into_iter().find(|name| !self.dir.join(name).exists()).unwrap_or_default();
        write_bytes(&self.dir.join(&free), &before)?;
        write_bytes(&path, &bytes)?;
        Ok(Some(free))
    }

    fn first_line(&self, seed: Option<u64>) -> Result<Vec<u8>> {
        let path = self.dir.join("pipeline.toml");
        let text = fs::read_to_string(&path).ok();
        let (Some(seed), Some(text)) = (seed, text) else {
            return Err(Error::user(
                "the manifest's first line and pipeline.toml are both damaged: nothing says what the run is",
            )
            .help("`reflux run FILE --fresh` starts it anew"));
        };
        let pipeline = pipeline_hash(&text);
        Entry::Run { format: FORMAT, reflux: env!("CARGO_PKG_VERSION").to_owned(), pipeline, seed }.to_line()
    }
}
