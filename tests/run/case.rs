//! A small pipeline with an input of every kind, in a folder that a test may edit.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use crate::common::program::{command, said};
use crate::common::{self, outcome};

/// A folder with a pipeline that reads a dataset, has a script answer and judge under a rubric of its own, and trains.
pub struct Case {
    temp: tempfile::TempDir,
}

impl Case {
    pub fn new() -> Self {
        let case = Self { temp: tempfile::tempdir().unwrap() };
        case.write_prompts("old");
        fs::write(case.path("rubric.jinja"), "You grade an AI. {{ prompt }} {{ response }}").unwrap();
        common::script(case.dir(), 0);
        let model = case.path("model");
        fs::create_dir(&model).unwrap();
        for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
            fs::copy(Path::new("pipelines/listworld/model").join(name), model.join(name)).unwrap();
        }
        fs::write(case.path("p.toml"), case.pipeline()).unwrap();
        case
    }
    pub fn dir(&self) -> &Path {
        self.temp.path()
    }
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }
    pub fn run_dir(&self) -> PathBuf {
        self.path("runs/r")
    }
    pub fn write_prompts(&self, word: &str) {
        let lines: String = (0..24)
            .map(|i| format!("{{\"prompt\": \"{word} question {i}\", \"response\": \"{word} answer {i}\"}}\n"))
            .collect();
        fs::write(self.path("prompts.jsonl"), lines).unwrap();
    }
    pub fn pipeline(&self) -> String {
        let dir = self.dir().display();
        format!(
            r#"
[pipeline]
name = "r"
seed = 3
microbatch = 8
[model.script]
script = "{dir}/script-0.toml"
[model.small]
init = "{dir}/model"
[step.prompts]
op = "read"
dataset = "{dir}/prompts.jsonl"
schema = "ift"
[step.responses]
op = "generate"
from = "prompts"
model = "small"
samples = 3
sampling = {{ max_tokens = 6 }}
keep = false
[step.scores]
op = "judge"
from = "responses"
model = "script"
rubric = "{dir}/rubric.jinja"
samples = 2
[step.pairs]
op = "select"
from = "scores"
[step.tuned]
op = "dpo"
from = "pairs"
model = "small"
learning_rate = 1e-3
batch_size = 4
"#
        )
    }
    pub fn reflux(&self, args: &[&str], fault: &str) -> Output {
        let mut command = command(args);
        command.env_remove("REFLUX_FAULT");
        if !fault.is_empty() {
            command.env("REFLUX_FAULT", fault);
        }
        command.output().unwrap()
    }
    pub fn run(&self, more: &[&str], fault: &str) -> Output {
        let (file, runs) = (self.path("p.toml"), self.path("runs"));
        let args = ["run", file.to_str().unwrap(), "--runs", runs.to_str().unwrap(), "--device", "cpu"];
        self.reflux(&[&args[..], more].concat(), fault)
    }
    pub fn to_the_end(&self, more: &[&str]) -> String {
        let output = self.run(more, "");
        assert!(output.status.success(), "{}", said(&output));
        said(&output)
    }
    /// A run that is killed after so many lines of the manifest.
    pub fn killed(&self, lines: u32) {
        let output = self.run(&[], &format!("after-manifest:{lines}"));
        assert!(output.status.code().is_none(), "{}", said(&output));
    }
    pub fn verify(&self, more: &[&str]) -> Output {
        let dir = self.run_dir();
        self.reflux(&[&["verify", dir.to_str().unwrap()], more].concat(), "")
    }
}

/// The files of rows.
pub fn rows(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    outcome(dir).into_iter().filter(|(name, _)| name.starts_with("data/")).collect()
}

pub fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{from} is not in {}", path.display());
    fs::write(path, text.replace(from, to)).unwrap();
}
