//! Prints log lines in the form of all other messages.

use std::fmt::{Debug, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry};

use super::{MessageKind, message, warning};

/// Enables log lines from the level that the flags request, or as the variable `REFLUX_LOG` specifies.
pub fn set_up(quiet: bool, verbose: u8) {
    let default = match (quiet, verbose) {
        (true, _) => "error",
        (_, 0) => "warn",
        (_, 1) => "reflux=info",
        _ => "reflux=debug",
    };
    let said = std::env::var_os("REFLUX_LOG").map(|_| EnvFilter::try_from_env("REFLUX_LOG"));
    if let Some(Err(e)) = &said {
        warning(&format!("REFLUX_LOG is invalid: {e}; using `{default}`"));
    }
    let filter = said.and_then(Result::ok).unwrap_or_else(|| EnvFilter::new(default));
    // If a process sets up a second subscriber (as tests do), the first remains.
    let _kept = Registry::default().with(filter).with(LogMessages).try_init();
}

/// A layer that prints each log line as a message.
struct LogMessages;

impl<S: Subscriber> Layer<S> for LogMessages {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let label = match *event.metadata().level() {
            Level::ERROR => MessageKind::Error,
            Level::WARN => MessageKind::Warning,
            Level::INFO => MessageKind::Note,
            Level::DEBUG | Level::TRACE => MessageKind::Debug,
        };
        let mut words = Words::default();
        event.record(&mut words);
        message(label, &(words.text + &words.fields), None);
    }
}

/// The text of a log line, and its fields.
#[derive(Default)]
struct Words {
    text: String,
    fields: String,
}

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a String cannot fail. The `log` crate adds fields about the origin of a line, which
        // are skipped.
        let _ = match field.name() {
            "message" => write!(self.text, "{value:?}"),
            name if name.starts_with("log.") => Ok(()),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
