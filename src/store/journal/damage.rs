//! Errors for files of a run that differ from what was committed.

use std::path::Path;

use crate::data::quoted;
use crate::error::Error;
use crate::store::files::integrity::FileProblem;

/// The error for a file of the run in `run` that differs from what was committed.
pub(crate) fn damaged_in(run: &Path, path: &Path, why: impl std::fmt::Display) -> Error {
    let (file, run) = (path.display(), quoted(&run.to_string_lossy()));
    Error::user(format!("`{file}` is damaged: {why}")).help(format!(
        "`reflux verify {run}` lists what is damaged; `reflux verify {run} --repair` takes it out, and the same command then goes \
         on from the last good point"
    ))
}

/// The error for a file of a run that the system cannot read. The file itself may be intact.
pub(crate) fn unreadable(path: &Path, why: impl std::fmt::Display) -> Error {
    Error::system(format!("`{}` cannot be read: {why}", path.display()))
        .help("let it be read (its permissions, the limit of open files, the disk), and give the same command again")
}

/// The error for a file that is damaged or cannot be read.
pub(crate) fn problem_error(path: &Path, problem: &FileProblem) -> Error {
    match problem {
        FileProblem::Damaged(why) => damaged(path, why),
        FileProblem::Unreadable(why) => unreadable(path, why),
    }
}

/// The error for a damaged file of whatever run contains it.
pub(crate) fn damaged(path: &Path, why: impl std::fmt::Display) -> Error {
    match path.ancestors().skip(1).find(|dir| dir.join("manifest.jsonl").is_file()) {
        Some(run) => damaged_in(run, path, why),
        None => Error::user(format!("`{}` is damaged: {why}", path.display())).help("get the file again"),
    }
}
