//! Reading of regular files.

use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result};
use std::path::Path;

/// Opens a regular file, or a link to one, for reading.
///
/// Other kinds are refused: a FIFO without a writer would block for ever, and a device may have no end.
///
/// # Errors
/// The file cannot be opened, or is not a regular file.
pub fn open_regular(path: &Path) -> Result<File> {
    if std::fs::metadata(path)?.is_file() {
        return File::open(path);
    }
    let what = "it is not a regular file; a pipe or a device is not read here: write what it gives to a file";
    Err(Error::new(ErrorKind::InvalidInput, what))
}

/// Reads a whole regular file.
///
/// # Errors
/// As [`open_regular`]; reading fails.
pub fn read_regular(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Maximum size of a file in bytes for [`read_text`].
const MAX_TEXT: u64 = 256 << 20;

/// Reads a whole regular file as text.
///
/// # Errors
/// As [`read_regular`]; the file is not UTF-8, or larger than 256 MiB ([`ErrorKind::InvalidData`]).
pub fn read_text(path: &Path) -> Result<String> {
    let file = open_regular(path)?;
    let size = file.metadata()?.len();
    if size > MAX_TEXT {
        let what = format!("it has {size} bytes, more than {MAX_TEXT}");
        return Err(Error::new(ErrorKind::InvalidData, what));
    }
    let mut text = String::new();
    file.take(MAX_TEXT).read_to_string(&mut text)?;
    Ok(text)
}
