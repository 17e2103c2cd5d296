//! Opening of files that a user names.

use std::fs::File;
use std::path::Path;

use super::io_error::io_error;
use crate::error::{Error, Result};

/// Opens a regular file, or a link to one, for reading.
///
/// Other kinds are refused: a FIFO without a writer would block for ever, a device may have no end, and data
/// that can be read only once cannot be inspected first.
///
/// # Errors
/// The file cannot be opened, or is not a regular file.
pub(crate) fn open_regular(path: &Path) -> Result<File> {
    let metadata = std::fs::metadata(path).map_err(|e| io_error("reading", path, &e).into_user())?;
    if metadata.is_dir() {
        return Err(Error::user(format!("`{}` is a directory, a file is needed", path.display())));
    }
    if !metadata.is_file() {
        return Err(Error::user(format!("`{}` is not a regular file", path.display()))
            .help("a pipe or a device is not read here: write what it gives to a file, and name that"));
    }
    File::open(path).map_err(|e| io_error("reading", path, &e).into_user())
}
