//! What a person sees: help, listings, exit codes, and the ends of bad input.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::program::{command, reflux};
/// Checks a pipeline text and returns the exit code and what it said.
fn check(dir: &Path, text: &str) -> (Option<i32>, String) {
    let file = dir.join("p.toml");
    std::fs::write(&file, text).unwrap();
    let (code, _, err) = reflux(&["check", file.to_str().unwrap()]);
    (code, err)
}
/// Runs one.
fn run(dir: &Path, text: &str) -> (Option<i32>, String) {
    let file = dir.join("p.toml");
    std::fs::write(&file, text).unwrap();
    let (code, _, err) = reflux(&["run", file.to_str().unwrap(), "--runs", dir.join("runs").to_str().unwrap(), "-q"]);
    (code, err)
}

fn answer_with(model: &str) -> String {
    format!(
        "[pipeline]\nname = \"t\"\n[model.m]\n{model}\n[step.prompts]\nop = \"listworld\"\ndata = \"requests\"\nrows = 2\n\
         [step.answers]\nop = \"generate\"\nfrom = \"prompts\"\nmodel = \"m\"\nsamples = 1\nsampling = {{ max_tokens = 2 }}\n"
    )
}

#[test]
fn help_and_listings() {
    let (code, out, _) = reflux(&["--help"]);
    assert!(code == Some(0) && out.contains("Examples:") && out.contains("Exit codes"), "{out}");
    let (code, out, _) = reflux(&["schema", "pairs"]);
    assert!(code == Some(0) && out.contains("chosen_logprobs"), "{out}");
    let (code, out, _) = reflux(&["operators", "dpo"]);
    assert!(code == Some(0) && out.contains("beta") && out.contains("default 0.1"), "{out}");
    let (code, _, err) = reflux(&["operators", "dpp"]);
    assert!(code == Some(2) && err.contains("did you mean `dpo`"), "{err}");
    let (code, out, _) = reflux(&["explain", "E0102"]);
    assert!(code == Some(0) && out.starts_with("E0102"), "{out}");
    assert_eq!(reflux(&["run", "no/such.toml"]).0, Some(2));
    assert_eq!(reflux(&["run"]).0, Some(2));
}

#[test]
fn explain_draws_the_plan() {
    let set = "model.m0.path=pipelines/listworld/model";
    for (format, marks) in [
        ("tree", ["in the loop", "barrier", "window of 4"]),
        ("mermaid", ["flowchart", "subgraph", "-->"]),
        ("dot", ["digraph", "cluster", "->"]),
    ] {
        let (code, out, err) = reflux(&["explain", "pipelines/quickstart.toml", "--set", set, "--format", format]);
        assert_eq!(code, Some(0), "{err}");
        assert!(marks.iter().all(|m| out.contains(m)), "{out}");
    }
}

#[test]
fn bad_models() {
    let temp = tempfile::tempdir().unwrap();
    let (code, err) = check(temp.path(), &answer_with("path = \"models/none.gguf\""));
    assert!(code == Some(2) && err.contains("models/none.gguf") && err.contains("p.toml:4:"), "{err}");

    // A GGUF of another architecture: magic, version 3, no tensors, one key.
    let mut gguf = b"GGUF\x03\0\0\0".to_vec();
    gguf.extend(0u64.to_le_bytes());
    gguf.extend(1u64.to_le_bytes());
    for (text, kind) in [("general.architecture", Some(8u32)), ("mamba", None)] {
        gguf.extend((text.len() as u64).to_le_bytes());
        gguf.extend(text.as_bytes());
        gguf.extend(kind.into_iter().flat_map(u32::to_le_bytes));
    }
    gguf.resize(4096, 0);
    let path = temp.path().join("other.gguf");
    std::fs::write(&path, &gguf).unwrap();
    let (code, err) = run(temp.path(), &answer_with(&format!("path = {:?}", path.display().to_string())));
    assert!(code == Some(2) && err.contains("mamba") && err.contains("other.gguf"), "{err}");

    // A tokenizer without a chat template.
    let model = temp.path().join("plain");
    std::fs::create_dir(&model).unwrap();
    for file in ["config.json", "tokenizer.json"] {
        std::fs::copy(
            Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/listworld/model").join(file),
            model.join(file),
        )
        .unwrap();
    }
    let text = answer_with(&format!("init = {:?}", model.display().to_string()));
    let file = temp.path().join("p.toml");
    std::fs::write(&file, text).unwrap();
    let runs = temp.path().join("plain-runs");
    let (code, _, err) = reflux(&["run", file.to_str().unwrap(), "--runs", runs.to_str().unwrap(), "-q"]);
    assert!(code == Some(2) && err.contains("chat template") && err.contains("tokenizer_config.json"), "{err}");
}

#[test]
fn bad_data() {
    let temp = tempfile::tempdir().unwrap();
    let read = |file: &str| {
        format!(
            "[pipeline]\nname = \"t\"\n[step.rows]\nop = \"read\"\ndataset = {:?}\nschema = \"eft\"\n",
            temp.path().join(file).display().to_string()
        )
    };
    std::fs::write(temp.path().join("lacks.jsonl"), "{\"prompt\": \"a\", \"response\": \"b\", \"scor\": 3}\n").unwrap();
    let (code, err) = check(temp.path(), &read("lacks.jsonl"));
    assert!(code == Some(2) && err.contains("judgement") && err.contains("lacks.jsonl"), "{err}");
    let good = "{\"prompt\": \"a\", \"response\": \"b\", \"judgement\": \"c\", \"score\": 3}\n";
    std::fs::write(temp.path().join("late.jsonl"), format!("{good}{{\"prompt\": 3}}\n")).unwrap();
    let (code, err) = run(temp.path(), &read("late.jsonl"));
    assert!(code == Some(2) && err.contains("late.jsonl") && err.contains('2'), "{err}");
}

#[test]
fn a_full_disk_leaves_whole_files() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("p.toml");
    std::fs::write(&file, answer_with("init = \"pipelines/listworld/model\"")).unwrap();
    let runs = temp.path().join("runs");
    let args = ["run", file.to_str().unwrap(), "--runs", runs.to_str().unwrap(), "-q"];
    let output = command(&args).env("REFLUX_FAULT", "disk-full:6").output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("full") || err.contains("space"), "{err}");
    let run = reflux::store::Run::open(&runs.join("t")).unwrap();
    for step in run.steps() {
        run.files(&step).iter().for_each(|entry| run.verify(entry).unwrap());
    }
    // With room again it goes on.
    assert_eq!(reflux(&args).0, Some(0));
}

#[test]
#[cfg(unix)]
fn ctrl_c_stops_and_the_run_goes_on_later() {
    let temp = tempfile::tempdir().unwrap();
    let script = temp.path().join("slow.toml");
    std::fs::write(&script, "per_call_ms = 400\n[[answer]]\ntext = \"slowly\"\n").unwrap();
    let text = answer_with(&format!("script = {:?}", script.display().to_string()))
        .replace("rows = 2", "rows = 24")
        .replace("[pipeline]", "[pipeline]\nmicrobatch = 2");
    let file = temp.path().join("p.toml");
    std::fs::write(&file, text).unwrap();
    let runs = temp.path().join("runs");
    let args = ["run", file.to_str().unwrap(), "--runs", runs.to_str().unwrap()];
    let child = command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let manifest = runs.join("t/manifest.jsonl");
    // Until the first answers are on disk.
    while !std::fs::read_to_string(&manifest).is_ok_and(|m| m.contains("\"answers\"")) {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("stopping") && err.contains("to continue"), "{err}");
    assert!(err.lines().any(|line| line == "stopped") && !err.contains("stopped: stopped"), "{err}");
    let before = reflux::store::Run::open(&runs.join("t")).unwrap().files("answers").len();
    assert!((1..12).contains(&before), "{before} microbatches");
    let (code, _, err) = reflux(&args);
    assert!(code == Some(0) && err.contains("continuing the run"), "{err}");
    // A replay that is just begun goes on with nothing.
    let replay = ["replay", &runs.join("t").display().to_string(), "--set", "step.answers.samples=2", "--runs"];
    let replay: Vec<&str> = replay.into_iter().chain([runs.to_str().unwrap(), "--from", "answers"]).collect();
    let (code, _, err) = reflux(&replay);
    assert!(code == Some(0) && !err.contains("continuing the run"), "{err}");
    assert_eq!(reflux::store::Run::open(&runs.join("t")).unwrap().files("answers").len(), 12);
}
