//! The gates of `[health]` with their values and bounds.

use serde_json::{Value, json};

use crate::error::Result;
use crate::pipeline::GATES;
use crate::report::page::section::{Content, Section};
use crate::report::page::source::PageSource;

pub(super) static HEALTH: Section =
    Section { name: "health", title: "Health", script: include_str!("health.js"), read };

fn read(source: &PageSource<'_>) -> Result<Content> {
    let values = source.listed("health");
    if values.is_empty() {
        return Ok(Content::Absent("Nothing was measured: no training or judging step has finished."));
    }
    let gates: Vec<Value> = GATES
        .iter()
        .map(|g| json!({ "name": g.name, "about": g.about, "low_is_bad": g.low_is_bad, "advice": g.advice }))
        .collect();
    Ok(Content::Shown(json!({ "gates": gates, "values": values })))
}
