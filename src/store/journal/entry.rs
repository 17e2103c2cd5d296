//! Lines of `manifest.jsonl`: what a run has committed and from which inputs.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::checksum::{with_checksum, without_checksum};
use crate::data::Epoch;
use crate::error::{Error, Result};
use crate::store::files::atomic::Written;

/// Version of the manifest format; a reader refuses a higher one. Version 2 added external inputs, and a
/// pipeline hash that ignores settings without influence on rows. Version 3 added a hash at the end of
/// `pipeline.toml`, and a line count in the last line. Version 4 added a checksum to every line.
pub const FORMAT: u32 = 4;

/// A stored file of rows.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stored {
    /// Relative to the run's directory, with `/`.
    pub path: String,
    /// Number of rows.
    pub rows: u64,
    /// Size in bytes.
    pub bytes: u64,
    /// blake3 of the bytes, 64 hex digits.
    pub hash: String,
}

/// A committed microbatch of a step.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// The step.
    pub step: String,
    /// 0 for steps that run once, 1.. for the rounds of the loop.
    pub iteration: u32,
    /// Position within the iteration.
    pub microbatch: u32,
    /// Relative to the run's directory, with `/`.
    pub path: String,
    /// Number of rows.
    pub rows: u64,
    /// Size in bytes.
    pub bytes: u64,
    /// blake3 of the bytes, 64 hex digits.
    pub hash: String,
    /// The rows that failed, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errors: Option<Stored>,
    /// Hashes of the files and models that the rows were made from, in the caller's order.
    #[serde(default)]
    pub lineage: Vec<String>,
    /// Number of valid input rows that are in no output row, by reason. Empty in manifests that predate this
    /// count.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub unused: BTreeMap<String, u64>,
}

impl Stored {
    /// A file that was written at `path`.
    pub(crate) fn new(path: String, Written { rows, bytes, hash }: Written) -> Self {
        Self { path, rows, bytes, hash }
    }
}

impl FileEntry {
    /// Iteration and microbatch of the file.
    pub fn epoch(&self) -> Epoch {
        Epoch::new(self.iteration, self.microbatch)
    }
}

/// A file of a model.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFile {
    /// Size in bytes.
    pub bytes: u64,
    /// blake3 of the bytes, 64 hex digits.
    pub hash: String,
}

/// A committed model.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelEntry {
    /// Name, as in `models/NAME`.
    pub name: String,
    /// Relative to the run's directory, with `/`.
    pub path: String,
    /// Hash of its weights, as computed by the writer.
    pub hash: String,
    /// The step that made it.
    pub step: String,
    /// The iteration it was made in.
    pub iteration: u32,
    /// Its files by their paths in the model's directory. Empty in manifests that predate this list.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, ModelFile>,
}

impl ModelEntry {
    /// Whether this is the same model. Files are compared if both entries list them.
    pub(crate) fn is(&self, other: &Self) -> bool {
        let known = !self.files.is_empty() && !other.files.is_empty();
        let bare = |m: &Self| Self { files: BTreeMap::new(), ..m.clone() };
        bare(self) == bare(other) && (!known || self.files == other.files)
    }
}

/// A table of training metrics. If a step has several in one iteration, the last one is valid.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricsEntry {
    /// The training step.
    pub step: String,
    /// The iteration.
    pub iteration: u32,
    /// Relative to the run's directory, with `/`.
    pub path: String,
    /// Number of rows.
    pub rows: u64,
    /// Size in bytes.
    pub bytes: u64,
    /// blake3 of the bytes, 64 hex digits.
    pub hash: String,
}

/// Origin of the files that a replayed run took over from another run. The next `entries` lines list these
/// files, with the step and hash of each.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Taken {
    /// Directory of the other run, as given by the user.
    pub run: String,
    /// blake3 of that run's resolved pipeline file, as stated in its first line.
    pub pipeline: String,
    /// The first steps whose rows the new run computes itself.
    pub from: Vec<String>,
    /// Number of the next lines that were taken over.
    pub entries: u64,
}

impl Taken {
    /// Whether both are forks of the same run at the same steps. The number of lines may differ after a
    /// repair.
    pub(crate) fn is_same_fork(&self, other: &Self) -> bool {
        self.run == other.run && self.pipeline == other.pipeline && self.from == other.from
    }
}

/// Kind of an input, which decides which files of a folder belong to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputForm {
    /// Data files, as read by [`crate::store::Dataset`].
    Dataset,
    /// Files that a model may be loaded from: weights, configuration, tokenizer and templates.
    Model,
    /// One text file.
    Text,
}

/// An external input, as recorded in the manifest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputEntry {
    /// The table of the pipeline file that names it, e.g. `step.prompts` or `model.judge`.
    pub table: String,
    /// The key of that table.
    pub key: String,
    /// The path as it was opened; for a model of the hub, its folder in the cache.
    pub path: String,
    /// Kind of the input.
    pub form: InputForm,
    /// Commit of the hub that a branch or tag was resolved to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// blake3 over names, sizes and hashes of all files, 64 hex digits.
    pub hash: String,
    /// Its files by their paths below `path` (empty for `path` itself). Empty if there are more than
    /// `MAX_LISTED`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, InputFile>,
}

/// A file of an external input.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputFile {
    /// Size in bytes.
    pub bytes: u64,
    /// blake3 of the bytes, 64 hex digits.
    pub hash: String,
    /// The file's timestamps when it was hashed, for files of at least `LARGE_FILE` bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<FileTimes>,
}

/// Timestamps of the file system, in nanoseconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileTimes {
    /// Last change of the content.
    pub modified: i64,
    /// Last change of content or attributes, if the system records it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed: Option<i64>,
}

/// One line of the manifest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Entry {
    /// The first line, which identifies the run.
    Run {
        /// [`FORMAT`] when it was written.
        format: u32,
        /// Version of reflux that started the run.
        reflux: String,
        /// blake3 of the resolved pipeline file, 64 hex digits.
        pipeline: String,
        /// Seed.
        seed: u64,
    },
    /// The second line of a replayed run: the origin of the lines after it.
    Taken(Taken),
    /// An external input, recorded when it is first read.
    Input(InputEntry),
    /// A microbatch.
    File(FileEntry),
    /// A model.
    Model(ModelEntry),
    /// A table of metrics.
    Metrics(MetricsEntry),
    /// All microbatches of a step's iteration are committed, or (without a step) the run has finished.
    Finished {
        /// Number of content lines of a finished run, so that a missing line is detected.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lines: Option<u64>,
        /// The step.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        step: Option<String>,
        /// The iteration of the step.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        iteration: Option<u32>,
    },
    /// A step's files were removed because of `keep = false`. Their lines remain for lineage.
    Dropped {
        /// The step.
        step: String,
    },
}

/// Start of the message for a manifest of a newer reflux.
pub(crate) const NEWER: &str = "is of manifest format";

const KINDS: &[&str] = &["run", "taken", "input", "file", "model", "metrics", "finished", "dropped"];

/// Maximum number of rows or bytes of a file. No real file reaches it, and sums of smaller counts cannot
/// overflow.
pub(crate) const MAX_COUNT: u64 = 1 << 40;

/// Whether a path stays within the run's directory.
fn inside(path: &str) -> bool {
    !path.is_empty() && !path.contains('\\') && Path::new(path).components().all(|c| matches!(c, Component::Normal(_)))
}

fn refuse_newer(format: u32) -> Result<(), String> {
    if format > FORMAT {
        return Err(format!("{NEWER} {format}; this reflux reads up to {FORMAT}"));
    }
    Ok(())
}

/// The line of a finished run. The count comes first, because scripts look for the line's old ending.
#[derive(Serialize)]
struct FinishedLine {
    lines: u64,
    kind: &'static str,
}

impl FinishedLine {
    const fn new(lines: u64) -> Self {
        Self { lines, kind: "finished" }
    }
}

impl Entry {
    /// Whether the line describes content, and not the state of the run as a whole.
    pub(crate) fn is_content(&self) -> bool {
        !matches!(self, Self::Finished { step: None, .. } | Self::Dropped { .. })
    }

    /// The line as bytes, with its checksum and line end.
    pub(crate) fn to_line(&self) -> Result<Vec<u8>> {
        let written = match self {
            Self::Finished { lines: Some(lines), step: None, iteration: None } => {
                serde_json::to_vec(&FinishedLine::new(*lines))
            }
            entry => serde_json::to_vec(entry),
        };
        let written = written.map_err(|e| Error::bug(format!("manifest line: {e}")))?;
        let mut line = with_checksum(&written).ok_or_else(|| Error::bug("a manifest line is not an object"))?;
        line.push(b'\n');
        Ok(line)
    }

    pub(crate) fn parse(line: &[u8]) -> Result<Self, String> {
        let bare = without_checksum(line.strip_suffix(b"\n").unwrap_or(line))?;
        let line = bare.as_ref();
        // A long run has many lines, so the slow parser that explains a fault runs only after the fast one
        // has failed.
        let entry = serde_json::from_slice(line).or_else(|_| Self::parse_in_steps(line))?;
        let paths: Vec<&str> = match &entry {
            Self::File(f) => {
                std::iter::once(&f.path).chain(f.errors.iter().map(|e| &e.path)).map(String::as_str).collect()
            }
            Self::Model(m) => std::iter::once(&m.path).chain(m.files.keys()).map(String::as_str).collect(),
            Self::Metrics(m) => vec![&m.path],
            _ => Vec::new(),
        };
        if let Some(path) = paths.into_iter().find(|p| !inside(p)) {
            return Err(format!("names a file outside of the run: `{path}`"));
        }
        if let Some(count) = entry.counts().into_iter().find(|&n| n > MAX_COUNT) {
            return Err(format!("has a count that cannot be: {count}"));
        }
        if let Self::Run { format, .. } = entry {
            refuse_newer(format)?;
        }
        Ok(entry)
    }

    /// Parses a line in two steps, to find out why it is invalid.
    fn parse_in_steps(line: &[u8]) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(line).map_err(|_| "is not JSON".to_owned())?;
        let kind = value.get("kind").and_then(Value::as_str).ok_or("has no `kind`")?;
        if !KINDS.contains(&kind) {
            return Err(format!(
                "is of the unknown kind `{kind}`; it may be from a newer reflux than this one ({}, manifest format {FORMAT})",
                env!("CARGO_PKG_VERSION")
            ));
        }
        // A newer format may have other keys, so its number is looked at first.
        if let ("run", Some(format)) = (kind, value.get("format").and_then(Value::as_u64)) {
            refuse_newer(u32::try_from(format).unwrap_or(u32::MAX))?;
        }
        serde_json::from_value(value).map_err(|e| format!("cannot be read: {e}"))
    }

    /// All counts of rows, bytes and lines in the entry.
    fn counts(&self) -> Vec<u64> {
        match self {
            Self::File(FileEntry { rows, bytes, errors: None, .. }) => vec![*rows, *bytes],
            Self::File(FileEntry { rows, bytes, errors: Some(e), .. }) => vec![*rows, *bytes, e.rows, e.bytes],
            Self::Model(m) => m.files.values().map(|f| f.bytes).collect(),
            Self::Metrics(m) => vec![m.rows, m.bytes],
            Self::Taken(taken) => vec![taken.entries],
            Self::Input(input) => input.files.values().map(|f| f.bytes).collect(),
            _ => Vec::new(),
        }
    }
}
