//! Runs whose models are on servers of `reflux serve`: their rows are those of a run with the model at hand.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::common::outcome;

const MODEL: &str = "pipelines/listworld/m0";

/// A server of the small world's model. It ends with the test.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start() -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reflux"));
        command.args(["serve", MODEL, "--name", "m0", "--port", "0", "--threads", "1"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.map(|line| line.unwrap()).find(|line| line.contains("http://")).unwrap();
        let url = line[line.find("http://").unwrap()..].split_whitespace().next().unwrap().to_owned();
        Self { child, url }
    }
    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Answers, sampled judgements and expected judgements of one model.
fn pipeline(dir: &Path, model: &str) -> PathBuf {
    let file = dir.join("cluster.toml");
    let text = format!(
        r#"
[pipeline]
name = "cluster"
seed = 5
microbatch = 4
[model.m0]
{model}
[step.requests]
op = "listworld"
data = "requests"
rows = 24
[step.answers]
op = "generate"
from = "requests"
model = "m0"
samples = 2
sampling = {{ temperature = 1.0, top_p = 0.95, max_tokens = 24 }}
[step.judged]
op = "judge"
from = "answers"
model = "m0"
rubric = "pipelines/listworld/judge.jinja"
sampling = {{ temperature = 0.8, max_tokens = 16 }}
min = 0
max = 5
[step.expected]
op = "judge"
from = "answers"
model = "m0"
rubric = "pipelines/listworld/judge.jinja"
mode = "expected"
min = 0
max = 5
min_mass = 0.0
"#
    );
    std::fs::write(&file, text).unwrap();
    file
}

/// The run's rows; `kill` is called while it runs.
fn rows(file: &Path, runs: &Path, kill: impl FnOnce(&mut Child)) -> BTreeMap<String, Vec<u8>> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reflux"));
    command.args(["run", file.to_str().unwrap(), "--runs", runs.to_str().unwrap(), "--color", "never"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    kill(&mut child);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut files = outcome(&runs.join("cluster"));
    files.retain(|name, _| name.starts_with("data/"));
    files
}

#[test]
fn rows_of_three_servers_are_those_of_one_engine_and_one_server_may_die() {
    let dir = tempfile::tempdir().unwrap();
    let local = rows(&pipeline(dir.path(), &format!("path = {MODEL:?}")), &dir.path().join("local"), |_| ());
    assert!(local.keys().any(|name| name.starts_with("data/expected/")), "{:?}", local.keys());
    let mut servers = [Server::start(), Server::start(), Server::start()];
    let urls: Vec<String> = servers.iter().map(|server| server.url.clone()).collect();
    let model = format!("server = {urls:?}\nname = \"m0\"\ntokenizer = {MODEL:?}");
    let remote = rows(&pipeline(dir.path(), &model), &dir.path().join("remote"), |child| {
        let begun = dir.path().join("remote/cluster/data/answers");
        // A run that fails early is reported by its output.
        while !begun.exists() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(5));
        }
        servers[1].kill();
    });
    let different: Vec<&String> = local.keys().filter(|name| local.get(*name) != remote.get(*name)).collect();
    assert!(different.is_empty() && local.len() == remote.len(), "{different:?}");
}
