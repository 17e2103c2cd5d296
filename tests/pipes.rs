//! Inputs that are pipes are refused: one without a writer would be waited for without end.
#![cfg(unix)]

use std::path::{Path, PathBuf};
use std::process::Command;

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
