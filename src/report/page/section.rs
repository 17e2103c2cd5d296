//! A part of the page, as its file in `sections/` declares it.

use serde_json::{Value, json};

use super::source::PageSource;
use crate::error::Result;

/// A part of the page.
pub(super) struct Section {
    /// Its name in the snapshot, in the address of its heading, and in its script.
    pub name: &'static str,
    /// Its heading.
    pub title: &'static str,
    /// The script that draws it, which calls `reflux.section(NAME, draw)`.
    pub script: &'static str,
    /// Reads its figures from a run.
    pub read: fn(&PageSource<'_>) -> Result<Content>,
}

/// What a section shows.
pub(super) enum Content {
    /// Figures for its script.
    Shown(Value),
    /// Why the run has nothing to show here, as a sentence.
    Absent(&'static str),
}

impl Content {
    /// The value in the snapshot. An absent section is an object with the key `absent`.
    pub fn into_value(self) -> Value {
        match self {
            Self::Shown(value) => value,
            Self::Absent(why) => json!({ "absent": why }),
        }
    }
}
