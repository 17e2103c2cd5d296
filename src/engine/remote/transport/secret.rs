//! A key that is sent to a server and shown nowhere.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

const HIDDEN: &str = "***";

/// A secret text. `Debug` and `Display` print `***`.
///
/// ```
/// let key = reflux::engine::remote::transport::Secret::new("sk-123");
/// assert_eq!(format!("{key} {key:?}"), "*** ***");
/// assert_eq!(key.scrub("invalid key sk-123"), "invalid key ***");
/// ```
#[derive(Clone)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Keeps a text secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into().into())
    }

    /// The text itself, for the request's header alone.
    pub(super) fn expose(&self) -> &str {
        &self.0
    }

    /// The same text with `***` for every occurrence of the secret.
    pub fn scrub<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if self.0.is_empty() || !text.contains(&*self.0) {
            return Cow::Borrowed(text);
        }
        Cow::Owned(text.replace(&*self.0, HIDDEN))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}
