//! A pipeline with one training by `fake.sh`, and runs of it by the program.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use candle_core::{DType, Device};
use reflux::model::Model;
use reflux::store::Run;

/// How long a test waits for something that happens in a moment.
const PATIENCE: Duration = Duration::from_secs(120);

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A folder with a pipeline, its rows, and the model that the trainer "trains".
pub struct Outside {
    temp: tempfile::TempDir,
}

/// What a command of reflux printed.
pub struct Printed {
    pub code: Option<i32>,
    pub text: String,
}

impl Outside {
    pub fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let lines = ["lion", "tiger", "bear", "wolf"]
            .map(|animal| format!("{{\"prompt\": \"name one {animal}\", \"response\": \"{animal}\"}}\n"));
        std::fs::write(temp.path().join("given.jsonl"), lines.concat()).unwrap();
        let init = root().join("pipelines/listworld/model");
        let trained = Model::init(&init, 0.05, 7, &Device::Cpu, DType::F32, false).unwrap();
        trained.save(&temp.path().join("trained")).unwrap();
        Self { temp }
    }
    pub fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }
    /// Directory of the run.
    pub fn dir(&self) -> PathBuf {
        self.path("runs/outside")
    }
    pub fn run(&self) -> Run {
        Run::open(&self.dir()).unwrap()
    }
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir().join("logs/tuned/iteration=0.log")).unwrap()
    }
    pub fn starts(&self) -> usize {
        self.log().lines().filter(|line| line.starts_with("mode ")).count()
    }
    pub fn scratch(&self) -> PathBuf {
        self.dir().join("scratch/tuned/iteration=0")
    }

    /// Writes the pipeline; `keys` are further lines of the step.
    pub fn pipeline(&self, mode: &str, keys: &str) -> PathBuf {
        let file = self.path("outside.toml");
        let (given, trained) = (self.path("given.jsonl"), self.path("trained"));
        let text = format!(
            r#"
[pipeline]
name = "outside"
seed = 3
microbatch = 2
[model.m0]
path = "pipelines/listworld/m0"
[step.given]
op = "read"
dataset = {given:?}
[step.tuned]
op = "train"
from = "given"
model = "m0"
command = ["sh", "tests/trainer/fake.sh", "{mode}", {trained:?}, "{{model}}", "{{pairs}}", "{{output}}", "{{metrics}}", "{{seed}}", "{{iteration}}"]
{keys}
"#
        );
        std::fs::write(&file, text).unwrap();
        file
    }
    pub fn command(&self, file: &Path, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reflux"));
        command.current_dir(root()).env("NO_COLOR", "1").arg("run").arg(file);
        command.args(["--device", "cpu", "-w", "1", "--runs"]).arg(self.path("runs")).args(more);
        command
    }
    /// Runs the pipeline with a trainer of this mode to its end.
    pub fn train(&self, mode: &str, keys: &str, more: &[&str]) -> Printed {
        printed(&mut self.command(&self.pipeline(mode, keys), more))
    }
    /// Starts the pipeline and does not wait.
    pub fn start(&self, mode: &str) -> Child {
        let mut command = self.command(&self.pipeline(mode, ""), &[]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }
}

pub fn printed(command: &mut Command) -> Printed {
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    Printed { code: output.status.code(), text }
}

/// Waits until something is so.
pub fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        sleep(Duration::from_millis(50));
    }
}

/// The processes that a trainer with this scratch folder consists of, and what it started.
pub fn processes(scratch: &Path) -> Vec<i32> {
    let wanted = format!("REFLUX_PROGRAM={}", scratch.display());
    let names = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.file_name());
    let numbers = names.filter_map(|name| name.to_str()?.parse::<i32>().ok());
    let has = |process: &i32| {
        let environment = std::fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
    };
    numbers.filter(has).collect()
}
