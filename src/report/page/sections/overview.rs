//! The loop by iteration: the table that the run printed.

use serde_json::json;

use crate::error::Result;
use crate::report::page::section::{Content, Section};
use crate::report::page::source::PageSource;

pub(super) static OVERVIEW: Section =
    Section { name: "overview", title: "The loop", script: include_str!("overview.js"), read };

fn read(source: &PageSource<'_>) -> Result<Content> {
    let table = &source.summary["table"];
    if table.as_array().is_none_or(Vec::is_empty) {
        return Ok(Content::Absent("This pipeline has no loop, so there are no iterations to compare."));
    }
    Ok(Content::Shown(json!({ "table": table, "loop": source.summary["loop"], "seconds": source.summary["seconds"] })))
}
