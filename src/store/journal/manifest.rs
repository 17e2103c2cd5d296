//! `manifest.jsonl`: an append-only list of what a run has committed, one JSON object per line.
//!
//! A line is valid once its line end is on the disk. A process that dies while writing leaves a last line
//! without one: the reader ignores it, and the next writer truncates it. Any other line that does not parse
//! is damage, and is reported.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::checksum;
use super::entry::{Entry, NEWER};
use crate::data::{open_regular, quoted};
use crate::error::{Error, Result};
use crate::store::files::atomic::sync_dir;
use crate::store::files::fault;
use crate::store::files::io_error::io_error;

/// Contents of a manifest.
#[derive(Debug)]
pub struct Contents {
    /// The complete lines, in order.
    pub entries: Vec<Entry>,
    /// Size of the complete lines in bytes.
    pub whole: u64,
    /// Size in bytes of a last line without a line end, which is ignored.
    pub cut: u64,
}

/// A complete line, whether or not it can be parsed.
#[derive(Clone, Debug)]
pub struct Line {
    /// Line number, from 1.
    pub number: usize,
    /// The bytes, with the line end.
    pub bytes: Vec<u8>,
    /// The parsed entry, or why the line cannot be parsed.
    pub entry: Result<Entry, String>,
    /// Whether the file has one wrong bit in this line. `bytes` and `entry` are without it.
    pub restored: bool,
}

/// Maximum length of a line. The longest line that reflux writes has a few hundred hashes.
const MAX_LENGTH: u64 = 16 << 20;

/// Reads lines until the last one, an incomplete one, or until `take` returns false. Returns the size of an
/// incomplete last line.
fn each_line(path: &Path, mut take: impl FnMut(Line) -> bool) -> Result<u64> {
    let file = match open_regular(path) {
        // A file in place of the run's directory means the same: no run is here.
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => return Ok(0),
        other => other.map_err(|e| io_error("reading", path, &e))?,
    };
    let mut reader = BufReader::new(file);
    for number in 1usize.. {
        let mut bytes = Vec::new();
        // `take` bounds the memory for a file without line ends.
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
        if !take(Line { number, bytes, entry, restored: false }) {
            break;
        }
    }
    Ok(0)
}

/// Maximum number of damaged lines that are searched for their wrong bit. Each takes milliseconds, and a
/// manifest with more damaged lines did not lose single bits.
const MAX_SEARCHES: usize = 16;

impl Line {
    /// The line without its wrong bit, if it has exactly one.
    fn restore(&self) -> Option<Self> {
        let mut bytes = checksum::restore(self.bytes.strip_suffix(b"\n")?)?;
        let entry = Entry::parse(&bytes).ok()?;
        bytes.push(b'\n');
        let in_place = (self.number == 1) == matches!(entry, Entry::Run { .. });
        in_place.then_some(Self { number: self.number, bytes, entry: Ok(entry), restored: true })
    }
}

/// Every complete line of a manifest, including lines that cannot be parsed, and the size of an incomplete
/// last line. Lines with one wrong bit are restored.
///
/// # Errors
/// The file cannot be read.
pub fn lines(path: &Path) -> Result<(Vec<Line>, u64)> {
    let mut lines = Vec::new();
    let mut searches = 0;
    let cut = each_line(path, |line| {
        let search = line.entry.is_err() && searches < MAX_SEARCHES;
        searches += usize::from(search);
        let restored = if search { line.restore() } else { None };
        lines.push(restored.unwrap_or(line));
        true
    })?;
    Ok((lines, cut))
}

/// Reads a manifest. A missing file has no lines.
///
/// # Errors
/// A complete line cannot be parsed; its number is in the message.
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
        // A newer format is not damage.
        Some(what) if what.contains(NEWER) => Err(Error::user(what).help("use a newer reflux")),
        Some(what) => {
            let run = path.parent().unwrap_or(Path::new("."));
            Err(Error::user(what).help(format!(
                "`reflux verify {} --repair` goes back to the last good point; `reflux run` with --fresh starts the run over",
                quoted(&run.to_string_lossy())
            )))
        }
    }
}

/// Writer of a manifest. A run has at most one, because its lock is exclusive.
#[derive(Debug)]
pub struct Appender {
    path: PathBuf,
    file: File,
    /// Offset of the next line.
    end: u64,
    /// Whether a failed line could not be truncated, so that the end of the file is unknown.
    broken: bool,
}

impl Appender {
    /// Opens a manifest for appending: reads it and truncates an incomplete last line.
    ///
    /// # Errors
    /// As [`read`]; the directory cannot be written.
    pub fn open(path: &Path) -> Result<(Self, Vec<Entry>)> {
        let fail = |e: std::io::Error| io_error("writing", path, &e);
        let contents = read(path)?;
        let new = !path.exists();
        // Not opened in append mode: the writer tracks the end itself, so that it can overwrite a line that
        // failed half-way.
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path).map_err(fail)?;
        if contents.cut > 0 {
            file.set_len(contents.whole).and_then(|()| file.sync_all()).map_err(fail)?;
        }
        // The name of a new file is durable only once its directory is synced.
        if new {
            sync_dir(path.parent().unwrap_or(Path::new("")))?;
        }
        Ok((Self { path: path.to_owned(), file, end: contents.whole, broken: false }, contents.entries))
    }

    /// Appends a line with one write and one fsync. After an error the line is not in the file.
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
            // An injected crash leaves the half-written line in place, as a real one would.
            Err(AppendFailure::Injected(e)) => {
                self.broken = true;
                return Err(e);
            }
            Err(AppendFailure::Io(e)) => {
                let restored = self.file.set_len(self.end).and_then(|()| self.file.sync_all());
                self.broken = restored.is_err();
                return Err(io_error("writing", &self.path, &e));
            }
        }
        fault::point(fault::AFTER_MANIFEST)
    }

    fn write(&mut self, line: &[u8]) -> Result<(), AppendFailure> {
        self.file.seek(SeekFrom::Start(self.end))?;
        if fault::should_fail(fault::MID_MANIFEST) {
            self.file.write_all(&line[..line.len() / 2])?;
            fault::fail(fault::MID_MANIFEST).map_err(AppendFailure::Injected)?;
        }
        if let Err(e) = fault::disk_full() {
            self.file.write_all(&line[..line.len() / 2])?;
            return Err(e.into());
        }
        // One write for the whole line: a crash leaves a prefix without a line end, which readers ignore.
        self.file.write_all(line)?;
        // `sync_data` also flushes the new size, because reading the line needs it.
        Ok(self.file.sync_data()?)
    }
}

enum AppendFailure {
    Injected(Error),
    Io(std::io::Error),
}
impl From<std::io::Error> for AppendFailure {
    fn from(e: std::io::Error) -> Self {
        Self::Io(e)
    }
}

#[cfg(test)]
mod tests;
