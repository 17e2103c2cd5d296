//! Lineage: what the run was made from and what it made, with hashes.

use serde_json::{Value, json};

use crate::error::Result;
use crate::report::page::limits::{FILE, INPUTS, cut};
use crate::report::page::section::{Content, Section};
use crate::report::page::source::PageSource;

pub(super) static LINEAGE: Section =
    Section { name: "lineage", title: "Lineage", script: include_str!("lineage.js"), read };

fn read(source: &PageSource<'_>) -> Result<Content> {
    let run = source.run;
    let inputs = run.inputs();
    let listed: Vec<Value> = inputs
        .iter()
        .take(INPUTS)
        .map(|i| {
            json!({
                "of": format!("{}.{}", i.table, i.key), "path": i.path, "hash": i.hash, "revision": i.revision,
                "files": i.files.len(), "bytes": i.files.values().map(|f| f.bytes).sum::<u64>(),
            })
        })
        .collect();
    let models: Vec<Value> = run
        .models()
        .iter()
        .map(|m| {
            json!({
                "name": m.name, "step": m.step, "iteration": m.iteration, "hash": m.hash, "path": m.path,
                "bytes": m.files.values().map(|f| f.bytes).sum::<u64>(),
            })
        })
        .collect();
    let taken = run.taken().map(|t| json!({ "run": t.run, "from": t.from, "entries": t.entries }));
    Ok(Content::Shown(json!({
        "pipeline": run.pipeline(), "pipeline_file": cut(&run.pipeline_text()?, FILE), "inputs": listed,
        "inputs_left_out": inputs.len().saturating_sub(INPUTS), "models": models, "taken": taken,
        "machine": source.summary["machine"], "from_servers": source.summary["from_servers"],
        "made_by": run.made_by(),
    })))
}
