//! Inputs that are pipes are refused: one without a writer would be waited for without end.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Makes a FIFO that whoever opened it would read an empty JSON object from.
fn pipe(path: PathBuf) -> PathBuf {
    let _ = std::fs::remove_file(&path);
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    let to = path.clone();
    // It waits for a reader, which there is none of, until the test's process ends.
    std::thread::spawn(move || std::fs::write(to, "{}"));
    path
}

fn refused(args: &[&str], dir: &Path) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reflux"));
    let output = command.args(args).current_dir(dir).env("COLUMNS", "200").env("NO_COLOR", "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && said.contains("not a regular file"), "{args:?}: {said}");
}

#[test]
fn pipes_are_refused_as_inputs() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    pipe(dir.join("pipe"));
    for args in [["check", "pipe"], ["run", "pipe"], ["cost", "pipe"], ["import", "pipe"]] {
        refused(&args, dir);
    }
}

#[test]
fn pipes_are_refused_in_model_folders() {
    let temp = tempfile::tempdir().unwrap();
    let model = temp.path().join("model");
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/listworld/m0");
    for name in
        ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "model.safetensors"]
    {
        let _ = std::fs::remove_dir_all(&model);
        std::fs::create_dir(&model).unwrap();
        for file in std::fs::read_dir(&from).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), model.join(file.file_name())).unwrap();
        }
        pipe(model.join(name));
        refused(&["generate", "model", "hi", "--max-tokens", "1", "--device", "cpu"], temp.path());
    }
    pipe(temp.path().join("x.gguf"));
    refused(&["generate", "x.gguf", "hi"], temp.path());
}

/// What the program ends with, if it ends within a minute: one that waits for a pipe does not.
fn ended(args: &[&str], dir: &Path) -> (Option<i32>, String) {
    let mut command = Command::new("timeout");
    command.args(["60", env!("CARGO_BIN_EXE_reflux")]).args(args).current_dir(dir);
    let output = command.env("COLUMNS", "200").env("NO_COLOR", "1").stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_ne!(output.status.code(), Some(124), "{args:?} waits: {said}");
    (output.status.code(), said)
}

/// A pipeline that reads a rubric and a script, and makes pairs.
fn pipeline(dir: &Path, rubric: &str, script: &str) -> String {
    let text = format!(
        "[pipeline]\nname = \"x\"\n[model.m]\nscript = \"{script}\"\n[step.prompts]\nop = \"listworld\"\ndata = \"requests\"\nrows = 2\n\
         [step.answers]\nop = \"generate\"\nfrom = \"prompts\"\nmodel = \"m\"\nsamples = 2\n\
         [step.scores]\nop = \"judge\"\nfrom = \"answers\"\nmodel = \"m\"\nrubric = \"{rubric}\"\n\
         [step.pairs]\nop = \"select\"\nfrom = \"scores\"\n"
    );
    let name = format!("{}-{}.toml", rubric.replace('.', "_"), script.replace('.', "_"));
    std::fs::write(dir.join(&name), text).unwrap();
    name
}

fn prepared(dir: &Path) {
    pipe(dir.join("pipe"));
    std::os::unix::fs::symlink("/dev/zero", dir.join("endless")).unwrap();
    std::fs::write(dir.join("rubric"), "Grade {{ prompt }} {{ response }}").unwrap();
    std::fs::write(
        dir.join("script"),
        "[[answer]]\nmatch = \"Grade\"\ntext = \"Score: {score}\"\n[[answer]]\ntext = \"Answer {n}.\"\n",
    )
    .unwrap();
}

#[test]
fn no_input_of_a_command_is_waited_for() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    prepared(dir);
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/listworld/m0");
    let model = model.to_str().unwrap();
    let whole = pipeline(dir, "rubric", "script");
    assert_eq!(ended(&["run", &whole], dir).0, Some(0));
    for from in ["pipe", "endless"] {
        let (rubric, script) = (pipeline(dir, from, "script"), pipeline(dir, "rubric", from));
        let (from_rubric, from_script) = (&*format!("{from}-rubric"), &*format!("{from}-script"));
        let all: &[&[&str]] = &[
            &["check", &rubric],
            &["run", &rubric, "--runs", from_rubric],
            &["run", &script, "--runs", from_script],
            &["generate", model, "--file", from],
            &["logprobs", model, from],
            &["revise", "x", "--scores", from],
            &["bench", "generate", model, "--prompts", from],
            &["bench", "judge", model, "--dataset", from],
            &["bench", "dpo", model, "--pairs", from],
            &["eval", "win-rate", model, model, "--prompts", from, "--judge", model],
            &["eval", "reward", model, "--data", from],
            &["eval", "alpaca", "export", model, "--prompts", from, "-o", "o.json"],
            &["eval", "alpaca", "win-rate", from],
            &["show", from],
            &["import", from, "--format", "alpaca"],
        ];
        for args in all {
            let (code, said) = ended(args, dir);
            assert!(code == Some(2) || code == Some(1), "{args:?}: {code:?} {said}");
            let words = ["regular file", "neither a file nor a directory", "ending"];
            assert!(words.iter().any(|word| said.contains(word)), "{args:?}: {said}");
        }
    }
}

/// Files of a run's directory that are pipes or devices are damaged; nothing waits for them.
#[test]
fn no_file_of_a_run_is_waited_for() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    prepared(dir);
    let file = pipeline(dir, "rubric", "script");
    assert_eq!(ended(&["run", &file], dir).0, Some(0));
    for name in [
        "pipeline.toml",
        "summary.json",
        "lock",
        "data/scores/iteration=0/microbatch=00000.parquet",
        "data/pairs/iteration=0/microbatch=00000.parquet",
        "manifest.jsonl",
    ] {
        let path = dir.join("runs/x").join(name);
        let before = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        for args in [
            &["ls", "x"][..],
            &["show", "x/pairs"],
            &["trace", "x", "00"],
            &["diff", "x", "x"],
            &["replay", "x", "--from", "pairs", "--into", "runs/w", "--dry-run"],
            &["run", &file],
        ] {
            ended(args, dir);
        }
        if name == "manifest.jsonl" {
            let (code, said) = ended(&["verify", "x"], dir);
            assert!(code != Some(0), "{said}");
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, before).unwrap();
            continue;
        }
        let (code, said) = ended(&["verify", "x", "--repair"], dir);
        assert_eq!(code, Some(0), "{name}: {said}");
        let (code, said) = ended(&["run", &file], dir);
        assert_eq!(code, Some(0), "{name}: {said}");
        assert!(name == "lock" || std::fs::read(&path).unwrap() == before || name == "summary.json", "{name}");
    }
}
