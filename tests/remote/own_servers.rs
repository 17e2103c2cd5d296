//! Runs that start the servers of their models themselves. The server is `reflux serve`, whose answers have the bits of a
//! local run, so every run must end as one without servers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use reflux::store::Run;

use crate::common::outcome;

pub const REFLUX: &str = env!("CARGO_BIN_EXE_reflux");
/// How long a test waits for something that happens in a moment.
const PATIENCE: Duration = Duration::from_secs(300);

/// A folder with a pipeline of two iterations, and its runs.
pub struct Place(tempfile::TempDir);

/// What a command printed.
pub struct Printed {
    pub code: Option<i32>,
    pub text: String,
}

/// `[server.own]` whose command is `reflux serve` behind the shell, with more keys.
pub fn server(script: &str, keys: &str) -> String {
    format!(
        "[server.own]\ncommand = [\"sh\", \"-c\", {script:?}, \"sh\", {REFLUX:?}, \"{{model}}\", \"{{port}}\", \"{{name}}\"]\n{keys}\n"
    )
}

/// The server as it should be.
const SERVE: &str = "exec \"$1\" serve \"$2\" --port \"$3\" --name \"$4\" --threads 1";

impl Place {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    pub fn dir(&self) -> PathBuf {
        self.path("runs/own")
    }
    pub fn log(&self, policy: u32) -> String {
        std::fs::read_to_string(self.dir().join(format!("logs/server.policy/iteration={policy}.log"))).unwrap()
    }

    /// Writes the pipeline. Without `server` the policy runs in reflux.
    pub fn pipeline(&self, server: &str) -> PathBuf {
        let key = if server.is_empty() { "" } else { "server = \"own\"" };
        let text = format!(
            r#"
[pipeline]
name = "own"
seed = 5
iterations = 2
microbatch = 4
{server}
[model.m0]
init = "pipelines/listworld/model"
{key}
[loop]
policy = "m0"
next = "dpo"
[step.requests]
op = "listworld"
data = "requests"
rows = 8
[step.answers]
op = "generate"
from = "requests"
model = "policy"
samples = 3
sampling = {{ temperature = 1.0, top_p = 0.95, max_tokens = 8 }}
[step.judged]
op = "judge"
from = "answers"
model = "policy"
rubric = "pipelines/listworld/judge.jinja"
mode = "expected"
min = 0
max = 5
min_mass = 0.0
[step.pairs]
op = "select"
from = "judged"
[step.dpo]
op = "dpo"
from = "pairs"
model = "policy"
batch_size = 4
learning_rate = 1e-2
schedule = "constant"
[step.seen]
op = "generate"
from = "requests"
model = "policy"
sampling = {{ temperature = 0.7, max_tokens = 4 }}
"#
        );
        let file = self.path("own.toml");
        std::fs::write(&file, text).unwrap();
        file
    }

    pub fn command(&self, server: &str, more: &[&str]) -> Command {
        let mut command = Command::new(REFLUX);
        command.arg("run").arg(self.pipeline(server)).arg("--runs").arg(self.path("runs")).args(more);
        command.current_dir(env!("CARGO_MANIFEST_DIR")).env("NO_COLOR", "1").stdin(Stdio::null());
        command
    }
    pub fn run(&self, server: &str, more: &[&str]) -> Printed {
        printed(&mut self.command(server, more))
    }
    /// Starts a run, whose messages go into a file.
    pub fn start(&self, server: &str, more: &[&str]) -> Child {
        let out = std::fs::File::create(self.path("out")).unwrap();
        self.command(server, more).stdout(Stdio::null()).stderr(out).spawn().unwrap()
    }
    /// What the run left, by the names of files.
    pub fn outcome(&self) -> BTreeMap<String, Vec<u8>> {
        outcome(&self.dir())
    }
    /// The processes of the run's servers.
    pub fn servers(&self) -> Vec<i32> {
        let Ok(dir) = self.dir().canonicalize() else { return Vec::new() };
        let wanted = format!("REFLUX_PROGRAM={}/scratch/server.policy", dir.display());
        let names = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.file_name());
        let processes = names.filter_map(|name| name.to_str()?.parse::<i32>().ok());
        let has = |process: &i32| {
            let environment = std::fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
        };
        processes.filter(has).collect()
    }
}

pub fn printed(command: &mut Command) -> Printed {
    let output = command.output().unwrap();
    let text = [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat();
    Printed { code: output.status.code(), text }
}

pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "{what} did not come");
        sleep(Duration::from_millis(5));
    }
}

/// Waits for a file of a run that goes on, which must not have ended.
pub fn until_there(child: &mut Child, file: &Path) {
    until(&file.display().to_string(), || file.exists() || child.try_wait().unwrap().is_some());
    assert!(file.exists(), "the run ended");
}

fn local() -> BTreeMap<String, Vec<u8>> {
    let place = Place::new();
    let out = place.run("", &[]);
    assert_eq!(out.code, Some(0), "{}", out.text);
    place.outcome()
}

pub fn assert_same(local: &BTreeMap<String, Vec<u8>>, served: &BTreeMap<String, Vec<u8>>) {
    let names: Vec<&String> = local.keys().chain(served.keys()).collect();
    let different: Vec<&&String> = names.iter().filter(|name| local.get(**name) != served.get(**name)).collect();
    assert!(different.is_empty(), "{different:?}");
}

#[test]
fn a_loop_on_servers_has_the_bits_of_a_local_one() {
    let local = local();
    let place = Place::new();
    let out = place.run(&server(SERVE, ""), &[]);
    assert_eq!(out.code, Some(0), "{}", out.text);
    assert_same(&local, &place.outcome());
    // One start for each policy, and the last one for the observers of the final model.
    for policy in [0, 2, 3] {
        let log = place.log(policy);
        assert_eq!(log.matches("reflux: start").count(), 1, "{log}");
    }
    assert!(place.log(2).contains("models/M2 "), "{}", place.log(2));
    assert!(place.servers().is_empty() && !place.dir().join("scratch").exists());
    let summary = std::fs::read_to_string(place.dir().join("summary.json")).unwrap();
    assert!(summary.contains("http://127.0.0.1:"), "{summary}");

    // Without files of its own, the directory is written out; a run that is finished starts nothing.
    let out = place.run(&server(SERVE, ""), &[]);
    assert_eq!(out.code, Some(0), "{}", out.text);
    let verify = printed(Command::new(REFLUX).arg("verify").arg(place.dir()));
    assert_eq!(verify.code, Some(0), "{}", verify.text);
    let out = place.run(&server(SERVE, ""), &["--fresh"]);
    assert_eq!(out.code, Some(0), "{}", out.text);
    assert_eq!(place.log(0).matches("reflux: start").count(), 1, "--fresh removes the logs");
}

#[test]
fn a_server_that_is_killed_is_started_again() {
    let local = local();
    let place = Place::new();
    let mut reflux = place.start(&server(SERVE, ""), &[]);
    until_there(&mut reflux, &place.dir().join("data/answers/iteration=1"));
    let killed = place.servers();
    assert!(!killed.is_empty());
    for process in killed {
        // One of them is the shell that watches over the group.
        let _ = Command::new("kill").args(["-KILL", &process.to_string()]).stderr(Stdio::null()).status();
    }
    assert!(reflux.wait().unwrap().success(), "{}", std::fs::read_to_string(place.path("out")).unwrap());
    assert_same(&local, &place.outcome());
    let starts: usize = [0, 2, 3].into_iter().map(|policy| place.log(policy).matches("reflux: start").count()).sum();
    assert_eq!(starts, 4, "one of three policies was started twice");
}

#[test]
fn a_server_that_dies_too_often_stops_the_run() {
    let place = Place::new();
    // It dies when the first answers are there, and at once from then on.
    let dies = format!(
        "\"$1\" serve \"$2\" --port \"$3\" --name \"$4\" --threads 1 & pid=$!; while [ ! -e {:?} ]; do sleep 0.05; done; \
         echo 'CUDA error: device lost'; kill -KILL $pid; exit 7",
        place.dir().join("data/answers/iteration=1")
    );
    let out = place.run(&server(&dies, "restarts = 1"), &["--set", "step.requests.rows=100"]);
    assert_eq!(out.code, Some(2), "{}", out.text);
    assert!(
        out.text.contains("the server of [server.own] for model `m0` ended with exit code 7 (2 starts)"),
        "{}",
        out.text
    );
    assert!(out.text.contains("CUDA error: device lost") && out.text.contains("iteration=0.log"), "{}", out.text);
    assert!(place.servers().is_empty());
}

/// Ctrl-C and a kill of reflux end the server. What was answered is used, and the end is the same.
#[test]
fn a_run_that_ends_takes_its_server_along() {
    let local = local();
    for signal in ["INT", "KILL"] {
        let place = Place::new();
        let mut reflux = place.start(&server(SERVE, ""), &[]);
        until_there(&mut reflux, &place.dir().join("data/answers/iteration=1"));
        assert!(!place.servers().is_empty());
        let kill = Command::new("kill").args([&format!("-{signal}"), &reflux.id().to_string()]).status().unwrap();
        assert!(kill.success());
        reflux.wait().unwrap();
        until("the end of the server", || place.servers().is_empty());
        let out = place.run(&server(SERVE, ""), &["--resume"]);
        assert_eq!(out.code, Some(0), "{}", out.text);
        assert_same(&local, &place.outcome());
        assert!(place.servers().is_empty() && !place.dir().join("scratch").exists());
    }
}

/// A server that goes on with the weights that it was started with first.
#[test]
fn weights_of_an_earlier_policy_are_found_out() {
    let place = Place::new();
    let stale = format!(
        "[ -e {0:?} ] || cp -r \"$2\" {0:?}; exec \"$1\" serve {0:?} --port \"$3\" --name \"$4\" --threads 1",
        place.path("first")
    );
    let out = place.run(&server(&stale, ""), &[]);
    assert_eq!(out.code, Some(2), "{}", out.text);
    assert!(
        out.text.contains("the server of [server.own] for model `M2`: it does not compute with the weights"),
        "{}",
        out.text
    );
    assert!(out.text.contains("at most 0.000010 is allowed"), "{}", out.text);
    // The run goes on with the bound that the first policy has set.
    let again = place.run(&server(&stale, ""), &["--resume"]);
    assert_eq!(again.code, Some(2), "{}", again.text);
    assert!(again.text.contains("at most 0.000010 is allowed"), "{}", again.text);
    // Everything of the first iteration is there, and nothing of the second.
    let run = Run::open(&place.dir()).unwrap();
    assert!(run.model("M2").is_some() && run.model("M3").is_none());
    assert!(!place.dir().join("data/answers/iteration=2").exists());
}

#[test]
fn a_server_that_does_not_come_up_is_told_with_its_log() {
    let place = Place::new();
    for (script, keys, want) in [
        ("echo 'no such device'; exit 3", "", "for model `m0` ended with exit code 3; the last lines of "),
        (
            "echo waiting; sleep 1000",
            "ready_within = \"2s\"",
            "did not list its models within 2 seconds at http://127.0.0.1:",
        ),
        ("exec \"$1\" serve \"$2\" --port \"$3\" --name other --threads 1", "", "the server has no model `m0-"),
    ] {
        let out = place.run(&server(script, keys), &["--fresh"]);
        assert_eq!(out.code, Some(2), "{}", out.text);
        assert!(out.text.contains(want), "{want}: {}", out.text);
        assert!(place.servers().is_empty());
        let said = script.split('\'').nth(1).unwrap_or("");
        assert!(out.text.contains(said), "{}", out.text);
    }
}

#[test]
fn what_cannot_work_is_said_before_a_run() {
    let place = Place::new();
    let check = |from: &str, to: &str| {
        let text = std::fs::read_to_string(place.pipeline(&server(SERVE, ""))).unwrap();
        assert!(text.contains(from), "{from}");
        std::fs::write(place.path("own.toml"), text.replace(from, to)).unwrap();
        let mut command = Command::new(REFLUX);
        printed(
            command
                .arg("check")
                .arg(place.path("own.toml"))
                .current_dir(env!("CARGO_MANIFEST_DIR"))
                .env("NO_COLOR", "1"),
        )
    };
    let out = check("[loop]", "[loop]");
    assert_eq!(out.code, Some(0), "{}", out.text);
    for (from, to, want) in [
        ("\"sh\", \"-c\"", "\"no-such-program\", \"-c\"", "server `own`: the program `no-such-program` was not found"),
        ("server = \"own\"", "server = \"owm\"", "did you mean `own`?"),
        (
            "server = \"own\"",
            "server = \"own\"\nmax_in_flight = 3",
            "take it out; [server.own] has the settings of the server",
        ),
        ("{model}", "x", "`command` does not hand over {model}"),
        ("{name}", "x", "`command` does not tell the server how to call the model"),
        ("[model.m0]", "name = \"x\"\n[model.m0]", "`name` and {name} both say how"),
        ("[model.m0]", "[model.m0]\nscript = \"Cargo.toml\" #", "a script has no weights to serve"),
        ("[model.m0]", "ready_within = \"soon\"\n[model.m0]", "is not a length of time"),
        ("[model.m0]", "update = \"lore\"\n[model.m0]", "did you mean `lora`?"),
        ("[model.m0]", "update = \"lora\"\n[model.m0]", "loads policies as adapters, and `dpo` trains none"),
        ("[model.m0]", "environment = { A = 1 }\n[model.m0]", "`environment` wants text"),
        (
            "[model.m0]",
            "environment = { REFLUX_PROGRAM = \"x\" }\n[model.m0]",
            "marks the processes that reflux starts",
        ),
        ("[model.m0]", "environment = { \"A B\" = \"x\" }\n[model.m0]", "cannot be the name of a variable"),
        (
            "[model.m0]",
            "environment = { A = { env = \"REFLUX_NOT_SET\" } }\n[model.m0]",
            "the environment variable REFLUX_NOT_SET is not set; it has the value of `environment.A`",
        ),
    ] {
        let out = check(from, to);
        assert_eq!(out.code, Some(2), "{to}: {}", out.text);
        assert!(out.text.contains(want), "{to}: {}", out.text);
    }
    let out = check("server = \"own\"", "");
    assert!(out.text.contains("server `own` is not used"), "{}", out.text);
    let mut explain = Command::new(REFLUX);
    let explain =
        printed(explain.arg("explain").arg(place.pipeline(&server(SERVE, ""))).current_dir(env!("CARGO_MANIFEST_DIR")));
    assert!(explain.text.contains("served by [server.own]"), "{}", explain.text);
}
