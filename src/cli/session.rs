//! What every command is given beside its own flags.

use super::progress::Style;

/// The flags that stand before or after any command.
pub struct Session {
    /// Nothing is printed but errors and what was asked for.
    pub quiet: bool,
    /// How progress is shown.
    pub style: Style,
}
