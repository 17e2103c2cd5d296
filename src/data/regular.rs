//! Reading of regular files only.

use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result};
use std::path::Path;

/// Opens a file for reading, if it is a regular file, itself or at the end of a link.
///
/// A FIFO without a writer would wait for ever, and a device may have no end.
///
/// # Errors
/// It cannot be opened, or is something else.
pub fn open_regular(path: &Path) -> Result<File> {
    if std::fs::metadata(path)?.is_file() {
        return File::open(path);
    }
    let what = "it is not a regular file; a pipe or a device is not read here: write what it gives to a file";
    Err(Error::new(ErrorKind::InvalidInput, what))
}

/// Reads a regular file whole.
///
/// # Errors
/// As [`open_regular`]; reading fails.
pub fn read_regular(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Files that are read by [`read_text`] are smaller than this.
const LARGEST_TEXT: u64 = 256 << 20;

/// Reads a regular file of text whole.
///
/// # Errors
/// As [`read_regular`]; the file is not UTF-8, or larger than 256 MiB ([`ErrorKind::InvalidData`]).
pub fn read_text(path: &Path) -> Result<String> {
    let file = open_regular(path)?;
    let size = file.metadata()?.len();
    if size > LARGEST_TEXT {
        let what = format!("it has {size} bytes, more than {LARGEST_TEXT}");
        return Err(Error::new(ErrorKind::InvalidData, what));
    }
    let mut text = String::new();
    file.take(LARGEST_TEXT).read_to_string(&mut text)?;
    Ok(text)
}
