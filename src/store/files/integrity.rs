//! Files compared with the size and the hash that were recorded for them.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use super::io_error::io_error;
use crate::data::open_regular;
use crate::error::Result;

/// blake3 of a file's bytes, 64 hex digits, and its size.
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

/// Why a file is not what was committed, as far as can be told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Wrong {
    /// It is gone, or has other bytes.
    Damaged(String),
    /// The system does not let us read it: no permission, too many open files, a failing disk. It may be as it should be.
    Unreadable(String),
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Damaged(why) => f.write_str(why),
            Self::Unreadable(why) => write!(f, "it cannot be read: {why}"),
        }
    }
}

impl Wrong {
    /// What an error of the system says of a file that is to be there.
    pub fn from_io(e: &io::Error) -> Self {
        match e.kind() {
            ErrorKind::NotFound => Self::Damaged("it is gone".to_owned()),
            ErrorKind::IsADirectory => Self::Damaged("a directory stands in its place".to_owned()),
            ErrorKind::NotADirectory => Self::Damaged("it is gone: a file stands where its directory was".to_owned()),
            // As `open_regular` says it: the file that was committed was a regular one.
            ErrorKind::InvalidInput => Self::Damaged("it is no regular file".to_owned()),
            _ => Self::Unreadable(e.to_string()),
        }
    }
}

/// Compares a file with the size and the hash that it was committed with. A link is not followed.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn same_bytes(path: &Path, bytes: u64, hash: &str) -> Result<(), Wrong> {
    same_size(path, bytes)?;
    let (found, _) = hash_file(path).map_err(|e| Wrong::Unreadable(e.to_string()))?;
    if found == hash { Ok(()) } else { Err(Wrong::Damaged(OTHER.to_owned())) }
}

/// Reads a file that is to have this size and this hash.
///
/// # Errors
/// As [`same_bytes`].
pub(crate) fn read_same(path: &Path, bytes: u64, hash: &str) -> Result<Vec<u8>, Wrong> {
    same_size(path, bytes)?;
    let read = fs::read(path).map_err(|e| Wrong::from_io(&e))?;
    if blake3::hash(&read).to_hex().as_str() == hash { Ok(read) } else { Err(Wrong::Damaged(OTHER.to_owned())) }
}

const OTHER: &str = "its content is not what was committed";

fn same_size(path: &Path, bytes: u64) -> Result<(), Wrong> {
    let there = fs::symlink_metadata(path).map_err(|e| Wrong::from_io(&e))?;
    if there.file_type().is_symlink() {
        return Err(Wrong::Damaged("it is a link, and not the run's own file".to_owned()));
    }
    if !there.is_file() {
        return Err(Wrong::Damaged("it is no file".to_owned()));
    }
    let size = there.len();
    if size < bytes {
        return Err(Wrong::Damaged(format!("it is cut short: {size} of {bytes} bytes")));
    }
    if size > bytes {
        return Err(Wrong::Damaged(format!("it has {size} bytes, {} more than were committed", size - bytes)));
    }
    Ok(())
}
