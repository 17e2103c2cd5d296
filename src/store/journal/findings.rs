//! Results of an inspection of a run's directory.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::entry::{Entry, FileEntry, ModelEntry};
use super::manifest::Line;
use super::owned::{created_by_us, is_leftover};
use crate::data::Epoch;
use crate::store::files::integrity::FileProblem;

/// A damaged part of a run.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Artifact {
    /// The manifest line of this number, from 1.
    Line(usize),
    /// The manifest line of this number, in which one bit is wrong and known.
    WrongBit(usize),
    /// The manifest line of this number, which repeats an earlier line exactly.
    DuplicateLine(usize),
    /// `pipeline.toml`.
    Pipeline,
    /// `summary.json`, which `reflux run` rewrites.
    Summary,
    /// `lock`, which is not a regular file.
    Lock,
    /// A step's microbatch.
    Rows(String, Epoch),
    /// A step's microbatch, which is intact while its inputs are missing.
    Lineage(String, Epoch),
    /// Failed rows of a step's microbatch.
    Errors(String, Epoch),
    /// The metrics of a training.
    Metrics(String, u32),
    /// The model of a training.
    Model(String, u32),
    /// A checkpoint: its directory, relative to the run's.
    Checkpoint(String),
    /// Replies of servers, or what they cost: the file, relative to the run's directory.
    Replies(String),
}

/// A fault in a run's directory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Finding {
    /// The damaged part.
    pub artifact: Artifact,
    /// The file, relative to the run's directory.
    pub path: String,
    /// What is wrong with it.
    pub why: String,
    /// Whether the file could not be read, so that it may be intact.
    pub unreadable: bool,
}

impl Finding {
    pub(crate) fn from_problem(artifact: Artifact, path: impl Into<String>, wrong: &FileProblem) -> Self {
        let unreadable = matches!(wrong, FileProblem::Unreadable(_));
        Self { artifact, path: path.into(), why: wrong.to_string(), unreadable }
    }
    /// A finding of damage.
    pub fn new(artifact: Artifact, path: impl Into<String>, why: impl Into<String>) -> Self {
        Self { artifact, path: path.into(), why: why.into(), unreadable: false }
    }
}

/// Everything known about a run that may be damaged.
#[derive(Clone, Debug)]
pub struct Inspected {
    /// The manifest's lines, including lines that cannot be parsed.
    pub lines: Vec<Line>,
    /// The faults, in the manifest's order.
    pub findings: Vec<Finding>,
    /// Files that the manifest does not list: a dead process left them, or they are a user's.
    pub strays: Vec<String>,
    /// Size in bytes of an incomplete last line, which the next run truncates.
    pub cut: u64,
    /// Whether the run has finished and has no `summary.json`, which the next run rewrites.
    pub no_summary: bool,
    /// The run's directory.
    pub(crate) dir: PathBuf,
    /// Steps in the pipeline file or the manifest.
    pub(crate) steps: BTreeSet<String>,
    /// Number of checked files.
    pub files: usize,
    /// Size of the checked files in bytes.
    pub bytes: u64,
}

impl Inspected {
    /// The entries of the valid lines, with their line numbers.
    pub fn entries(&self) -> impl Iterator<Item = (usize, &Entry)> {
        self.lines.iter().filter_map(|l| Some((l.number, l.entry.as_ref().ok()?)))
    }
    /// A copy without these lines of the manifest.
    #[must_use]
    pub fn without(&self, lines: &BTreeSet<usize>) -> Self {
        let mut rest = self.clone();
        rest.lines.retain(|line| !lines.contains(&line.number));
        rest
    }
    /// The committed files of rows.
    pub fn rows(&self) -> impl Iterator<Item = &FileEntry> {
        self.numbered().map(|(_, f)| f)
    }
    /// The committed files of rows, with their line numbers.
    pub fn numbered(&self) -> impl Iterator<Item = (usize, &FileEntry)> {
        self.entries().filter_map(|(n, e)| if let Entry::File(f) = e { Some((n, f)) } else { None })
    }
    /// The committed models.
    pub fn models(&self) -> impl Iterator<Item = &ModelEntry> {
        self.entries().filter_map(|(_, e)| if let Entry::Model(m) = e { Some(m) } else { None })
    }
    /// Whether the next run removes a stray file: a temporary file, or one that was never committed or is not
    /// listed any more.
    pub fn is_leftover(&self, stray: &str) -> bool {
        let noted = |name: &str| self.strays.iter().any(|s| *s == format!("models/.{name}.renamed.tmp"));
        let model = stray.strip_prefix("models/").and_then(|rest| rest.split('/').next());
        is_leftover(stray, &self.steps, || created_by_us(&self.dir.join(stray))) || model.is_some_and(noted)
    }
    /// Whether the run has finished.
    pub fn finished(&self) -> bool {
        self.entries().any(|(_, e)| matches!(e, Entry::Finished { step: None, .. }))
    }
    /// Steps whose rows were dropped on purpose.
    pub fn dropped(&self) -> BTreeSet<&str> {
        self.entries()
            .filter_map(|(_, e)| if let Entry::Dropped { step } = e { Some(step.as_str()) } else { None })
            .collect()
    }
}
