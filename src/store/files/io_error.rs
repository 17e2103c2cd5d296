//! File system errors with the file's path and advice.

use std::io::{self, ErrorKind};
use std::path::Path;

use crate::error::Error;

/// An I/O error with the file's path and advice.
pub(crate) fn io_error(doing: &str, path: &Path, e: &io::Error) -> Error {
    explain(doing, path, e.kind(), &e.to_string())
}

pub(crate) fn explain(doing: &str, path: &Path, kind: ErrorKind, text: &str) -> Error {
    let path = path.display();
    match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            Error::from(io::Error::from(kind)).doing(format!("{doing} `{path}`"))
        }
        ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => {
            Error::system(format!("{doing} `{path}`: {text}"))
                .help("the directory cannot be written; check its permissions, or choose another one")
        }
        ErrorKind::NotADirectory => Error::system(format!("{doing} `{path}`: {text}"))
            .help("a part of this path is a file, not a directory; choose another one"),
        _ => Error::system(format!("{doing} `{path}`: {text}")),
    }
}
