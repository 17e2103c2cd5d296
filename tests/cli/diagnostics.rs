//! What `reflux check` prints for each kind of problem, compared with the `.stderr` beside each case.
//!
//! `BLESS=1 cargo test --test cli diagnostics::` writes them anew. Lines `# --set KEY=VALUE` of a case become options, and so does `# --no-data`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn each_diagnostic_looks_as_it_did() {
    // From the crate's directory with relative paths, so that the output is the same everywhere.
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = Path::new("tests/diagnostics");
    let bless = std::env::var_os("BLESS").is_some();
    let mut cases: Vec<_> = fs::read_dir(root.join(folder)).unwrap().map(|e| e.unwrap().file_name()).collect();
    cases.sort();
    let mut codes = BTreeSet::new();
    let mut wrong = Vec::new();
    for case in cases.iter().filter_map(|c| c.to_str()?.strip_suffix(".toml")) {
        let file = folder.join(format!("{case}.toml"));
        let text = String::from_utf8_lossy(&fs::read(root.join(&file)).unwrap()).into_owned();
        let mut command = Command::new(env!("CARGO_BIN_EXE_reflux"));
        command.current_dir(root).env("NO_COLOR", "1").arg("check").arg(&file);
        for set in text.lines().filter_map(|l| l.strip_prefix("# --set ")) {
            // One argument: a value may start with a hyphen.
            command.arg(format!("--set={set}"));
        }
        if text.lines().any(|l| l == "# --no-data") {
            command.arg("--no-data");
        }
        let output = command.output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        let code = &case[..5];
        codes.insert(code.to_owned());
        let exit = if code.starts_with('W') { 0 } else { 2 };
        assert_eq!(output.status.code(), Some(exit), "{case} should exit with {exit}:\n{stderr}");
        assert!(stderr.contains(&case.replacen('-', " ", 1)), "{case} does not give its code:\n{stderr}");
        let expected = root.join(folder).join(format!("{case}.stderr"));
        if bless {
            fs::write(&expected, &stderr).unwrap();
        } else if fs::read_to_string(&expected).unwrap_or_default() != stderr {
            wrong.push(format!("{case} now prints:\n{stderr}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{}\nIf this is as it should be: BLESS=1 cargo test --test cli diagnostics::",
        wrong.join("\n")
    );
    // No file makes the system refuse a thread: tests/limits/system.rs does, and looks for the code.
    codes.insert("E0003".into());
    let all: BTreeSet<String> = reflux::pipeline::codes::ALL.iter().map(|c| c.id.to_owned()).collect();
    assert_eq!(codes, all, "every code has a case");
}

/// What a run keeps as its pipeline file is read again as the same plan, by whoever replays, traces or repairs it.
#[test]
fn every_shipped_pipeline_resolves_to_a_file_that_reads_the_same() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seen = 0;
    for entry in std::fs::read_dir(root.join("pipelines")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "toml") {
            continue;
        }
        let load = |path: &std::path::Path| {
            reflux::pipeline::load_without_data(path, &[], reflux::operators::ALL)
                .unwrap_or_else(|d| panic!("{}: {}", path.display(), d.render(false)))
        };
        let plan = load(&path);
        let temp = tempfile::tempdir().unwrap();
        let kept = temp.path().join("pipeline.toml");
        std::fs::write(&kept, &plan.resolved).unwrap();
        assert_eq!(load(&kept).resolved, plan.resolved, "{}", path.display());
        seen += 1;
    }
    assert!(seen > 5);
}
