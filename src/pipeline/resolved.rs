//! Writes the pipeline file with all overrides and defaults, in plan order.

use std::fmt::Write as _;

use super::sections::{File, Values};
use super::syntax::tree;

/// Returns TOML that parses to the same plan, and to this very text again.
pub(super) fn text<O: ?Sized>(file: &File<O>, order: &[usize]) -> String {
    let mut out = String::new();
    table(&mut out, "pipeline", &file.header.values);
    table(&mut out, "engine", &file.engine_values);
    table(&mut out, "health", &file.health_values);
    for server in &file.servers {
        table(&mut out, &format!("server.{}", tree::key(&server.program.name)), &server.values);
    }
    for model in &file.models {
        table(&mut out, &format!("model.{}", tree::key(&model.source.name)), &model.values);
    }
    if let Some(loop_) = &file.loop_ {
        table(&mut out, "loop", &loop_.values);
    }
    for step in order.iter().filter_map(|&i| file.steps.get(i)) {
        table(&mut out, &format!("step.{}", tree::key(&step.name)), &step.values);
    }
    out
}

fn table(out: &mut String, name: &str, values: &Values) {
    let gap = if out.is_empty() { "" } else { "\n" };
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{gap}[{name}]");
    for (key, literal) in values {
        let _ = writeln!(out, "{} = {literal}", tree::key(key));
    }
}
