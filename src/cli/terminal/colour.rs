//! Decides whether messages have colours.

use std::io::{self, IsTerminal};
use std::sync::OnceLock;

/// The decision about colours, once made.
static COLOUR: OnceLock<bool> = OnceLock::new();

/// Sets whether messages and help have colours; `None` leaves it to the terminal and `NO_COLOR`. Only the
/// first call in a process has an effect.
pub fn set_colour(wanted: Option<bool>) {
    if let Some(wanted) = wanted {
        let _first_stays = COLOUR.set(wanted);
    }
}

/// Whether text for this stream has colours: as set, otherwise if it is a terminal and `NO_COLOR` is not
/// set.
pub(super) fn colour_for(stream: &impl IsTerminal) -> bool {
    let plain = || std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    COLOUR.get().copied().unwrap_or_else(|| stream.is_terminal() && !plain())
}

/// Whether messages on standard error have colours.
pub fn colour_wanted() -> bool {
    colour_for(&io::stderr())
}
