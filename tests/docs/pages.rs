//! Checks that the docs are true of the program. Every command that a page for users prints runs as printed, in the
//! order of the pages, in a folder with nothing but the repository's pipelines and datasets. The reference and the
//! diagram of the concepts are the program's own output. Links, anchors and paths lead somewhere, and
//! `docs/SUMMARY.md` has every page.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::copy;
use reflux::eval::figures::FIGURES;
use reflux::store::{FORMATS, FormatDef};
use regex::Regex;

/// Pages with commands, in the order in which a reader types them.
const PAGES: [&str; 17] = [
    "README.md",
    "docs/quickstart.md",
    "docs/pipelines.md",
    "docs/data-formats.md",
    "docs/evaluation.md",
    "docs/results.md",
    "docs/generate.md",
    "docs/serve.md",
    "docs/servers.md",
    "docs/export.md",
    "docs/report.md",
    "docs/inspecting.md",
    "docs/revise.md",
    "docs/watching.md",
    "docs/cost.md",
    "docs/performance.md",
    "docs/paper.md",
];

/// Pages for developers, whose commands build and test the repository.
const DEVELOPERS: [&str; 4] = ["docs/ARCHITECTURE.md", "docs/GLOSSARY.md", "docs/contributing.md", "docs/decisions/"];

/// Files that the recipes of the contributing guide create.
const CREATED: [&str; 4] = [
    "src/operators/selection/without.rs",
    "src/train/losses/exponential.rs",
    "src/store/import/formats/trivia.rs",
    "src/eval/figures/lines.rs",
];

/// Commands that another test runs, or that no test can run, with the reason. A page must print each of them, so that
/// the list cannot go stale.
const ELSEWHERE: [(&str, &str); 11] = [
    ("cargo test", "this is it"),
    ("cargo run -- run pipelines/listworld-study.toml", "40 minutes; `tests/run/pipelines.rs` runs a small one"),
    ("cargo run -- run pipelines/smollm2.toml", "needs SmolLM2; `tests/run/smollm2.rs` runs the pipeline"),
    ("pipelines/get-smollm2.sh models", "downloads; `.ci/run` runs it"),
    ("reflux export runs/smollm2/models/M2 m2.gguf", "needs the run of SmolLM2; `tests/model/export.rs` exports"),
    ("reflux serve", "runs until it is stopped; `tests/serve/process.rs` starts one"),
    ("reflux check --online", "asks servers; `tests/remote/models.rs` has some"),
    ("reflux bench generate", "a measurement"),
    ("reflux bench dpo", "a measurement"),
    ("alpaca_eval --model_outputs", "another program"),
    ("duckdb -c", "another program"),
];

/// Programs that start a command.
const PROGRAMS: [&str; 7] =
    ["reflux ", "cargo ", "cp ", "printf ", "duckdb ", "alpaca_eval ", "pipelines/get-smollm2.sh "];

/// A command as a page prints it.
struct Printed {
    page: String,
    line: usize,
    text: String,
}

/// The commands of a page: lines of an indented block that start with a program's name, with or without `$`, and their
/// continuations (after a trailing `\` or `|`). Fenced blocks have files and messages, but no commands.
fn printed(page: &str) -> Vec<Printed> {
    let text = read(page);
    let mut lines = text.lines().enumerate();
    let mut fenced = false;
    let mut out = Vec::new();
    while let Some((number, line)) = lines.next() {
        fenced ^= line.starts_with("```");
        let Some(block) = line.strip_prefix("    ").filter(|_| !fenced) else { continue };
        let command = block.strip_prefix("$ ").unwrap_or(block);
        if !PROGRAMS.iter().any(|p| command.starts_with(p)) {
            continue;
        }
        let mut text = command.to_owned();
        while text.ends_with('\\') || text.ends_with('|') {
            let (_, next) = lines.next().expect("a command that goes on has a next line");
            text = format!("{}{}", text.trim_end_matches('\\'), next.trim_start());
        }
        out.push(Printed { page: page.to_owned(), line: number + 1, text });
    }
    out
}

/// The text of a page, by its path in the repository.
fn read(page: &str) -> String {
    std::fs::read_to_string(root().join(page)).unwrap_or_else(|e| panic!("{page}: {e}"))
}

/// All Markdown files in `folder` and below, as paths in the repository.
fn markdown_below(folder: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(root().join(folder)).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{folder}/{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            found.extend(markdown_below(&path));
        } else if path.ends_with(".md") {
            found.insert(path);
        }
    }
    found
}

/// Every page of the docs, and those at the top of the repository.
fn all_pages() -> BTreeSet<String> {
    let mut pages = markdown_below("docs");
    let top = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "datasets/README.md"];
    pages.extend(top.into_iter().filter(|p| root().join(p).exists()).map(String::from));
    pages
}

/// The text of a page without code: fenced and indented blocks, and code spans.
fn prose(text: &str) -> String {
    let mut fenced = false;
    let mut kept = String::new();
    for line in text.lines() {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        if !fence && !fenced && !line.starts_with("    ") {
            kept.push_str(line);
        }
        kept.push('\n');
    }
    Regex::new("`[^`]*`").unwrap().replace_all(&kept, "").into_owned()
}

/// The anchors of a page's headings, as GitHub and mdBook name them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut times: HashMap<String, usize> = HashMap::new();
    let mut fenced = false;
    let mut found = BTreeSet::new();
    for line in text.lines() {
        fenced ^= line.starts_with("```");
        let Some((level, title)) = line.split_once(' ').filter(|_| !fenced) else { continue };
        if level.is_empty() || level.chars().any(|c| c != '#') {
            continue;
        }
        let kept = title.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect::<String>().to_lowercase();
        let before = times.entry(anchor.clone()).or_default();
        found.insert(if *before == 0 { anchor } else { format!("{anchor}-{before}") });
        *before += 1;
    }
    found
}

/// The targets of a page's links, with the relative ones resolved against its folder: a path in the repository, and an
/// anchor if there is one. Links to other sites are left out.
fn links(page: &str, text: &str) -> Vec<(PathBuf, Option<String>)> {
    let link = Regex::new(r"\]\(([^()\s]+)\)").unwrap();
    let mut found = Vec::new();
    for target in link.captures_iter(&prose(text)).map(|c| c[1].to_owned()) {
        if target.contains("://") {
            continue;
        }
        let (path, anchor) = match target.split_once('#') {
            Some((path, anchor)) => (path.to_owned(), Some(anchor.to_owned())),
            None => (target, None),
        };
        let folder = Path::new(page).parent().unwrap();
        let path = if path.is_empty() { PathBuf::from(page) } else { folder.join(path) };
        found.push((path, anchor));
    }
    found
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Runs a shell command in a folder, with this build as `reflux`, and returns its output. Panics if the command failed.
fn shell(dir: &Path, command: &str) -> String {
    let program = Path::new(env!("CARGO_BIN_EXE_reflux")).parent().unwrap().to_owned();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap_or_default());
    let mut bash = Command::new("bash");
    bash.args(["-c", &format!("set -o pipefail; {command}")]).current_dir(dir);
    let done = bash.env("PATH", path).env("NO_COLOR", "1").env("COLUMNS", "150").output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    // The pages compare two runs that differ.
    let expected = i32::from(command.starts_with("reflux diff"));
    assert_eq!(done.status.code(), Some(expected), "`{command}` failed\n{out}\n{err}");
    out.into_owned()
}

/// Writes the files that the pages expect the reader to have: prompts, pairs, models, corrections. Needs the run of
/// the quickstart.
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

/// Whether a command needs something that a test machine may not have.
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
        let out = shell(dir, &text.replace("cargo run -- ", "reflux "));
        // A line break within a line is shown as an escape: each line has to be printed as one.
        assert!(!out.lines().any(|l| l.starts_with("\\n")), "{out}");
        ran += 1;
        if ran == 1 {
            // The first command of the README is the quickstart; the others use its run.
            readers_files(dir);
        }
    }
    assert!(ran >= 40, "only {ran} commands were found");
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

#[test]
fn the_table_of_formats_is_what_the_importer_reads() {
    let row = |format: &&FormatDef| {
        let targets: Vec<String> = format.targets.iter().map(|schema| format!("`{}`", schema.name)).collect();
        let FormatDef { name, recognised_by, reads, .. } = format;
        format!("| `{name}` | {recognised_by} | {} | {reads} |\n", targets.join(", "))
    };
    let rows: String = FORMATS.iter().map(row).collect();
    assert!(read("docs/data-formats.md").contains(&rows), "docs/data-formats.md has other rows than\n{rows}");
}

#[test]
fn the_table_of_figures_is_what_evaluations_have() {
    let rows: String = FIGURES.iter().map(|def| format!("| `{}` | {} | {} |\n", def.name, def.of, def.about)).collect();
    assert!(read("docs/evaluation.md").contains(&rows), "docs/evaluation.md has other rows than\n{rows}");
}

#[test]
fn the_diagram_is_what_the_program_prints() {
    let command = "reflux explain pipelines/quickstart.toml --format mermaid";
    let diagram = format!("```mermaid\n{}\n```", shell(&root(), command).trim_end());
    assert!(read("docs/concepts.md").contains(&diagram), "docs/concepts.md has another diagram than `{command}`");
}

#[test]
fn every_page_that_prints_commands_is_tried() {
    for page in all_pages() {
        let users = page == "README.md" || page.starts_with("docs/");
        if !users || DEVELOPERS.iter().any(|d| page.starts_with(d)) {
            continue;
        }
        let commands = printed(&page);
        let listed = PAGES.contains(&page.as_str());
        assert_eq!(listed, !commands.is_empty(), "PAGES and the commands of {page} disagree");
        // A fence would hide a command from this test.
        for fence in ["```sh", "```bash", "```console"] {
            assert!(!read(&page).contains(fence), "{page}: commands are in indented blocks, not in {fence}");
        }
    }
}

#[test]
fn every_link_leads_to_a_page_and_a_heading() {
    let mut checked = 0;
    for page in all_pages() {
        for (path, anchor) in links(&page, &read(&page)) {
            let shown = path.display().to_string();
            assert!(root().join(&path).exists(), "{page} links to {shown}, which does not exist");
            if let Some(anchor) = anchor {
                assert!(anchors(&read(&shown)).contains(&anchor), "{page}: {shown} has no heading `{anchor}`");
            }
            checked += 1;
        }
    }
    assert!(checked >= 100, "only {checked} links were found");
}

#[test]
fn every_path_in_backticks_exists() {
    let code = Regex::new(r"`((?:src|tests|docs|pipelines|benches|datasets|fuzz)/[a-z0-9_./-]+)`").unwrap();
    let mut checked = 0;
    for page in all_pages() {
        let text = read(&page);
        for path in code.captures_iter(&text).map(|c| c[1].to_owned()) {
            let known = root().join(&path).exists() || CREATED.contains(&path.as_str());
            assert!(known, "{page} names `{path}`, which does not exist");
            checked += 1;
        }
    }
    assert!(checked >= 20, "only {checked} paths were found");
}

/// Whether a test exists that a page names by its binary, file and function (`run::kill::two_do_not_write_one_run`), by
/// less than that (`model::folders`), or as a unit test by its module or file.
fn is_a_test(name: &str) -> bool {
    let parts: Vec<&str> = name.split("::").collect();
    let has = |file: String, test: &str| {
        std::fs::read_to_string(root().join(file)).is_ok_and(|text| text.contains(&format!("fn {test}(")))
    };
    if let Some((file, test)) = name.split_once(".rs::") {
        return has(format!("{file}.rs"), test);
    }
    match &parts[..] {
        [module @ .., "tests", test] => has(format!("src/{}.rs", module.join("/")), test),
        [binary] => root().join(format!("tests/{binary}.rs")).exists(),
        [binary, file] => {
            let alone = [format!("tests/{binary}.rs"), format!("tests/{binary}/main.rs")];
            root().join(format!("tests/{binary}/{file}.rs")).exists() || alone.into_iter().any(|path| has(path, file))
        }
        [binary, file, test] => has(format!("tests/{binary}/{file}.rs"), test),
        _ => false,
    }
}

#[test]
fn every_test_that_a_page_names_exists() {
    // Invariants: `binary::file`: `test`, `test`.
    let held = Regex::new(r"`([a-z0-9_:/.]+)`: (`[a-z0-9_]+`(?:, `[a-z0-9_]+`)*)").unwrap();
    let architecture = read("docs/ARCHITECTURE.md");
    let (_, invariants) = architecture.split_once("\n## Invariants\n").expect("the section has this name");
    let mut names = Vec::new();
    for line in invariants.lines().filter(|l| l.starts_with('|')) {
        for found in held.captures_iter(line) {
            names.extend(found[2].split(", ").map(|test| format!("{}::{}", &found[1], test.trim_matches('`'))));
        }
    }
    assert!(names.len() >= 30, "only {} tests hold invariants", names.len());
    let before = names.len();
    // Deviations: the last column has names, alone or with functions.
    let name = Regex::new("`([a-z0-9_:]+)`").unwrap();
    for line in read("docs/deviations.md").lines().filter(|l| l.starts_with('|')) {
        let column = line.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        names.extend(name.captures_iter(column).map(|c| c[1].to_owned()));
    }
    assert!(names.len() >= before + 15, "only {} tests pin deviations down", names.len() - before);
    let missing: Vec<_> = names.iter().filter(|name| !is_a_test(name)).collect();
    assert!(missing.is_empty(), "tests that do not exist: {missing:?}");
}

#[test]
fn the_summary_has_every_page_once() {
    let listed: Vec<String> = links("docs/SUMMARY.md", &read("docs/SUMMARY.md"))
        .into_iter()
        .map(|(path, _)| path.to_str().unwrap().to_owned())
        .collect();
    let mut pages = markdown_below("docs");
    pages.remove("docs/SUMMARY.md");
    assert_eq!(listed.iter().cloned().collect::<BTreeSet<_>>(), pages, "docs/SUMMARY.md and the folder disagree");
    assert_eq!(listed.len(), pages.len(), "docs/SUMMARY.md has a page twice");
}

#[test]
fn links_and_headings_are_read_as_they_are_shown() {
    let page = "# A `b` c\n\n## Two\n\n## Two\n\n[x](y.md#z) `[no](no.md)` [over\ntwo](../w.md)\n\n    [no](no.md)\n";
    let expected: BTreeSet<String> = ["a-b-c", "two", "two-1"].into_iter().map(String::from).collect();
    assert_eq!(anchors(page), expected);
    let targets = links("docs/p.md", page);
    assert_eq!(targets, [("docs/y.md".into(), Some("z".to_owned())), ("docs/../w.md".into(), None)]);
}
