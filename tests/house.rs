//! The house: imports point down, and only `dataflow` knows timely and differential.

use std::path::{Path, PathBuf};

fn sources(dir: &Path, all: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, all);
        } else if path.extension().is_some_and(|e| e == "rs") {
            all.push(path);
        }
    }
}

/// What each folder may import of the crate, besides itself and `error`.
const MAY: &[(&str, &[&str])] = &[
    ("data", &[]),
    ("store", &["data"]),
    ("pipeline", &["store", "data"]),
    ("dataflow", &["pipeline", "store", "data"]),
    ("model", &["data"]),
    ("engine", &["model", "data"]),
    ("train", &["model", "data"]),
    ("eval", &["model", "data"]),
    ("operators", &["dataflow", "pipeline", "store", "data", "engine", "train", "eval", "model"]),
    ("report", &["dataflow", "pipeline", "store", "data", "eval", "model"]),
    ("bench", &["data", "engine", "train", "model"]),
    (
        "cli",
        &["bench", "report", "operators", "dataflow", "pipeline", "store", "data", "engine", "train", "eval", "model"],
    ),
];

#[test]
fn imports_point_down() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut seen = 0;
    for path in files {
        let name = path.strip_prefix(&root).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let Some(folder) = name.parent().and_then(|p| p.iter().next()).and_then(|f| f.to_str()) else { continue };
        let may = MAY.iter().find(|(f, _)| *f == folder).unwrap_or_else(|| panic!("folder `{folder}` has no rule")).1;
        for (at, _) in text.match_indices("crate::") {
            // `$crate::` and other crates' paths end in `crate::` too.
            if text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
                continue;
            }
            let target: String = text[at + 7..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            seen += 1;
            let allowed = target == folder || target == "error" || may.contains(&target.as_str());
            assert!(allowed, "{} imports crate::{target}; {folder} may import {may:?}", name.display());
        }
        if folder != "dataflow" {
            for foreign in ["timely::", "differential_dataflow::"] {
                assert!(!text.contains(foreign), "{} names {foreign}", name.display());
            }
        }
    }
    assert!(seen > 100, "only {seen} imports were looked at");
}

#[test]
fn workers_never_block() {
    // A worker that sleeps, or waits at a channel, stalls progress for everybody.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/dataflow");
    let mut files = Vec::new();
    sources(&root, &mut files);
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        for call in ["thread::sleep", ".recv()", "recv_timeout", "Condvar"] {
            assert!(!text.contains(call), "{} calls {call}", path.display());
        }
    }
}
