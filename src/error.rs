//! One error type for the crate, with the user's fault and ours told apart.
//!
//! [`ErrorKind`] decides the exit code: the user's file or data is 2, a run of which nothing came is 3, everything else is 1. A message names the file,
//! row or line; `help` says what to do about it.

use std::{fmt, io};

/// What the whole crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whose fault an [`Error`] is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorKind {
    /// The user's file, flag or data: can be mended by changing it. Exit code 2.
    User,
    /// The machine: disk, memory, network. Exit code 1.
    System,
    /// A defect of reflux. Exit code 1.
    Bug,
    /// Stopped on request (Ctrl-C) or because another part failed. Exit code 1.
    Cancelled,
    /// Everything was done, and nothing came of it: no readable score, no pair. Exit code 3.
    Nothing,
}

/// A message with its kind, what was being done, and what to do about it.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    help: Option<String>,
}

impl Error {
    /// An error of the given kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), help: None }
    }
    /// The user's fault.
    pub fn user(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::User, message)
    }
    /// The machine's fault.
    pub fn system(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::System, message)
    }
    /// Our fault.
    pub fn bug(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Bug, message)
    }
    /// The run is being stopped.
    pub fn cancelled() -> Self {
        Self::new(ErrorKind::Cancelled, "")
    }
    /// Nothing came of a run.
    pub fn nothing(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Nothing, message)
    }
    /// The system does not let a thread be started; `what` says which.
    pub fn no_thread(what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self::system(format!("cannot start {what}: {why}")).help(
            "the system gives this process no more threads or memory: raise its limits (`ulimit -u`, `ulimit -v`), or use fewer \
             threads (--workers, --threads, RAYON_NUM_THREADS)",
        )
    }
    /// This build cannot do it: the feature `servers` was left out.
    pub fn no_feature(what: impl fmt::Display) -> Self {
        Self::user(format!("{what}, and this build of reflux lacks the feature `servers`"))
            .help("build it with that feature, which is on by default: leave out --no-default-features")
    }
    /// Adds what the user can do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
    /// Says what was being done, in front of the message.
    #[must_use]
    pub fn doing(mut self, what: impl fmt::Display) -> Self {
        self.message = match (self.kind, self.message.is_empty()) {
            // That it was stopped is its kind.
            (ErrorKind::Cancelled, true) => what.to_string(),
            _ => format!("{what}: {}", self.message),
        };
        self
    }
    /// The same error with the user to blame: a path that does not exist is a slip, and not a fault of the machine.
    #[must_use]
    pub fn into_user(self) -> Self {
        Self { kind: ErrorKind::User, ..self }
    }
    /// Whose fault it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
    /// The message alone: of what was stopped it says what that was, and may be empty.
    pub fn message(&self) -> &str {
        &self.message
    }
    /// What the user can do, if we know.
    pub fn help_text(&self) -> Option<&str> {
        self.help.as_deref()
    }
    /// The process exit code: 2 for the user's file, 3 where nothing came of a run, 1 for the rest.
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            ErrorKind::User => 2,
            ErrorKind::Nothing => 3,
            ErrorKind::System | ErrorKind::Bug | ErrorKind::Cancelled => 1,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.kind, self.message.as_str()) {
            (ErrorKind::Cancelled, "") => f.write_str("stopped"),
            (ErrorKind::Cancelled, what) => write!(f, "{what}: stopped"),
            (_, message) => f.write_str(message),
        }
    }
}
impl std::error::Error for Error {}

macro_rules! system_errors { ($($from:ty),* $(,)?) => { $(
    impl From<$from> for Error {
        fn from(e: $from) -> Self { Error::system(e.to_string()) }
    }
)* } }
system_errors!(
    arrow::error::ArrowError,
    parquet::errors::ParquetError,
    candle_core::Error,
    safetensors::SafeTensorError
);

impl From<io::Error> for Error {
    fn from(e: io::Error) -> Self {
        match e.kind() {
            // An error with words of its own keeps them.
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded if e.get_ref().is_none() => {
                Error::system("the disk is full")
                    .help("free some space and give the same command again; what was committed is intact")
            }
            _ => Error::system(e.to_string()),
        }
    }
}

/// Says what was being done when a result failed.
pub trait ErrorContext<T> {
    /// Prefixes the error's message; `what` is only built on failure.
    fn doing<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T>;
    /// As [`ErrorContext::doing`], and blames the user's file or data.
    fn user<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T>;
}
impl<T, E: Into<Error>> ErrorContext<T> for std::result::Result<T, E> {
    fn doing<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|e| e.into().doing(what()))
    }
    fn user<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|e| Error { kind: ErrorKind::User, ..e.into() }.doing(what()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_is_called_that_wherever_it_is_met() {
        let full = || -> Result<()> { Ok(std::fs::write("/dev/full", "x")?) };
        let error = full().doing(|| "model.safetensors").unwrap_err();
        assert_eq!(error.to_string(), "model.safetensors: the disk is full");
        assert!(error.help_text().unwrap().contains("free some space"));
    }
}
