//! The house: imports point down, and only `dataflow` knows timely and differential.
//!
//! A binary of its own: it reads the sources and links nothing of reflux, so it is built in a moment.

mod imports;
mod names;

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

/// What each folder may import of the crate, besides itself, `cancel`, `error` and `threads`.
const MAY: &[(&str, &[&str])] = &[
    ("data", &[]),
    ("jinja", &[]),
    ("store", &["data"]),
    ("pipeline", &["store", "data", "jinja"]),
    ("dataflow", &["pipeline", "store", "data"]),
    ("model", &["data", "jinja"]),
    ("engine", &["model", "data", "jinja"]),
    ("train", &["model", "data"]),
    ("eval", &["model", "data"]),
    ("operators", &["dataflow", "pipeline", "store", "data", "engine", "train", "eval", "model", "jinja"]),
    ("report", &["dataflow", "pipeline", "store", "data", "eval", "model"]),
    ("bench", &["data", "engine", "train", "model"]),
    ("serve", &["data", "engine"]),
    (
        "runner",
        &["report", "operators", "dataflow", "pipeline", "store", "data", "engine", "train", "eval", "model", "jinja"],
    ),
    (
        "cli",
        &[
            "bench",
            "serve",
            "runner",
            "report",
            "operators",
            "dataflow",
            "pipeline",
            "store",
            "data",
            "engine",
            "train",
            "eval",
            "model",
            "jinja",
        ],
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
            let allowed = target == folder
                || ["cancel", "error", "threads"].contains(&target.as_str())
                || may.contains(&target.as_str());
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

/// Files that import each other can only be read together; so can folders. A `mod.rs` may re-export what is below it.
#[test]
fn nothing_is_imported_in_a_circle() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let imports = imports::Imports::read(&root, &files);
    let arrows: usize = imports.arrows.values().map(|to| to.len()).sum();
    assert!(arrows > 1500, "only {arrows} imports were found");
    let circles = imports.circles(|file| Some(file.clone()));
    assert!(circles.is_empty(), "files import each other in a circle: {circles:?}");
    // Of each room its files and folders.
    for (room, _) in MAY {
        let circles = imports.circles(|file| (file.len() > 1 && file[0] == *room).then(|| file[..2].to_vec()));
        assert!(circles.is_empty(), "parts of src/{room} import each other in a circle: {circles:?}");
    }
}

/// Places with an asynchronous runtime of their own: docs/decisions/006-async-at-the-network.md.
const ASYNC: [&str; 2] = ["serve", "engine/remote"];

#[test]
fn only_servers_and_their_clients_are_asynchronous() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut found = 0;
    for path in files {
        let name = path.strip_prefix(&root).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let named = ["tokio::", "axum::", "async "].into_iter().find(|word| code_has(&text, word));
        let allowed = ASYNC.iter().any(|place| name.starts_with(place));
        assert!(allowed || named.is_none(), "{} has `{}`", name.display(), named.unwrap_or_default());
        found += usize::from(named.is_some());
    }
    assert!(found > 0, "no file was found that is asynchronous");
}

/// Whether a file has a word outside comments.
fn code_has(text: &str, word: &str) -> bool {
    text.lines().any(|line| line.split("//").next().unwrap_or(line).contains(word))
}

/// `1 row`, `2 rows`: numbers that are printed have their nouns from `counted`.
#[test]
fn numbers_agree_with_their_nouns() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root.join("cli"), &mut files);
    sources(&root.join("report"), &mut files);
    let nouns =
        "rows|answers|microbatches|steps|pairs|runs|prompts|files|models|judgements|tensors|outputs|iterations|scores";
    let bare = regex::Regex::new(&format!(r"\{{[^{{}}]*\}} ({nouns})\b[^/]")).unwrap();
    let mut seen = 0;
    for path in files.iter().filter(|path| !path.ends_with("tests.rs")) {
        let text = std::fs::read_to_string(path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap_or(&text);
        for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
            let found = bare.find(line).filter(|_| line.contains('"'));
            assert!(found.is_none(), "{}: use `counted` in: {}", path.display(), line.trim());
        }
        seen += 1;
    }
    assert!(seen > 40, "only {seen} files were looked at");
}

/// What files and models say reaches a terminal only through `cli::terminal`, which shows what would steer it.
#[test]
fn only_the_terminal_prints() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let prints = ["print!", "println!", "dbg!(", "stdout()", "stderr()", "Stdout", "Stderr", "indicatif::", "/dev/tty"];
    let logs = ["tracing_subscriber::", "Cli::parse()", ".exit()"];
    let mut seen = 0;
    for path in files {
        let name = path.strip_prefix(&root).unwrap();
        // Tests come last in a file, or in one of their own, and may print.
        if name.starts_with("cli/terminal") || path.ends_with("tests.rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap_or(&text);
        for call in prints.iter().chain(&logs) {
            assert!(!code.contains(call), "{} has `{call}`: print with `cli::terminal`", name.display());
        }
        seen += 1;
    }
    assert!(seen > 100, "only {seen} files were looked at");
}

/// Requests leave the process in one place, which knows nothing of what they ask for.
#[test]
fn only_the_transport_speaks_to_servers() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut seen = 0;
    for path in files {
        let name = path.strip_prefix(&root).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        if !name.starts_with("engine/remote/transport") {
            assert!(!text.contains("reqwest::"), "{} names reqwest: send with `Transport`", name.display());
            continue;
        }
        for (at, _) in text.match_indices("use crate::") {
            let target = &text[at + "use crate::".len()..];
            let may = ["cancel::", "error::", "threads;", "data::one_line", "data::address_problem"]
                .iter()
                .any(|path| target.starts_with(path));
            assert!(may, "{} imports {}", name.display(), target.lines().next().unwrap());
            seen += 1;
        }
        assert!(!text.contains("super::super::super"), "{} reaches out of its room", name.display());
    }
    assert!(seen > 5, "only {seen} imports were looked at");
}

/// Files of `src/dataflow` whose code runs on compute threads, or without a running dataflow. All others are a worker's.
const COMPUTES: &[&str] = &[
    "advice.rs",
    "context.rs",
    "decision_inputs.rs",
    "groups.rs",
    "health.rs",
    "jobs.rs",
    "items.rs",
    "join.rs",
    "joined.rs",
    "operator.rs",
    "replay.rs",
    "revision/recompute.rs",
    "revision/changes.rs",
    "revision/lineage.rs",
    "revision/mod.rs",
    "revision/incremental.rs",
    "revision/record.rs",
    "revision/inputs.rs",
    "revision/view.rs",
];

/// Calls that wait for somebody else, read or write files, or run an operator.
const WAITS: &[&str] = &[
    "thread::sleep",
    "park",
    "Condvar",
    "Barrier",
    ".wait(",
    ".recv()",
    "recv_timeout",
    ".send(",
    ".lock()",
    ".read()",
    ".write()",
    ".join()",
    "fs::",
    "File::",
    ".load(",
    ".commit(",
    ".map(cx",
    ".items(",
    ".finish(",
    ".reduce(",
];

/// Such calls that a worker's file may have: how many, and why none of them makes a worker wait.
const ALLOWED: &[(&str, &str, usize, &str)] = &[
    ("cluster.rs", "park", 1, "step_or_park: there is nothing to do until somebody wakes it"),
    (
        "cluster.rs",
        ".join()",
        2,
        "the caller of `run`, and no worker, waits for the workers and then for the compute threads",
    ),
    (
        "compute.rs",
        ".lock()",
        6,
        "the list of threads, the table of queues and the first failure; held for a push or a take, or while threads are started",
    ),
    ("compute.rs", ".join()", 1, "called when all workers have ended"),
    ("compute.rs", ".send(", 2, "into unbounded channels: a job, and on a compute thread its answer"),
    ("flow.rs", ".send(", 1, "a number into an unbounded channel"),
    ("flow.rs", ".items(", 1, "StepJobs::items makes a job and does not run it"),
    ("flow.rs", ".finish(", 1, "StepJobs::finish makes a job and does not run it"),
    (
        "flow.rs",
        ".reduce(",
        1,
        "the reduce of ids and integers of `dedup`, which takes the first of a group and sees no text",
    ),
];

#[test]
fn workers_never_block() {
    // A worker that sleeps, waits at a channel or a lock, or computes, stalls progress for everybody.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/dataflow");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let name = |path: &PathBuf| path.strip_prefix(&root).unwrap().display().to_string();
    let gone: Vec<_> = COMPUTES.iter().filter(|c| !files.iter().any(|f| name(f) == **c)).collect();
    assert!(gone.is_empty(), "no files of src/dataflow: {gone:?}");
    let mut worker_files = 0;
    for path in files.iter().filter(|f| !COMPUTES.contains(&name(f).as_str())) {
        let text = std::fs::read_to_string(path).unwrap();
        // Words in comments wait for nobody.
        let code: String =
            text.lines().filter(|l| !l.trim_start().starts_with("//")).map(|l| l.to_owned() + "\n").collect();
        for call in WAITS {
            let allowed = ALLOWED.iter().find(|(file, word, ..)| *file == name(path) && word == call);
            let most = allowed.map_or(0, |(_, _, most, _)| *most);
            let found = code.matches(call).count();
            assert!(
                found == most,
                "{} has {found} times `{call}`, and {most} are known to wait for nobody",
                path.display()
            );
        }
        worker_files += 1;
    }
    assert!(worker_files >= 7, "only {worker_files} files were looked at");
}

/// An operator reads files outside of the run through `External`, which records them in the run's manifest.
#[test]
fn operators_open_no_files_of_their_own() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root.join("operators"), &mut files);
    sources(&root.join("dataflow"), &mut files);
    let opens = ["File::open", "fs::read", "read_to_string(", "Lines::open", "Dataset::open", "outside_of_runs"];
    // Each with the reason for which it may.
    let may = [
        // Takes paths that `External::open` has given, or checks a file while the pipeline file is read.
        ("operators/sources/read.rs", "Dataset::open"),
        // The commit that the hub's own cache names for a branch; the model's files are recorded when they are opened.
        ("operators/shared/hub.rs", "fs::read"),
        ("operators/shared/hub.rs", "read_to_string("),
        // A template for commands that make no run.
        ("operators/shared/template.rs", "Lines::open"),
        // A path that `External::open` has given.
        ("operators/shared/models.rs", "Lines::open"),
        // Finds what a program outside has started, and the history that it left in the run's scratch folder.
        ("operators/shared/subprocess.rs", "fs::read"),
        ("operators/training/reported.rs", "fs::read"),
        // Looks at the names and sizes of what a trainer was given and left.
        ("operators/training/watch.rs", "fs::read"),
        // Checks of `reflux check`, which make no rows.
        ("operators/shared/preflight.rs", "outside_of_runs"),
        ("operators/shared/servers.rs", "outside_of_runs"),
    ];
    let mut seen = 0;
    for path in files {
        let name = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        // Tests come last in a file, or in one of their own, and may read what they like.
        if path.ends_with("tests.rs") {
            continue;
        }
        let code = text.split("#[cfg(test)]").next().unwrap_or(&text);
        seen += 1;
        for call in opens.iter().filter(|call| code.contains(**call)) {
            let allowed = may.iter().any(|(file, what)| name == *file && call == what) || name.contains("revision");
            assert!(allowed, "{name} calls {call}: ask for the path with `Fields` and open it with `External::open`");
        }
    }
    assert!(seen > 30, "only {seen} files were looked at");
}

/// A file that no `main.rs` names is not compiled, so its tests would pass without running.
#[test]
fn every_test_file_belongs_to_a_binary() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut checked = 0;
    for folder in std::fs::read_dir(&root).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir()) {
        let mut files = Vec::new();
        sources(&folder, &mut files);
        // Other binaries name a folder with `mod.rs` by its path.
        if files.is_empty() || folder.join("mod.rs").exists() {
            continue;
        }
        let main = folder.join("main.rs");
        let text = std::fs::read_to_string(&main).unwrap_or_else(|e| panic!("{}: {e}", main.display()));
        for file in files.iter().filter(|file| **file != main) {
            let line = format!("mod {};", file.file_stem().unwrap().to_str().unwrap());
            assert!(text.lines().any(|l| l == line), "{} lacks `{line}`", main.display());
            checked += 1;
        }
    }
    assert!(checked > 50, "only {checked} files were looked at");
}
