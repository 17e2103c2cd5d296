//! The global options, which every command receives in addition to its own flags.

use super::progress::Style;

/// The global options of the command line.
pub struct Session {
    /// Prints only errors and the requested output.
    pub quiet: bool,
    /// How progress is shown.
    pub style: Style,
}
