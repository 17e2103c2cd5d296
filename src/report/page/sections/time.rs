//! How time and tokens were spent: the span of every step, and the counters of the engines.

use serde_json::json;

use crate::error::Result;
use crate::report::page::section::{Content, Section};
use crate::report::page::source::PageSource;

pub(super) static TIME: Section =
    Section { name: "time", title: "Time and tokens", script: include_str!("time.js"), read };

fn read(source: &PageSource<'_>) -> Result<Content> {
    let engines = source.listed("engines");
    let timed = source.listed("steps").iter().any(|step| step["began_seconds"].is_number());
    if engines.is_empty() && !timed {
        return Ok(Content::Absent("Times are known when a run has finished; this one has not written its summary."));
    }
    Ok(Content::Shown(json!({ "engines": engines, "seconds": source.summary["seconds"], "timed": timed })))
}
