//! `manifest.jsonl`: what a run has committed, one JSON object per line, only ever added to.
//!
//! A line counts once its line end is on the disk. A process that dies while writing leaves a last line without one: the
//! reader passes over it and the next writer cuts it off. Anything else that does not parse is damage, and is said.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::inputs::InputEntry;
use crate::data::{Epoch, open_regular, quoted};
use crate::error::{Error, Result};
use crate::store::files::atomic::{io_error, sync_dir};
use crate::store::files::fault;

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

/// The list of what a replay takes over, until it is the manifest; or of what `--fresh` removes, until it is gone.
pub(crate) const BEING_TAKEN: &str = "manifest.unfinished.jsonl";

/// How the complaint about a manifest of a newer reflux begins.
pub(crate) const NEWER: &str = "is of manifest format";

const KINDS: &[&str] = &["run", "taken", "input", "file", "model", "metrics", "finished", "dropped"];

/// Rows and bytes of a file beyond this are refused: no file has them, and sums of them would overflow.
const LARGEST: u64 = 1 << 40;

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

    fn parse(line: &[u8]) -> Result<Self, String> {
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
        if let Some(count) = entry.counts().into_iter().find(|&n| n > LARGEST) {
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

/// What [`read`] found.
#[derive(Debug)]
pub struct Contents {
    /// The whole lines, in order.
    pub entries: Vec<Entry>,
    /// Bytes that the whole lines take.
    pub whole: u64,
    /// Bytes of a last line without its end; such a line does not count.
    pub cut: u64,
}

/// A whole line, read or not.
#[derive(Clone, Debug)]
pub struct Line {
    /// From 1.
    pub number: usize,
    /// With its line end.
    pub bytes: Vec<u8>,
    /// What it says, or why it says nothing.
    pub entry: Result<Entry, String>,
}

/// Longer lines are refused; the longest that is written has a few hundred hashes.
const MAX_LENGTH: u64 = 16 << 20;

/// Reads lines until one is cut or `take` says that it is enough; returns the bytes of a last line without its end.
fn each_line(path: &Path, mut take: impl FnMut(Line) -> bool) -> Result<u64> {
    let file = match open_regular(path) {
        // A file where the run's directory should be holds no run either.
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => return Ok(0),
        other => other.map_err(|e| io_error("reading", path, &e))?,
    };
    let mut reader = BufReader::new(file);
    for number in 1usize.. {
        let mut bytes = Vec::new();
        let read = (&mut reader).take(MAX_LENGTH).read_until(b'\n', &mut bytes);
        let read = read.map_err(|e| io_error("reading", path, &e))? as u64;
        if read == 0 {
            break;
        }
        let whole = bytes.last() == Some(&b'\n');
        if !whole && read < MAX_LENGTH {
            return Ok(read);
        }
        let entry = match Entry::parse(&bytes) {
            _ if !whole => Err(format!("is longer than {} MiB", MAX_LENGTH >> 20)),
            Ok(entry) if (number == 1) != matches!(entry, Entry::Run { .. }) => {
                Err("is out of place: the first line, and no other, is of the kind `run`".to_owned())
            }
            other => other,
        };
        if !take(Line { number, bytes, entry }) {
            break;
        }
    }
    Ok(0)
}

/// Every whole line of a manifest, those that cannot be read too, and the bytes of a last line without its end.
///
/// # Errors
/// The file cannot be read.
pub fn lines(path: &Path) -> Result<(Vec<Line>, u64)> {
    let mut lines = Vec::new();
    let cut = each_line(path, |line| {
        lines.push(line);
        true
    })?;
    Ok((lines, cut))
}

/// Reads a manifest. A missing file has no lines.
///
/// # Errors
/// A line that is whole and yet cannot be read, with its number.
pub fn read(path: &Path) -> Result<Contents> {
    let mut contents = Contents { entries: Vec::new(), whole: 0, cut: 0 };
    let mut damaged = None;
    contents.cut = each_line(path, |line| {
        match line.entry {
            Ok(entry) => contents.entries.push(entry),
            Err(what) => damaged = Some(format!("`{}` line {} {what}", path.display(), line.number)),
        }
        contents.whole += line.bytes.len() as u64;
        damaged.is_none()
    })?;
    match damaged {
        None => Ok(contents),
        // Not damaged, whatever this reflux thinks of it.
        Some(what) if what.contains(NEWER) => Err(Error::user(what).help("use a newer reflux")),
        Some(what) => {
            let run = path.parent().unwrap_or(Path::new("."));
            Err(Error::user(what).help(format!(
                "`reflux verify {} --repair` goes back to the last good point; `reflux run` with --fresh starts the run anew",
                quoted(&run.to_string_lossy())
            )))
        }
    }
}

/// The one writer of a manifest.
#[derive(Debug)]
pub struct Appender {
    path: PathBuf,
    file: File,
    /// Where the next line goes.
    end: u64,
    /// A line failed and could not be taken back: what the file ends with is not known.
    broken: bool,
}

impl Appender {
    /// Opens a manifest for adding to it: reads it, and cuts off a last line that is not whole.
    ///
    /// # Errors
    /// As [`read`]; a directory that cannot be written.
    pub fn open(path: &Path) -> Result<(Self, Vec<Entry>)> {
        let fail = |e: std::io::Error| io_error("writing", path, &e);
        let contents = read(path)?;
        let new = !path.exists();
        // Not in append mode: the end is kept here, so that a line that failed half-way can be written over.
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path).map_err(fail)?;
        if contents.cut > 0 {
            file.set_len(contents.whole).and_then(|()| file.sync_all()).map_err(fail)?;
        }
        if new {
            sync_dir(path.parent().unwrap_or(Path::new("")))?;
        }
        Ok((Self { path: path.to_owned(), file, end: contents.whole, broken: false }, contents.entries))
    }

    /// Adds a line: one write, one fsync. After an error the line is not there.
    ///
    /// # Errors
    /// A full disk.
    pub fn append(&mut self, entry: &Entry) -> Result<()> {
        if self.broken {
            return Err(Error::system(format!("`{}` failed to be written before", self.path.display()))
                .help("give the same command again; what was committed is intact"));
        }
        let line = entry.to_line()?;
        fault::point(fault::BEFORE_MANIFEST)?;
        let result = self.write(&line);
        match result {
            Ok(()) => self.end += line.len() as u64,
            // A crash that a test asks for leaves the half line as it is.
            Err(Failure::Injected(e)) => {
                self.broken = true;
                return Err(e);
            }
            Err(Failure::Io(e)) => {
                let restored = self.file.set_len(self.end).and_then(|()| self.file.sync_all());
                self.broken = restored.is_err();
                return Err(io_error("writing", &self.path, &e));
            }
        }
        fault::point(fault::AFTER_MANIFEST)
    }

    fn write(&mut self, line: &[u8]) -> Result<(), Failure> {
        self.file.seek(SeekFrom::Start(self.end))?;
        if fault::cuts(fault::MID_MANIFEST) {
            self.file.write_all(&line[..line.len() / 2])?;
            fault::die(fault::MID_MANIFEST).map_err(Failure::Injected)?;
        }
        if let Err(e) = fault::disk_full() {
            self.file.write_all(&line[..line.len() / 2])?;
            return Err(e.into());
        }
        self.file.write_all(line)?;
        Ok(self.file.sync_data()?)
    }
}

enum Failure {
    Injected(Error),
    Io(std::io::Error),
}
impl From<std::io::Error> for Failure {
    fn from(e: std::io::Error) -> Self {
        Self::Io(e)
    }
}

#[cfg(test)]
mod tests;
