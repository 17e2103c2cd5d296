//! Whether messages have colours.

use std::io::{self, IsTerminal};
use std::sync::OnceLock;

/// What was decided about colours.
static COLOUR: OnceLock<bool> = OnceLock::new();

/// Decides about the colours of messages and help; `None` leaves it to the terminal and `NO_COLOR`. The first decision of a
/// process stays.
pub fn set_colour(wanted: Option<bool>) {
    if let Some(wanted) = wanted {
        let _first_stays = COLOUR.set(wanted);
    }
}

/// Whether text for this stream has colours: as was decided, or else on a terminal where `NO_COLOR` is not set.
pub(super) fn colour_for(stream: &impl IsTerminal) -> bool {
    let plain = || std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    COLOUR.get().copied().unwrap_or_else(|| stream.is_terminal() && !plain())
}

/// Whether messages on standard error have colours.
pub fn colour_wanted() -> bool {
    colour_for(&io::stderr())
}
