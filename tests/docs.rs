//! The docs say what the program does: every command that they print runs as printed, in the order of the pages, in a
//! folder that has the repository's pipelines and datasets and nothing else; and the reference is the program's own.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::copy;

/// Pages with commands, in the order in which they are typed.
const PAGES: [&str; 5] = ["README.md", "docs/watching.md", "docs/evaluation.md", "docs/revise.md", "docs/cost.md"];

/// Commands that this test leaves to others, and to whom. Each must stand in a page, so that the list cannot go stale.
const ELSEWHERE: [(&str, &str); 9] = [
    ("cargo test", "this is it"),
    ("cargo run -- run pipelines/listworld-study.toml", "40 minutes; `tests/pipelines.rs` runs a small one"),
    ("cargo run -- run pipelines/smollm2.toml", "needs SmolLM2; `tests/smollm2.rs` runs the pipeline"),
    ("pipelines/get-smollm2.sh models", "downloads; `.ci/run` runs it"),
    ("reflux export runs/smollm2/models/M2 m2.gguf", "needs the run of SmolLM2; `tests/export.rs` exports"),
    ("reflux bench generate", "a measurement"),
    ("reflux bench dpo", "a measurement"),
    ("alpaca_eval --model_outputs", "another program"),
    ("duckdb -c", "another program"),
];

/// A command as a page prints it.
struct Printed {
    page: &'static str,
    line: usize,
    text: String,
}

/// The commands of a page: lines of an indented block that start with a program's name, with or without `$`, and what
/// continues them (a trailing `\` or `|`).
fn printed(page: &'static str) -> Vec<Printed> {
    let text = std::fs::read_to_string(root().join(page)).unwrap();
    let mut lines = text.lines().enumerate();
    let mut out = Vec::new();
    while let Some((number, line)) = lines.next() {
        let Some(block) = line.strip_prefix("    ") else { continue };
        let command = block.strip_prefix("$ ").unwrap_or(block);
        let programs = ["reflux ", "cargo ", "printf ", "duckdb ", "alpaca_eval ", "pipelines/get-smollm2.sh "];
        if !programs.iter().any(|p| command.starts_with(p)) {
            continue;
        }
        let mut text = command.to_owned();
        while text.ends_with('\\') || text.ends_with('|') {
            let (_, next) = lines.next().expect("a command that goes on has a next line");
            text = format!("{}{}", text.trim_end_matches('\\'), next.trim_start());
        }
        out.push(Printed { page, line: number + 1, text });
    }
    out
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Runs a shell command in a folder, with this build as `reflux`, and returns what it printed; panics if it failed.
fn shell(dir: &Path, command: &str) -> String {
    let program = Path::new(env!("CARGO_BIN_EXE_reflux")).parent().unwrap().to_owned();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap_or_default());
    let mut bash = Command::new("bash");
    bash.args(["-c", &format!("set -o pipefail; {command}")]).current_dir(dir);
    let done = bash.env("PATH", path).env("NO_COLOR", "1").env("COLUMNS", "150").output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    // Two runs that differ are what the pages compare.
    let expected = i32::from(command.starts_with("reflux diff"));
    assert_eq!(done.status.code(), Some(expected), "`{command}` failed\n{out}\n{err}");
    out.into_owned()
}

/// What the pages take for the reader's own: prompts, pairs, a pipeline, models, corrections. Needs the quickstart's run.
fn readers_files(dir: &Path) {
    let write = |name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap();
    write("held-out.jsonl", "{\"prompt\": \"list three animals\"}\n{\"prompt\": \"list two colours\"}\n");
    write("alpaca_eval.json", "[{\"instruction\": \"list three animals\", \"dataset\": \"mine\"}]");
    std::fs::create_dir_all(dir.join("LLMBar/Natural")).unwrap();
    let judged = "[{\"input\": \"list two animals\", \"output_1\": \"cat dog\", \"output_2\": \"red\", \"label\": 1}]";
    write("LLMBar/Natural/dataset.json", judged);
    let goldens = root().join("tests/goldens/alpaca");
    let golden: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(goldens.join("golden.json")).unwrap()).unwrap();
    write("annotations.json", &golden[0]["annotations"].to_string());
    std::fs::copy(goldens.join("gamed.csv"), dir.join("df_gamed.csv")).unwrap();
    write("pairs.jsonl", "{\"prompt\": \"list two animals\", \"chosen\": \"cat dog\", \"rejected\": \"red\"}\n");
    std::fs::copy(dir.join("pipelines/quickstart.toml"), dir.join("my.toml")).unwrap();
    copy(&dir.join("runs/quickstart/models"), &dir.join("models"));
    copy(&dir.join("models/M1"), &dir.join("models/judge"));
    let first = shell(dir, "reflux show quickstart/answers --limit 1 --columns prompt --format json");
    let first: serde_json::Value = serde_json::from_str(first.trim()).unwrap();
    let baseline = serde_json::json!([{ "instruction": first["prompt"], "output": "cat" }]);
    write("baseline.json", &baseline.to_string());
    // Corrections of the first two answers that the run has scored.
    let scores = shell(dir, "reflux show quickstart/scores --limit 2 --columns response_id --format csv | tail -n 2");
    let ids: Vec<&str> = scores.lines().collect();
    assert_eq!(ids.len(), 2, "{scores}");
    let rows = format!(
        "{{\"response_id\": \"{}\", \"score\": 4.5}}\n{{\"response_id\": \"{}\", \"score\": null}}\n",
        ids[0], ids[1]
    );
    write("fix.jsonl", &rows);
}

/// Whether the reader needs something that a test machine may not have.
fn is_of_the_real_model(command: &str) -> bool {
    ["models/SmolLM2", "check pipelines/smollm2.toml", "jq "].iter().any(|part| command.contains(part))
}

#[test]
fn every_printed_command_runs() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    for folder in ["pipelines", "datasets"] {
        copy(&root().join(folder), &dir.join(folder));
    }
    let all: Vec<Printed> = PAGES.into_iter().flat_map(printed).collect();
    for (start, whose) in ELSEWHERE {
        assert!(all.iter().any(|p| p.text.starts_with(start)), "no page prints `{start}` any more ({whose})");
    }
    let mut ran = 0;
    let mut typed = std::collections::HashSet::new();
    for Printed { page, line, text } in &all {
        // A second page may print a command again; a reader types it once.
        let command = text.split(" #").next().unwrap_or(text).trim().to_owned();
        if !typed.insert(command) {
            continue;
        }
        if is_of_the_real_model(text) || ELSEWHERE.iter().any(|(start, _)| text.starts_with(start)) {
            continue;
        }
        println!("{page}:{line}: {text}");
        shell(dir, &text.replace("cargo run -- ", "reflux "));
        ran += 1;
        if ran == 1 {
            // The first command of the README is the quickstart, of which the others are.
            readers_files(dir);
        }
    }
    assert!(ran >= 25, "only {ran} commands were found");
}

#[test]
#[ignore = "needs REFLUX_SMOLLM2, the path of SmolLM2-135M-Instruct.Q4_1.gguf, and jq"]
fn every_printed_command_of_the_real_model_runs() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    let model = std::env::var("REFLUX_SMOLLM2").expect("REFLUX_SMOLLM2 names the model's file");
    std::fs::create_dir(dir.join("models")).unwrap();
    std::fs::copy(&model, dir.join("models/SmolLM2-135M-Instruct.Q4_1.gguf")).unwrap();
    let pair = "{\"prompt\": \"Name a river.\", \"chosen\": \"The Rhine.\", \"rejected\": \"Bread.\"}\n";
    std::fs::write(dir.join("pairs.jsonl"), pair).unwrap();
    copy(&root().join("pipelines"), &dir.join("pipelines"));
    copy(&root().join("datasets"), &dir.join("datasets"));
    shell(dir, "reflux -q run pipelines/quickstart.toml");
    let mut ran = 0;
    for Printed { page, line, text } in PAGES.into_iter().flat_map(printed) {
        if is_of_the_real_model(&text) {
            println!("{page}:{line}: {text}");
            shell(dir, &text.replace("cargo run -- ", "reflux "));
            ran += 1;
        }
    }
    assert!(ran >= 4, "only {ran} commands were found");
}

#[test]
fn the_reference_is_what_the_program_prints() {
    let page = std::fs::read_to_string(root().join("docs/reference.md")).unwrap();
    let printed = shell(&root(), "reflux keys --markdown");
    assert!(page == printed, "docs/reference.md is not up to date: reflux keys --markdown > docs/reference.md");
}
