//! The dataflow as a drawing. Its steps, edges and counts are those of the whole snapshot.

use serde_json::json;

use crate::error::Result;
use crate::report::page::section::{Content, Section};
use crate::report::page::source::PageSource;

pub(super) static FLOW: Section = Section { name: "flow", title: "Dataflow", script: include_str!("flow.js"), read };

fn read(source: &PageSource<'_>) -> Result<Content> {
    let next = source.plan.loop_.as_ref().map(|l| json!({ "policy": l.policy.to_string(), "next": l.next }));
    Ok(Content::Shown(json!({ "loop": next })))
}
