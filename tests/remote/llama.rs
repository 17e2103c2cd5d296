//! A real server of llama.cpp: `REFLUX_LLAMA_PYTHON` names a Python that has the package xllamacpp (`.ci/run` fetches
//! it), and `REFLUX_SMOLLM2` the model.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use reflux::data::Columns;
use reflux::store::{Run, read_parquet};
use serde_json::Value;

use crate::stub::{Request, Response, Stub};

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

/// Whoever asks the stub is answered by the server at this address.
fn forwarded(address: &str, request: &Request) -> Response {
    let url = format!("{address}{}", request.path);
    let reply = match &*request.method {
        "GET" => ureq::get(&url).call(),
        _ => ureq::post(&url).set("content-type", "application/json").send_string(&request.body),
    };
    match reply {
        Ok(reply) | Err(ureq::Error::Status(_, reply)) => {
            let status = reply.status();
            Response::status(status, reply.into_string().unwrap())
        }
        Err(e) => Response::status(503, e.to_string()),
    }
}

/// The hashes of the requests of the two microbatches whose replies are on disk.
fn on_disk(run: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for microbatch in 0..2 {
        let path = run.join(format!("replies/answers/iteration=0/microbatch={microbatch:05}.jsonl"));
        // The run removes it when the microbatch is committed.
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let whole = text.rfind('\n').map_or(0, |at| at + 1);
        let request = |line: &str| serde_json::from_str::<Value>(line).unwrap()["request"].as_str().unwrap().to_owned();
        found.extend(text[..whole].lines().map(request));
    }
    found
}

#[test]
#[ignore = "needs REFLUX_LLAMA_PYTHON, a Python with xllamacpp, and REFLUX_SMOLLM2, SmolLM2-135M-Instruct.Q4_1.gguf"]
fn a_killed_run_asks_llama_cpp_only_for_what_was_in_flight_again() {
    let gguf = std::env::var("REFLUX_SMOLLM2").expect("REFLUX_SMOLLM2 names the model's file");
    let dir = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let _server = Server::start(&gguf, port);
    // It stands between and sees every request.
    let stub = Stub::start(move |request| forwarded(&format!("http://127.0.0.1:{port}"), request));
    let prompts = dir.path().join("prompts.jsonl");
    let lines: String = (0..8).map(|i| format!("{{\"prompt\": \"Name {} rivers.\"}}\n", i + 2)).collect();
    std::fs::write(&prompts, lines).unwrap();
    let file = dir.path().join("killed.toml");
    let text = format!(
        "[pipeline]\nname = \"killed\"\nseed = 3\nmicrobatch = 4\n[model.ids]\nserver = {:?}\nname = \"smol\"\n\
         time_limit = 300\nmax_in_flight = 2\ntokenizer = {gguf:?}\n[step.prompts]\nop = \"read\"\ndataset = \
         {prompts:?}\nschema = \"prompts\"\n[step.answers]\nop = \"generate\"\nfrom = \"prompts\"\nmodel = \"ids\"\n\
         samples = 3\nsampling = {{ max_tokens = 16 }}\n",
        stub.url()
    );
    std::fs::write(&file, text).unwrap();
    let run = dir.path().join("runs/killed");
    let start = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reflux"));
        command.arg("run").arg(&file).arg("--runs").arg(dir.path().join("runs"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let hashes = |from: usize| -> Vec<String> {
        let posted = stub.requests().into_iter().skip(from).filter(|request| request.method == "POST");
        let hash = |request: Request| {
            let path = request.path.strip_prefix("/v1").unwrap();
            blake3::hash(format!("{path}\0{}", request.body).as_bytes()).to_hex().to_string()
        };
        posted.map(hash).collect()
    };
    let (mut kept, mut kills) = (BTreeSet::new(), 0);
    for round in 1..=3 {
        let (before, mut child) = (stub.count(), start());
        // More replies on disk than at the last kill; a microbatch has twelve.
        while on_disk(&run).difference(&kept).count() < 2 + round && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(2));
        }
        let was_killed = child.try_wait().unwrap().is_none();
        child.kill().unwrap();
        child.wait().unwrap();
        let again: Vec<String> = hashes(before).into_iter().filter(|request| kept.contains(request)).collect();
        assert!(again.is_empty(), "round {round}: {} replies were on disk and were asked for again", again.len());
        kept.extend(on_disk(&run));
        kills += u32::from(was_killed);
    }
    let before = stub.count();
    finished(start());
    assert!(hashes(before).iter().all(|request| !kept.contains(request)), "asked for again in the last process");
    assert!(kills >= 2, "only {kills} kills before the end");
    // 24 answers. Each process probes, and loses what was in flight or had come and was not written.
    let sent = hashes(0);
    let distinct: BTreeSet<&String> = sent.iter().collect();
    let probes = distinct.len() - 24;
    let twice = sent.len() - distinct.len();
    let (of_probes, lost) = (probes * kills as usize, 4 * kills as usize);
    assert!(twice <= of_probes + lost, "{twice} of {} sent twice, {probes} probes, {kills} kills", sent.len());
    let run = Run::open(&run).unwrap();
    let rows: u64 = run.files("answers").iter().map(|file| file.rows).sum();
    assert_eq!(rows, 24);
    eprintln!("{kills} kills: {} requests, {} distinct with {probes} probes", sent.len(), distinct.len());
}
