//! The funnel: rows that each step of the loop kept, and those that it left out, with the reasons.

use serde_json::json;

use crate::error::Result;
use crate::report::page::section::{Content, Section};
use crate::report::page::source::PageSource;

pub(super) static FUNNEL: Section =
    Section { name: "funnel", title: "Funnel", script: include_str!("funnel.js"), read };

fn read(source: &PageSource<'_>) -> Result<Content> {
    if source.run.entries().is_empty() {
        return Ok(Content::Absent("Nothing is committed yet."));
    }
    let trained: Vec<_> = source
        .run
        .metrics()
        .iter()
        .map(|m| json!({ "step": m.step, "iteration": m.iteration, "optimizer_steps": m.rows }))
        .collect();
    Ok(Content::Shown(json!({
        "left_out": source.summary["left_out"], "unused": source.summary["unused"], "trained": trained,
    })))
}
