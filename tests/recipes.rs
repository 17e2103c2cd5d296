//! What CONTRIBUTING.md says about adding things is true: the code of its recipes goes into a copy of the crate, which
//! is then built and tested.
//!
//! A binary of its own: it is ignored and run by hand, while `.ci/run` runs the ignored tests of other binaries.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::copy;

const FOLDERS: [&str; 7] = [".cargo", "benches", "datasets", "docs", "pipelines", "src", "tests"];

/// The blocks of Rust below a heading of the recipes, without the indent of the list that they stand in.
fn blocks(page: &str, heading: &str) -> Vec<String> {
    let (_, recipe) = page.split_once(&format!("\n### {heading}\n")).expect("the recipe is there");
    let recipe = recipe.split("\n### ").next().unwrap();
    let mut blocks = Vec::new();
    let mut lines = recipe.lines();
    while let Some(line) = lines.next() {
        let Some(indent) = line.find("```rust") else { continue };
        let code = lines.by_ref().take_while(|line| line.trim() != "```");
        blocks.push(code.map(|line| format!("{}\n", line.get(indent..).unwrap_or_default())).collect());
    }
    blocks
}

/// Adds text to a file, before the first line that begins with `before` or at the end.
fn add(file: &Path, before: &str, text: &str) {
    let old = std::fs::read_to_string(file).unwrap();
    let at = old.find(before).unwrap_or_else(|| panic!("`{before}` is not in {}", file.display()));
    let at = if before.is_empty() { old.len() } else { at };
    std::fs::write(file, format!("{}{text}{}", &old[..at], &old[at..])).unwrap();
}

#[test]
#[ignore = "builds the crate once more, which takes minutes"]
fn the_code_of_the_recipes_builds_and_passes_the_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("CONTRIBUTING.md")).unwrap();
    let home = tempfile::tempdir().unwrap();
    let crate_of = |path: &str| home.path().join(path);
    FOLDERS.iter().for_each(|folder| copy(&root.join(folder), &crate_of(folder)));
    for file in ["Cargo.toml", "Cargo.lock", "README.md"] {
        std::fs::copy(root.join(file), crate_of(file)).unwrap();
    }
    let write = |path: &str, text: &str| std::fs::write(crate_of(path), text).unwrap();
    // Without its program, which would replace the one that other tests run.
    let manifest = std::fs::read_to_string(crate_of("Cargo.toml")).unwrap();
    assert!(manifest.contains("default-run = \"reflux\"\n"));
    write("Cargo.toml", &manifest.replace("default-run = \"reflux\"\n", "autobins = false\n"));

    let [operator, test] = &blocks(&page, "An operator")[..] else { panic!("a file and its test are expected") };
    write("src/operators/selection/without.rs", operator);
    write("tests/operators/without.rs", test);
    add(&crate_of("tests/operators/main.rs"), "mod compare;", "mod without;\n");
    add(&crate_of("src/operators/selection/mod.rs"), "", "pub(crate) mod without;\n");
    add(&crate_of("src/operators/mod.rs"), "    &sources::read::DEF,", "    &selection::without::DEF,\n");

    let loss = &blocks(&page, "A loss")[0];
    write("src/train/losses/exponential.rs", loss);
    add(&crate_of("src/train/losses/mod.rs"), "mod hinge;", "mod exponential;\n");
    add(&crate_of("src/train/losses/mod.rs"), "    ipo::LOSS,", "    exponential::LOSS,\n");

    let format = &blocks(&page, "An import format")[0];
    write("src/store/import/formats/trivia.rs", format);
    add(&crate_of("src/store/import/formats/mod.rs"), "mod ultrafeedback;", "mod trivia;\n");
    add(&crate_of("src/store/import/formats/mod.rs"), "    &preferences::DEF,", "    &trivia::DEF,\n");

    let figure = &blocks(&page, "A figure of evaluation")[0];
    write("src/eval/figures/lines.rs", figure);
    add(&crate_of("src/eval/figures/mod.rs"), "mod ranks;", "mod lines;\n");
    add(&crate_of("src/eval/figures/mod.rs"), "    &distinct::DISTINCT_1,", "    &lines::LINES,\n");

    let [command, line] = &blocks(&page, "A command")[..] else { panic!("a file and a line are expected") };
    write("src/cli/count.rs", command);
    add(&crate_of("src/cli/mod.rs"), "mod diff;", "mod count;\n");
    add(&crate_of("src/cli/mod.rs"), "    /// Prints every error of a pipeline file", line);

    let backend = &blocks(&page, "An inference backend")[0];
    write("src/engine/example.rs", backend);
    add(&crate_of("src/engine/mod.rs"), "mod kv;", "mod example;\n");
    add(&crate_of("src/engine/mod.rs"), "pub use codec::Codec;", "pub use example::Example;\n");

    // The dependencies are built already, in the folder that this test runs from.
    let target: PathBuf = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().into();
    let mut cargo = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
    cargo.args(["--config", "profile.dev.package.reflux.opt-level=0", "test", "--lib", "--test", "operators"]);
    cargo.args(["--", "losses", "without"]);
    // What the outer cargo says of this package would make the inner one build dependencies again.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR")
    {
        cargo.env_remove(name);
    }
    cargo.env("CARGO_BIN_EXE_reflux", env!("CARGO_BIN_EXE_reflux"));
    let done = cargo.current_dir(home.path()).env("CARGO_TARGET_DIR", target).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{out}\n{err}");
    assert!(!err.contains("warning"), "{err}");
    for test in ["losses_read_what_they_declare", "answers_with_the_text_are_left_out_with_a_reason"] {
        assert!(out.contains(&format!("{test} ... ok")), "{test}: {out}");
    }
}
