//! Ctrl-C and SIGTERM.

use super::terminal;
use crate::cancel::CancelFlag;

/// Installs the Ctrl-C handler: the first Ctrl-C stops the run cleanly, the second ends the process.
pub fn stop_on_interrupt(stop: &CancelFlag) {
    let stop = stop.clone();
    let handler = move || {
        if stop.is_set() {
            std::process::exit(1);
        }
        terminal::line("stopping; press Ctrl-C again to end at once");
        stop.set();
    };
    if let Err(e) = ctrlc::set_handler(handler) {
        tracing::debug!("Ctrl-C is not handled: {e}");
    }
}
