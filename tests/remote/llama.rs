//! A real server of llama.cpp: `REFLUX_LLAMA_PYTHON` names a Python that has the package xllamacpp (`.ci/run` fetches
//! it), and `REFLUX_SMOLLM2` the model.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use reflux::data::Columns;
use reflux::store::{Run, read_parquet};

struct Server(Child);

impl Server {
    fn start(gguf: &str, port: u16) -> Self {
        let python = std::env::var("REFLUX_LLAMA_PYTHON").expect("REFLUX_LLAMA_PYTHON names a Python with xllamacpp");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/llama_server.py");
        let mut command = Command::new(python);
        command.arg(script).args([gguf, &port.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn finished(child: Child) -> Output {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

#[test]
#[ignore = "needs REFLUX_LLAMA_PYTHON, a Python with xllamacpp, and REFLUX_SMOLLM2, SmolLM2-135M-Instruct.Q4_1.gguf"]
fn both_tiers_run_on_llama_cpp_that_starts_late_and_is_started_again() {
    let gguf = std::env::var("REFLUX_SMOLLM2").expect("REFLUX_SMOLLM2 names the model's file");
    let dir = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let prompts = dir.path().join("prompts.jsonl");
    let lines: String = (0..12).map(|i| format!("{{\"prompt\": \"Name {} rivers.\"}}\n", i + 2)).collect();
    std::fs::write(&prompts, lines).unwrap();
    let file = dir.path().join("llama.toml");
    let server = format!("server = \"http://127.0.0.1:{port}/v1\"\nname = \"smol\"\ntime_limit = 300");
    let text = format!(
        r#"
[pipeline]
name = "llama"
seed = 3
microbatch = 4
[model.text]
{server}
[model.ids]
{server}
tokenizer = {gguf:?}
[step.prompts]
op = "read"
dataset = {prompts:?}
schema = "prompts"
[step.texts]
op = "generate"
from = "prompts"
model = "text"
samples = 1
sampling = {{ max_tokens = 24 }}
[step.answers]
op = "generate"
from = "prompts"
model = "ids"
samples = 2
sampling = {{ max_tokens = 24, stop = ["\n\n"] }}
[step.judged]
op = "judge"
from = "answers"
model = "ids"
sampling = {{ max_tokens = 48 }}
retries = 0
"#
    );
    std::fs::write(&file, text).unwrap();
    let runs = dir.path().join("runs");
    let mut command = Command::new(env!("CARGO_BIN_EXE_reflux"));
    command.args(["run", file.to_str().unwrap(), "--runs", runs.to_str().unwrap(), "--color", "never"]);
    let run = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // The run waits for a server that is not there yet.
    std::thread::sleep(Duration::from_secs(2));
    let first = Server::start(&gguf, port);
    let begun = runs.join("llama/data/answers");
    let limit = std::time::Instant::now() + Duration::from_secs(240);
    while !begun.exists() {
        assert!(std::time::Instant::now() < limit, "no microbatch within four minutes");
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(first);
    std::thread::sleep(Duration::from_secs(1));
    let _second = Server::start(&gguf, port);
    let output = finished(run);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("waiting for http://127.0.0.1"), "{said}");
    let run = Run::open(&runs.join("llama")).unwrap();
    let (mut texts, mut answers) = (0, 0);
    for (step, rows) in [("texts", &mut texts), ("answers", &mut answers)] {
        for file in run.files(step) {
            let batch = read_parquet(&run.dir().join(&file.path)).unwrap();
            let columns = Columns(&batch);
            let (ids, logprobs) = (columns.tokens("response_tokens").unwrap(), columns.floats("logprobs").unwrap());
            for row in 0..batch.num_rows() {
                assert_eq!(ids.row(row).is_empty(), step == "texts");
                assert_eq!(ids.row(row).len(), logprobs.row(row).len());
                assert!(ids.row(row).len() <= 24);
            }
            *rows += batch.num_rows();
        }
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_reflux"));
    let failed =
        command.args(["show", runs.join("llama/errors").to_str().unwrap(), "--format", "json"]).output().unwrap();
    // A model of this size gives judgements that cannot be read; every request for an answer got one.
    let lost = ["texts", "answers"].map(|step| run.dir().join("data/errors").join(step).exists());
    assert_eq!(lost, [false; 2], "{}", String::from_utf8_lossy(&failed.stdout));
    assert_eq!((texts, answers), (12, 24));
}
