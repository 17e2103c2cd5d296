//! Runs a pipeline text in a folder of its own, through the library.
#![allow(dead_code, reason = "each test binary uses some of it")]

pub mod looked_at;
pub mod program;
pub mod rows;
pub mod scored;
pub mod spans;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use reflux::cancel::CancelFlag;
use reflux::dataflow::{self, Event, Observer, Operator, RuntimeEnv, Shared, WorkerTransport};
use reflux::engine::EngineConfig;
use reflux::error::Result;
use reflux::operators::{self, Models};
use reflux::pipeline::{self, Plan};
use reflux::report::RunCounters;
use reflux::store::Run;
use spans::Spans;

/// Counts, and asks for a stop after a number of committed microbatches.
pub struct Watch {
    pub tally: RunCounters,
    /// When each job ran, where that was asked for.
    pub spans: Option<Spans>,
    stop: CancelFlag,
    stop_after: Option<u64>,
}

impl Observer for Watch {
    fn event(&self, event: &Event<'_>) {
        self.tally.event(event);
        if let Some(spans) = &self.spans {
            spans.event(event);
        }
        let done: u64 = self.tally.counts().values().map(|c| c.microbatches - c.restored).sum();
        if matches!(event, Event::Done { .. }) && self.stop_after.is_some_and(|n| done >= n) {
            self.stop.set();
        }
    }
}

/// How to run.
pub struct RunOptions {
    pub workers: usize,
    pub transport: WorkerTransport,
    pub stop_after: Option<u64>,
    pub spans: bool,
}
impl Default for RunOptions {
    fn default() -> Self {
        Self { workers: 1, transport: WorkerTransport::Typed, stop_after: None, spans: false }
    }
}

pub fn plan(text: &str) -> Arc<Plan<dyn Operator>> {
    Arc::new(
        pipeline::parse_str("test.toml", text, &[], operators::ALL).unwrap_or_else(|d| panic!("{}", d.render(false))),
    )
}

/// Runs to the end, or until it stops.
pub fn run(text: &str, dir: &Path, how: &RunOptions) -> (Result<()>, Arc<Watch>) {
    let plan = plan(text);
    let (run, _) = Run::create_or_open(dir, &plan.resolved, plan.seed, false).unwrap();
    let stop = CancelFlag::default();
    let watch = Arc::new(Watch {
        tally: RunCounters::default(),
        spans: how.spans.then(Spans::default),
        stop: stop.clone(),
        stop_after: how.stop_after,
    });
    let env = RuntimeEnv::new(
        Models::new("cpu", EngineConfig { kv_memory: 64 << 20, ..EngineConfig::default() }, plan.seed).unwrap(),
    );
    let observer = Arc::clone(&watch) as Arc<dyn Observer>;
    let result = dataflow::run(Shared { plan, run: Arc::new(run), env, observer, stop }, how.workers, how.transport);
    (result, watch)
}

/// Runs to the end, and fails rather than waits for ever.
pub fn ends(text: &str, dir: &Path, workers: usize) {
    let (done, ended) = channel();
    let (dir, text) = (dir.to_owned(), text.to_owned());
    std::thread::spawn(move || {
        done.send(run(&text, &dir, &RunOptions { workers, ..RunOptions::default() }).0.map_err(|e| e.to_string()))
    });
    ended.recv_timeout(Duration::from_secs(300)).expect("the run waits for itself").unwrap();
}

/// Every file below a folder, with its bytes.
pub fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(root: &Path, dir: &Path, all: &mut BTreeMap<String, Vec<u8>>) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(root, &path, all);
            } else {
                let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
                all.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    let mut all = BTreeMap::new();
    walk(dir, dir, &mut all);
    all
}

/// Copies a folder with all that is below it.
pub fn copy(from: &Path, to: &Path) {
    for (name, bytes) in files(from) {
        let path = to.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

/// The data, models and metrics of a run: what must be the same however it was run.
pub fn outcome(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = files(dir);
    all.retain(|name, _| ["data/", "models/", "metrics/"].iter().any(|part| name.starts_with(part)));
    all
}

/// A manifest without the checksums of its lines, as formats before 4 had it, for tests that change what a line says.
pub fn without_checksums(manifest: &str) -> String {
    let each = manifest.split_inclusive('\n').map(|line| match line.strip_prefix("{\"sum\":\"") {
        Some(rest) => format!("{{{}", &rest[18..]),
        None => line.to_owned(),
    });
    each.collect()
}

/// A script that plays prompt writer, answerer and judge.
pub fn script(dir: &Path, per_call_ms: u64) -> String {
    let path = dir.join(format!("script-{per_call_ms}.toml"));
    let text = format!(
        r#"
per_call_ms = {per_call_ms}
[[answer]]
match = "You write tasks"
text = ["Name {{n}} things that float on water", "Explain how {{n}} birds find their way home", "List {{n}} uses of an old coat"]
[[answer]]
match = "You compare two judgements"
text = ["Both are short.\n[[A]]", "The second says more.\n[[B]]", "I see no difference.\n[[C]]"]
[[answer]]
match = "You grade an AI"
text = ["It is relevant and clear.\nScore: {{score}}", "It misses the point.\nScore: {{score}}", "I would rather not say."]
[[answer]]
text = ["Answer {{n}}.", "Perhaps {{n}}, perhaps not.", "It depends on {{n}}."]
"#
    );
    std::fs::write(&path, text).unwrap();
    path.to_string_lossy().into_owned()
}

/// A judge of pairs, as a script: it knows good from bad wherever it stands, finds plain ones equal, prefers what it reads first where
/// both are good, and says nothing of what is mute.
pub const FAIR_JUDGE: &str = r#"
[[answer]]
match = "mute"
text = "I would rather not say."
[[answer]]
match = "<response_a>\ngood"
text = "[[A]]"
[[answer]]
match = "<response_b>\ngood"
text = "[[B]]"
[[answer]]
text = "[[C]]"
"#;

/// The steps of a loop from answers to a training, with a scripted judge. Keys of the training may follow.
pub const SCORES_TO_DPO: &str = r#"[step.scores]
op = "judge"
from = "responses"
model = "script"
samples = 2
[step.pairs]
op = "select"
from = "scores"
[step.dpo]
op = "dpo"
from = "pairs"
model = "policy""#;

/// Overrides by which the quickstart, and files like it, run in moments with a scripted judge.
pub const SMALL_LISTWORLD: [&str; 10] = [
    "step.ift.rows=32",
    "step.eft.rows=32",
    "step.instruct.rows=16",
    "step.m1.epochs=1",
    "step.written.per_iteration=24",
    "step.heldout.rows=8",
    "pipeline.microbatch=8",
    "step.scores.model=script",
    "step.scores.pattern=Score: ([0-5])",
    "step.scores.rubric=additive-5",
];

/// A loop on the small world with a random model and a scripted judge, so that there are pairs.
pub fn small_loop(dir: &Path) -> String {
    let script = script(dir, 0);
    format!(
        r#"
[pipeline]
name = "small"
seed = 5
iterations = 2
microbatch = 8
window = 2
[model.m0]
init = "pipelines/listworld/model"
[model.script]
script = {script:?}
[step.ift]
op = "listworld"
data = "ift"
rows = 40
[step.eft]
op = "listworld"
data = "eft"
rows = 24
[step.m1]
op = "sft"
from = ["ift", "eft"]
model = "m0"
rubric = "pipelines/listworld/judge.jinja"
learning_rate = 1e-3
[loop]
policy = "m1"
next = "dpo"
[step.written]
op = "synthesize"
from = "ift"
model = "script"
per_iteration = 20
shots = {{ seed = 2, generated = 1 }}
reject = {{ rouge_l = 0.95 }}
[step.prompts]
op = "dedup"
from = "written"
[step.responses]
op = "generate"
from = "prompts"
model = "policy"
samples = 3
sampling = {{ temperature = 1.0, max_tokens = 6 }}
{SCORES_TO_DPO}
learning_rate = 1e-3
batch_size = 4
replay = "eft"
replay_weight = 0.5
replay_batch = 2
rubric = "pipelines/listworld/judge.jinja"
[step.heldout]
op = "listworld"
data = "requests"
rows = 10
[step.answers]
op = "generate"
from = "heldout"
model = "policy"
samples = 2
sampling = {{ max_tokens = 6 }}
[step.truth]
op = "oracle"
from = "answers"
"#
    )
}
