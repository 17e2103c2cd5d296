//! Lines of `manifest.jsonl`: what a run has committed and from which inputs.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::data::Epoch;
use crate::error::{Error, Result};
use crate::store::files::atomic::Written;

/// The version of the lines below; a reader refuses a higher one. Version 2 has external inputs, and a pipeline hash without the
/// settings that change no rows. With version 3 the file `pipeline.toml` ends with its own hash, and the last line counts the others.
pub const FORMAT: u32 = 3;

/// A file of rows.
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
    /// The rows that failed, where there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errors: Option<Stored>,
    /// What the rows were made from: hashes of files and models, in the caller's order.
    #[serde(default)]
    pub lineage: Vec<String>,
    /// How many input rows are in no row of the output though nothing is wrong with them, by the reason; empty in manifests of
    /// before there was this count.
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
    /// When it happened.
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
    /// Its name, as in `models/NAME`.
    pub name: String,
    /// Relative to the run's directory, with `/`.
    pub path: String,
    /// Hash of its weights, as whoever wrote it said.
    pub hash: String,
    /// The step that made it.
    pub step: String,
    /// The iteration it was made in.
    pub iteration: u32,
    /// Every file of it, by its path in the model's directory; empty in manifests of before there was this list.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, ModelFile>,
}

impl ModelEntry {
    /// Whether it is the same model; files count where both know them.
    pub(crate) fn is(&self, other: &Self) -> bool {
        let known = !self.files.is_empty() && !other.files.is_empty();
        let bare = |m: &Self| Self { files: BTreeMap::new(), ..m.clone() };
        bare(self) == bare(other) && (!known || self.files == other.files)
    }
}

/// A table of training metrics; of several for one step and iteration the last counts.
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

/// Where what a replayed run did not make itself comes from. The lines that follow name the files, with the step and the hash of
/// each: `entries` lines, all of which are of that run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Taken {
    /// The run's directory, as it was given.
    pub run: String,
    /// blake3 of that run's resolved pipeline file, as its own first line has it.
    pub pipeline: String,
    /// The steps from which on the rows are made anew.
    pub from: Vec<String>,
    /// How many of the next lines were taken over.
    pub entries: u64,
}

impl Taken {
    /// Whether the same was taken over; a repair may have left fewer lines of it.
    pub(crate) fn is_of_the_same(&self, other: &Self) -> bool {
        self.run == other.run && self.pipeline == other.pipeline && self.from == other.from
    }
}

/// Which files of a folder belong to an input.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputForm {
    /// The data files that [`crate::store::datasets::dataset::Dataset`] reads.
    Dataset,
    /// The files that a model may be loaded from: weights, configuration, tokenizer and templates.
    Model,
    /// One text file.
    Text,
}

/// An external input as the manifest has it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputEntry {
    /// The table of the pipeline file that names it, e.g. `step.prompts` or `model.judge`.
    pub table: String,
    /// The key of that table.
    pub key: String,
    /// The path as it was opened; for a model of the hub, its folder in the cache.
    pub path: String,
    /// Which files of a folder count.
    pub form: InputForm,
    /// The commit that a branch or tag of the hub stood for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// blake3 over names, sizes and hashes of all files, 64 hex digits.
    pub hash: String,
    /// Every file by its path below `path` (empty for `path` itself); none where there are more than `MAX_LISTED`.
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
    /// The file's times when it was hashed, for files of at least `LARGE` bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<FileTimes>,
}

/// The times that the file system keeps, in nanoseconds from 1970.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileTimes {
    /// Last change of the content.
    pub modified: i64,
    /// Last change of content or attributes, where the system has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed: Option<i64>,
}

/// One line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Entry {
    /// The first line: what the run is.
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
    /// In a replayed run, the second line: which run the lines after it were taken over from.
    Taken(Taken),
    /// An external input, when it is first read.
    Input(InputEntry),
    /// A microbatch.
    File(FileEntry),
    /// A model.
    Model(ModelEntry),
    /// A table of metrics.
    Metrics(MetricsEntry),
    /// All of a step's iteration is committed, or (without a step) the run is done.
    Finished {
        /// Where the run is done: how many lines say what it is made of, so that a missing line is detected.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lines: Option<u64>,
        /// The step.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        step: Option<String>,
        /// The iteration of the step.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        iteration: Option<u32>,
    },
    /// A step's files were removed, as its `keep = false` asks for; their lines above remain for lineage.
    Dropped {
        /// The step.
        step: String,
    },
}

/// How the complaint about a manifest of a newer reflux begins.
pub(crate) const NEWER: &str = "is of manifest format";

const KINDS: &[&str] = &["run", "taken", "input", "file", "model", "metrics", "finished", "dropped"];

/// Rows and bytes of a file beyond this are refused: no file has them, and sums of them would overflow.
pub(crate) const MAX_COUNT: u64 = 1 << 40;

/// Whether a path of the manifest stays within the run.
fn inside(path: &str) -> bool {
    !path.is_empty() && !path.contains('\\') && Path::new(path).components().all(|c| matches!(c, Component::Normal(_)))
}

/// The line of a finished run. It ends as it did before it counted the others, for scripts that look for that.
#[derive(Serialize)]
struct Done {
    lines: u64,
    kind: &'static str,
}

impl Done {
    const fn of(lines: u64) -> Self {
        Self { lines, kind: "finished" }
    }
}

impl Entry {
    /// Whether the line is about what the run is made of, and not about the run as a whole being done or tidied up.
    pub(crate) fn is_content(&self) -> bool {
        !matches!(self, Self::Finished { step: None, .. } | Self::Dropped { .. })
    }

    /// The line, with its line end.
    pub(crate) fn to_line(&self) -> Result<Vec<u8>> {
        let written = match self {
            Self::Finished { lines: Some(lines), step: None, iteration: None } => serde_json::to_vec(&Done::of(*lines)),
            entry => serde_json::to_vec(entry),
        };
        let mut line = written.map_err(|e| Error::bug(format!("manifest line: {e}")))?;
        line.push(b'\n');
        Ok(line)
    }

    pub(crate) fn parse(line: &[u8]) -> Result<Self, String> {
        // A long run has many lines: what is wrong with one is looked for where something is.
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
        if let Self::Run { format, .. } = entry
            && format > FORMAT
        {
            return Err(format!("{NEWER} {format}; this reflux reads up to {FORMAT}"));
        }
        Ok(entry)
    }

    /// The same line, with the reason for which it cannot be read.
    fn parse_in_steps(line: &[u8]) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(line).map_err(|_| "is not JSON".to_owned())?;
        let kind = value.get("kind").and_then(Value::as_str).ok_or("has no `kind`")?;
        if !KINDS.contains(&kind) {
            return Err(format!(
                "is of the unknown kind `{kind}`; it may be from a newer reflux than this one ({}, manifest format {FORMAT})",
                env!("CARGO_PKG_VERSION")
            ));
        }
        serde_json::from_value(value).map_err(|e| format!("cannot be read: {e}"))
    }

    /// The numbers of rows, bytes and lines that it gives.
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
