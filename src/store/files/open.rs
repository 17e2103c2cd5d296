//! Opening of what a user names.

use std::fs::File;
use std::path::Path;

use super::io_error::io_error;
use crate::error::{Error, Result};

/// Opens a file for reading, if it is a regular file, itself or at the end of a link.
///
/// A FIFO without a writer would wait for ever, a device may have no end, and what can be read once only cannot be
/// looked at before it is read.
///
/// # Errors
/// It cannot be opened, or is something else.
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
