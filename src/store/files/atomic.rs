//! Atomic file writes: a temporary name in the same directory, fsync, rename, fsync of the directory.

use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::io_error::{explain, io_error};
use super::{fault, output};
use crate::error::{Error, Result};

/// Size and hash of a written file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Written {
    /// Number of rows of a table; 0 for other files.
    pub rows: u64,
    /// Size in bytes.
    pub bytes: u64,
    /// blake3 of the bytes, 64 hex digits.
    pub hash: String,
}

/// Syncs a directory, which makes the names in it durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    if cfg!(unix) {
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        File::open(dir).and_then(|d| d.sync_all()).map_err(|e| io_error("writing the directory", dir, &e))?;
    }
    Ok(())
}

/// Creates a directory and its parents, durably.
pub(crate) fn create_dirs(dir: &Path) -> Result<()> {
    if dir.as_os_str().is_empty() || dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().unwrap_or(Path::new(""));
    create_dirs(parent)?;
    match fs::create_dir(dir) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            Err(io_error("making the directory", dir, &ErrorKind::NotADirectory.into()))
        }
        Err(e) => Err(io_error("making the directory", dir, &e)),
        Ok(()) => sync_dir(parent),
    }
}

/// Suffix of every temporary name. The names begin with a dot.
const TEMPORARY: &str = ".tmp";

/// Whether a name is a temporary one, of an [`AtomicFile`] or of an unfinished model.
pub(crate) fn is_temporary(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(TEMPORARY)
}

/// The directory of a file, which is created, and its name there.
fn dir_and_name(target: &Path) -> Result<(&Path, &str)> {
    let name = target.file_name().and_then(|n| n.to_str());
    let name = name.ok_or_else(|| Error::user(format!("`{}` does not name a file", target.display())))?;
    let dir = target.parent().unwrap_or(Path::new(""));
    create_dirs(dir)?;
    Ok((dir, name))
}

/// A file that is being written. If it is dropped before [`AtomicFile::publish`], it leaves nothing behind.
pub(crate) struct AtomicFile {
    target: PathBuf,
    temporary: PathBuf,
    /// `None` once closed.
    file: Option<BufWriter<File>>,
    /// Handle of the closed file. It stays open while the file has its temporary name, because it holds the
    /// lock of an output.
    closed: Option<File>,
    hasher: blake3::Hasher,
    bytes: u64,
    /// The first I/O error. A writer on top of this one may hide it.
    failure: Option<(ErrorKind, String)>,
    published: bool,
}

impl AtomicFile {
    /// Starts the file `target` in a directory whose writer removes leftovers of dead processes; creates the
    /// directory.
    pub fn create(target: &Path) -> Result<Self> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let (dir, name) = dir_and_name(target)?;
        // Two threads may write the same file. Their contents are compared later.
        let unique = COUNTER.fetch_add(1, Ordering::Relaxed);
        let temporary = dir.join(format!(".{name}.{}-{unique}{TEMPORARY}", std::process::id()));
        let file = File::create(&temporary).map_err(|e| io_error("writing", target, &e))?;
        Ok(Self::new(target, temporary, file))
    }

    /// Starts an output that a user named, in a directory that may contain anything; creates the directory.
    /// Removes unfinished outputs of dead processes there.
    pub fn create_output(target: &Path) -> Result<Self> {
        let (dir, name) = dir_and_name(target)?;
        output::remove_abandoned(dir);
        let (temporary, file) = output::create(dir, name).map_err(|e| io_error("writing", target, &e))?;
        Ok(Self::new(target, temporary, file))
    }

    fn new(target: &Path, temporary: PathBuf, file: File) -> Self {
        Self {
            target: target.to_owned(),
            temporary,
            file: Some(BufWriter::with_capacity(1 << 16, file)),
            closed: None,
            hasher: blake3::Hasher::new(),
            bytes: 0,
            failure: None,
            published: false,
        }
    }

    /// The error of a failed write: the first I/O error if there was one, else `other`.
    pub fn error(&mut self, other: impl Into<Error>) -> Error {
        match self.failure.take() {
            Some((kind, text)) => explain("writing", &self.target, kind, &text),
            None => other.into().doing(format!("writing `{}`", self.target.display())),
        }
    }

    /// Closes the file and makes its bytes durable under the temporary name.
    pub fn close(&mut self) -> Result<Written> {
        let fail = |e: &io::Error| io_error("writing", &self.target, e);
        if let Some(file) = self.file.take() {
            let file = file.into_inner().map_err(|e| fail(e.error()))?;
            fault::point(fault::AFTER_WRITE)?;
            file.sync_all().map_err(|e| fail(&e))?;
            self.closed = Some(file);
            fault::point(fault::AFTER_FSYNC)?;
        }
        Ok(Written { rows: 0, bytes: self.bytes, hash: self.hasher.finalize().to_hex().to_string() })
    }

    /// Renames the closed file to its final name, replacing an existing file.
    pub fn publish(&mut self) -> Result<()> {
        self.close()?;
        fs::rename(&self.temporary, &self.target).map_err(|e| io_error("renaming to", &self.target, &e))?;
        (self.published, self.closed) = (true, None);
        fault::point(fault::AFTER_RENAME)?;
        sync_dir(self.target.parent().unwrap_or(Path::new("")))
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(file) = &mut self.file else { return Err(ErrorKind::BrokenPipe.into()) };
        let result = fault::disk_full().and_then(|()| file.write(bytes));
        match &result {
            Ok(n) => {
                self.hasher.update(&bytes[..*n]);
                self.bytes += *n as u64;
            }
            Err(e) => self.failure = Some((e.kind(), e.to_string())),
        }
        result
    }
    fn flush(&mut self) -> io::Result<()> {
        let result = self.file.as_mut().map_or(Ok(()), Write::flush);
        if let Err(e) = &result {
            self.failure = Some((e.kind(), e.to_string()));
        }
        result
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if !self.published {
            // Buffered bytes are discarded: dropping the writer would try to write them again, and a full
            // disk stays full.
            if let Some(file) = self.file.take() {
                drop(file.into_parts());
            }
            // A failure is ignored, because the next start removes temporary files.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Path at which to write an output that a user names: the path itself, or the target of a link. Otherwise
/// the rename at the end of a write would replace the link, or a device or FIFO, with a file.
///
/// # Errors
/// The path exists and is not a regular file, or the links form a circle.
pub fn output_target(path: &Path) -> Result<PathBuf> {
    const MAX_LINKS: usize = 40;
    let mut target = path.to_owned();
    for _ in 0..MAX_LINKS {
        let Ok(metadata) = fs::symlink_metadata(&target) else { return Ok(target) };
        let kind = metadata.file_type();
        if kind.is_symlink() {
            let next = fs::read_link(&target).map_err(|e| io_error("reading the link", &target, &e))?;
            target = target.parent().unwrap_or(Path::new("")).join(next);
        } else if kind.is_file() {
            return Ok(target);
        } else {
            let what = if kind.is_dir() { "a directory" } else { "no regular file" };
            return Err(Error::user(format!("`{}` is {what}, and cannot be written as a file", path.display()))
                .help("name another file to write"));
        }
    }
    Err(Error::user(format!("`{}` is a link that leads back to itself", path.display())))
}

/// Writes a file atomically and durably.
///
/// # Errors
/// The disk is full or the directory cannot be written; nothing is left behind.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<Written> {
    write_all(AtomicFile::create(path)?, bytes)
}

/// As [`write_bytes`], for an output that a user named.
///
/// # Errors
/// As [`write_bytes`].
pub fn write_output(path: &Path, bytes: &[u8]) -> Result<Written> {
    write_all(AtomicFile::create_output(path)?, bytes)
}

/// As [`write_output`], with `fill` as the writer of the bytes. Returns the result of `fill`.
///
/// # Errors
/// As [`write_bytes`]; `fill` failed, and no file is written.
pub fn fill_output<T>(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<T>) -> Result<T> {
    let mut file = AtomicFile::create_output(path)?;
    let filled = fill(&mut file).map_err(|e| file.error(e))?;
    file.publish()?;
    Ok(filled)
}

fn write_all(mut file: AtomicFile, bytes: &[u8]) -> Result<Written> {
    if let Err(e) = file.write_all(bytes) {
        return Err(file.error(e));
    }
    let written = file.close()?;
    file.publish()?;
    Ok(written)
}
