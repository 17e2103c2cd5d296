//! Checks of files against their recorded sizes and hashes.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use super::io_error::io_error;
use crate::data::open_regular;
use crate::error::Result;

/// blake3 of a file's bytes, as 64 hex digits, and its size.
///
/// # Errors
/// The file cannot be read.
pub fn hash_file(path: &Path) -> Result<(String, u64)> {
    let mut hasher = blake3::Hasher::new();
    let read = |hasher: &mut blake3::Hasher| -> io::Result<()> {
        hasher.update_reader(open_regular(path)?)?;
        Ok(())
    };
    read(&mut hasher).map_err(|e| io_error("reading", path, &e))?;
    Ok((hasher.finalize().to_hex().to_string(), hasher.count()))
}

/// Fault of a file that was compared with its recorded size and hash.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum FileProblem {
    /// The file is gone or has other content.
    Damaged(String),
    /// The system cannot read the file: no permission, too many open files, a failing disk. The file may be
    /// intact.
    Unreadable(String),
}

impl std::fmt::Display for FileProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Damaged(why) => f.write_str(why),
            Self::Unreadable(why) => write!(f, "it cannot be read: {why}"),
        }
    }
}

impl FileProblem {
    /// Interprets a system error for a file that must exist.
    pub fn from_io(e: &io::Error) -> Self {
        match e.kind() {
            ErrorKind::NotFound => Self::Damaged("it is gone".to_owned()),
            ErrorKind::IsADirectory => Self::Damaged("a directory stands in its place".to_owned()),
            ErrorKind::NotADirectory => Self::Damaged("it is gone: a file stands where its directory was".to_owned()),
            // `open_regular` returns this kind for anything but a regular file, as which the file was
            // committed.
            ErrorKind::InvalidInput => Self::Damaged("it is not a regular file".to_owned()),
            _ => Self::Unreadable(e.to_string()),
        }
    }
}

/// Compares a file with its recorded size and hash. A link is not followed.
///
/// # Errors
/// What is wrong with the file.
pub(crate) fn check_file(path: &Path, bytes: u64, hash: &str) -> Result<(), FileProblem> {
    check_size(path, bytes)?;
    let (found, _) = hash_file(path).map_err(|e| FileProblem::Unreadable(e.to_string()))?;
    if found == hash { Ok(()) } else { Err(FileProblem::Damaged(OTHER_CONTENT.to_owned())) }
}

/// Reads a file and compares it with its recorded size and hash.
///
/// # Errors
/// As [`check_file`].
pub(crate) fn read_checked(path: &Path, bytes: u64, hash: &str) -> Result<Vec<u8>, FileProblem> {
    check_size(path, bytes)?;
    let read = fs::read(path).map_err(|e| FileProblem::from_io(&e))?;
    if blake3::hash(&read).to_hex().as_str() == hash {
        Ok(read)
    } else {
        Err(FileProblem::Damaged(OTHER_CONTENT.to_owned()))
    }
}

const OTHER_CONTENT: &str = "its content is not what was committed";

fn check_size(path: &Path, bytes: u64) -> Result<(), FileProblem> {
    let there = fs::symlink_metadata(path).map_err(|e| FileProblem::from_io(&e))?;
    if there.file_type().is_symlink() {
        return Err(FileProblem::Damaged("it is a link, and not the run's own file".to_owned()));
    }
    if !there.is_file() {
        return Err(FileProblem::Damaged("it is not a file".to_owned()));
    }
    let size = there.len();
    if size < bytes {
        return Err(FileProblem::Damaged(format!("it is cut short: {size} of {bytes} bytes")));
    }
    if size > bytes {
        return Err(FileProblem::Damaged(format!("it has {size} bytes, {} more than were committed", size - bytes)));
    }
    Ok(())
}
