//! What an inspection of a run's directory has found.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::entry::{Entry, FileEntry, ModelEntry};
use super::manifest::Line;
use super::owned::{created_by_us, is_leftover};
use crate::data::Epoch;
use crate::store::files::integrity::Wrong;

/// What of a run is damaged.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Artifact {
    /// The manifest's line of this number, from 1.
    Line(usize),
    /// The manifest's line of this number, which an earlier line says to the byte.
    Again(usize),
    /// `pipeline.toml`.
    Pipeline,
    /// `summary.json`, which `reflux run` makes again.
    Summary,
    /// `lock`, which is no file.
    Lock,
    /// A step's microbatch.
    Rows(String, Epoch),
    /// A step's microbatch is whole, and what it was made of is not there.
    Lineage(String, Epoch),
    /// What was left out beside it.
    Errors(String, Epoch),
    /// The metrics of a training.
    Metrics(String, u32),
    /// The model of a training.
    Model(String, u32),
    /// A training's state: the directory, relative to the run's.
    Checkpoint(String),
}

/// Something damaged.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Finding {
    /// What it is.
    pub thing: Artifact,
    /// The file, relative to the run's directory.
    pub path: String,
    /// What is wrong with it.
    pub why: String,
    /// Whether the system did not let us read it, so that it may be as it should be.
    pub unreadable: bool,
}

impl Finding {
    pub(crate) fn wrong(thing: Artifact, path: impl Into<String>, wrong: &Wrong) -> Self {
        let unreadable = matches!(wrong, Wrong::Unreadable(_));
        Self { thing, path: path.into(), why: wrong.to_string(), unreadable }
    }
    /// A finding.
    pub fn new(thing: Artifact, path: impl Into<String>, why: impl Into<String>) -> Self {
        Self { thing, path: path.into(), why: why.into(), unreadable: false }
    }
}

/// What is known of a run that may be damaged.
#[derive(Clone, Debug)]
pub struct Inspected {
    /// The manifest's lines, those that cannot be read too.
    pub lines: Vec<Line>,
    /// What is damaged, in the manifest's order.
    pub findings: Vec<Finding>,
    /// Files that the manifest does not know: left by a process that died, or somebody else's.
    pub strays: Vec<String>,
    /// Bytes of a last line that is cut short; the next run takes it off.
    pub cut: u64,
    /// Whether the run is finished and has no `summary.json`; the next run makes it again.
    pub no_summary: bool,
    /// The run's directory.
    pub(crate) dir: PathBuf,
    /// The steps that the pipeline file or the manifest has.
    pub(crate) steps: BTreeSet<String>,
    /// Files that were looked at.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl Inspected {
    /// The entries of the lines that can be read, with the lines' numbers.
    pub fn entries(&self) -> impl Iterator<Item = (usize, &Entry)> {
        self.lines.iter().filter_map(|l| Some((l.number, l.entry.as_ref().ok()?)))
    }
    /// The same without these lines of the manifest.
    #[must_use]
    pub fn without(&self, lines: &BTreeSet<usize>) -> Self {
        let mut rest = self.clone();
        rest.lines.retain(|line| !lines.contains(&line.number));
        rest
    }
    /// The files of rows.
    pub fn rows(&self) -> impl Iterator<Item = &FileEntry> {
        self.numbered().map(|(_, f)| f)
    }
    /// The same with their lines' numbers.
    pub fn numbered(&self) -> impl Iterator<Item = (usize, &FileEntry)> {
        self.entries().filter_map(|(n, e)| if let Entry::File(f) = e { Some((n, f)) } else { None })
    }
    /// The models.
    pub fn models(&self) -> impl Iterator<Item = &ModelEntry> {
        self.entries().filter_map(|(_, e)| if let Entry::Model(m) = e { Some(m) } else { None })
    }
    /// Whether a stray is one that the next run takes away: a temporary, or what was never committed, or is no more.
    pub fn is_leftover(&self, stray: &str) -> bool {
        let noted = |name: &str| self.strays.iter().any(|s| *s == format!("models/.{name}.renamed.tmp"));
        let model = stray.strip_prefix("models/").and_then(|rest| rest.split('/').next());
        is_leftover(stray, &self.steps, || created_by_us(&self.dir.join(stray))) || model.is_some_and(noted)
    }
    /// Whether the run is done.
    pub fn finished(&self) -> bool {
        self.entries().any(|(_, e)| matches!(e, Entry::Finished { step: None, .. }))
    }
    /// The steps whose rows were removed on purpose.
    pub fn dropped(&self) -> BTreeSet<&str> {
        self.entries()
            .filter_map(|(_, e)| if let Entry::Dropped { step } = e { Some(step.as_str()) } else { None })
            .collect()
    }
}
