//! DPO that streams: the same bytes whatever the workers, the timing, the stops and kills; and it does overlap.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::common::{RunOptions, files, outcome, run, script};
use arrow::array::{Array, RecordBatch};
use candle_core::{DType, Device};
use reflux::cancel::CancelFlag;
use reflux::data::{Columns, Schema, named};
use reflux::dataflow::{
    self, Context, Event, Map, Observer, Operator, Output, RuntimeEnv, Shared, Stage, WorkerTransport,
};
use reflux::engine::EngineConfig;
use reflux::error::{Error, ErrorKind as Fault, Result};
use reflux::model::Model;
use reflux::operators::{self, Models};
use reflux::pipeline::{self, NeedsModel, OperatorDef, Port, Shape, StepSpec};
use reflux::store::files::fault;
use reflux::store::{Run, read_parquet};
use reflux::train::losses::PairColumns;
use reflux::train::{
    AdamWConfig, Decay, ForwardLimits, Objective, Pair, Quiet, Reference, Schedule, Trainer, Warmup, usable_pairs,
};

const MICROBATCHES: usize = 8;

/// A loop whose policy is random and whose judge is scripted, `latency` milliseconds a call; `more` are keys of the DPO step.
fn pipeline(dir: &Path, latency: u64, more: &str) -> String {
    let script = script(dir, latency);
    format!(
        r#"
[pipeline]
name = "streaming"
seed = 5
iterations = 2
microbatch = 4
window = 3
[model.m0]
init = "pipelines/listworld/model"
[model.script]
script = {script:?}
[step.ift]
op = "listworld"
data = "ift"
rows = 20
[step.eft]
op = "listworld"
data = "eft"
rows = 8
[loop]
policy = "m0"
next = "dpo"
[step.prompts]
op = "synthesize"
from = "ift"
model = "script"
per_iteration = {}
shots = {{ seed = 2, generated = 0 }}
reject = {{ rouge_l = 1.0 }}
attempts = 1
[step.responses]
op = "generate"
from = "prompts"
model = "policy"
samples = 3
sampling = {{ temperature = 1.0, max_tokens = 6 }}
[step.scores]
op = "judge"
from = "responses"
model = "script"
samples = 2
retries = 0
[step.pairs]
op = "select"
from = "scores"
[step.dpo]
op = "dpo"
from = "pairs"
model = "policy"
learning_rate = 1e-3
final_learning_rate = 1e-5
warmup = 0.2
batch_size = 3
{more}
"#,
        4 * MICROBATCHES
    )
}
const STREAMING: &str = r#"
data_schedule = "streaming"
replay = "eft"
replay_weight = 0.5
replay_batch = 2
rubric = "pipelines/listworld/judge.jinja"
"#;

#[test]
fn workers_timing_and_stops_do_not_matter() {
    let temp = tempfile::tempdir().unwrap();
    let text = pipeline(temp.path(), 0, STREAMING);
    let mut want = None;
    for (workers, transport) in
        [(1, WorkerTransport::Typed), (2, WorkerTransport::Typed), (3, WorkerTransport::Serialised)]
    {
        let dir = temp.path().join(format!("w{workers}"));
        run(&text, &dir, &RunOptions { workers, transport, ..RunOptions::default() }).0.unwrap();
        let got = outcome(&dir);
        assert!(
            got.contains_key("models/M3/model.safetensors")
                && files(&dir).keys().all(|f| !f.starts_with("checkpoints"))
        );
        assert!(want.get_or_insert_with(|| got.clone()) == &got, "{workers} workers");
    }
    let want = want.unwrap();
    // A judge that takes its time, and a window of one.
    for (latency, window) in [(5, 3), (0, 1), (0, 50)] {
        let text = pipeline(temp.path(), latency, STREAMING).replace("window = 3", &format!("window = {window}"));
        let dir = temp.path().join(format!("{latency}-{window}"));
        run(&text, &dir, &RunOptions::default()).0.unwrap();
        // Another script has another hash, which its rows carry; what is trained must not know.
        let trained = |all: &BTreeMap<String, Vec<u8>>| -> Vec<(String, Vec<u8>)> {
            let of = |name: &String| name.starts_with("models/") || name.starts_with("metrics/");
            all.iter().filter(|(name, _)| of(name)).map(|(name, bytes)| (name.clone(), bytes.clone())).collect()
        };
        assert!(trained(&outcome(&dir)) == trained(&want), "latency {latency}, window {window}");
    }
    let dir = temp.path().join("stopped");
    let mut stops = 0;
    for workers in [1, 2, 3].into_iter().cycle() {
        match run(&text, &dir, &RunOptions { workers, stop_after: Some(5), ..RunOptions::default() }).0 {
            Ok(()) => break,
            Err(e) => assert_eq!(e.kind(), Fault::Cancelled, "{e}"),
        }
        stops += 1;
    }
    assert!(stops >= 8, "only {stops} stops");
    assert!(outcome(&dir) == want, "stopped {stops} times");
}

#[test]
fn killed_at_every_point_it_ends_the_same() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("pipeline.toml");
    std::fs::write(&file, pipeline(temp.path(), 0, &format!("{STREAMING}checkpoint_every = 2\n"))).unwrap();
    let go = |name: &str, fault: Option<String>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reflux"));
        command
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(["run", "-q", "--device", "cpu", "--name", name, "--runs"]);
        command.arg(temp.path()).arg(&file);
        if let Some(fault) = fault {
            command.env("REFLUX_FAULT", fault);
        }
        command.output().unwrap()
    };
    assert!(go("whole", None).status.success());
    let want = outcome(&temp.path().join("whole"));
    for point in fault::POINTS {
        // A checkpoint and a commit come past the points of a file many times.
        let often = matches!(*point, fault::AFTER_WRITE | fault::AFTER_FSYNC | fault::AFTER_RENAME);
        let stride = if often {
            37
        } else if point.contains("manifest") {
            19
        } else {
            2
        };
        let mut kills = 0;
        for nth in (1..200).step_by(stride) {
            let name = format!("{point}-{nth}");
            if go(&name, Some(format!("{point}:{nth}"))).status.success() {
                break;
            }
            kills += 1;
            let again = go(&name, None);
            assert!(again.status.success(), "{name}: {}", String::from_utf8_lossy(&again.stderr));
            let dir = temp.path().join(&name);
            assert!(outcome(&dir) == want, "{name}");
            assert!(files(&dir).keys().all(|f| !f.starts_with("checkpoints")), "{name}: checkpoints are left");
        }
        assert!(kills > 0, "{point} is never reached");
    }
}

/// The pairs of a dataset with the log-probabilities that were recorded.
fn pairs(rows: &RecordBatch) -> Vec<Pair> {
    let c = Columns(rows);
    let (prompt, chosen, rejected) =
        ["prompt_tokens", "chosen_tokens", "rejected_tokens"].map(|n| c.tokens(n).unwrap()).into();
    let (chosen_logprobs, rejected_logprobs) =
        (c.floats("chosen_logprobs").unwrap(), c.floats("rejected_logprobs").unwrap());
    let pair = |i: usize| Pair {
        id: i.to_string(),
        prompt: prompt.row(i).to_vec(),
        chosen: chosen.row(i).to_vec(),
        rejected: rejected.row(i).to_vec(),
        reference: Some(Reference {
            chosen: chosen_logprobs.row(i).to_vec(),
            rejected: rejected_logprobs.row(i).to_vec(),
        }),
        columns: PairColumns::default(),
    };
    (0..rows.num_rows()).map(pair).collect()
}

#[test]
fn it_is_the_trainer_stepped_by_hand_in_the_order_of_the_microbatches() {
    // Steps of a microbatch or two; and one of most of them, with a rest: there are 22 to 32 pairs.
    [2, 7].into_iter().for_each(stepped_by_hand);
}

fn stepped_by_hand(accumulation: usize) {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("run");
    let text = pipeline(temp.path(), 0, &format!("data_schedule = \"streaming\"\naccumulation = {accumulation}"));
    run(&text, &dir, &RunOptions::default()).0.unwrap();
    let run = Run::open(&dir).unwrap();
    // The second iteration: its policy is on disk, and sampled the answers itself.
    let model = Model::load(&dir.join("models/M2"), &Device::Cpu, DType::F32, true).unwrap();
    let mut all = Vec::new();
    for (microbatch, file) in run.files("pairs").iter().filter(|f| f.iteration == 2).enumerate() {
        let pairs = pairs(&run.load_entry(file).unwrap());
        assert_eq!(usable_pairs(model.llama.config(), &pairs, None).0.len(), pairs.len());
        let n = pairs.len() as f64;
        all.extend(pairs.into_iter().enumerate().map(|(i, pair)| (microbatch as f64 + i as f64 / n, pair)));
    }
    assert!((22..=4 * MICROBATCHES).contains(&all.len()), "{} pairs", all.len());
    let schedule =
        Schedule { decay: Decay::Cosine, learning_rate: 1e-3, final_learning_rate: 1e-5, warmup: Warmup::Share(0.2) };
    let limits = ForwardLimits { max_items: 3, ..ForwardLimits::default() };
    let mut trainer = Trainer::new(&model.llama, AdamWConfig::default(), schedule, 0, limits).unwrap();
    let mut rates = Vec::new();
    for step in all.chunks(3 * accumulation) {
        // Warm-up over a fifth of the microbatches, then half a cosine, by the place of the step's first pair.
        let (place, planned) = (step[0].0, MICROBATCHES as f64);
        let rate = if place < 0.2 * planned {
            1e-3 * place / (0.2 * planned)
        } else {
            let done = (place - 0.2 * planned) / (0.8 * planned);
            1e-5 + (1e-3 - 1e-5) * 0.5 * (1. + (std::f64::consts::PI * done).cos())
        };
        trainer.next_rate(schedule.at_place(place, planned));
        let pairs: Vec<&Pair> = step.iter().map(|(_, pair)| pair).collect();
        let m = trainer.dpo_step(&pairs, &[], &Objective::default(), &mut Quiet).unwrap();
        assert!((m.learning_rate - rate).abs() < 1e-15, "{} and {rate}", m.learning_rate);
        rates.push(m.learning_rate);
    }
    assert_eq!(model.current_hash().unwrap(), run.model("M3").unwrap().hash);
    let metrics = read_parquet(&dir.join("metrics/dpo/iteration=2/metrics.parquet")).unwrap();
    let columns = Columns(&metrics);
    assert_eq!(columns.double("learning_rate").unwrap().values().to_vec(), rates);
    let epochs = columns.double("epoch").unwrap();
    assert!(epochs.values().is_sorted() && epochs.value(epochs.len() - 1) == 1.);
}

#[test]
fn what_validation_chooses_is_kept_and_told() {
    let temp = tempfile::tempdir().unwrap();
    let first = temp.path().join("first");
    run(&pipeline(temp.path(), 0, ""), &first, &RunOptions::default()).0.unwrap();
    // A rate that is far too high, so that a later measurement is worse than an earlier one.
    let keys = |more: &str| {
        let held = format!(
            "learning_rate = 1e-1\nvalidation = \"held\"\nvalidate_every = 1\n{more}\n[step.held]\nop = \"read\"\nschema = \"pairs\"\ndataset = {:?}\n",
            first.join("data/pairs").display().to_string()
        );
        pipeline(temp.path(), 0, &held).replacen("learning_rate = 1e-3\n", "", 1)
    };
    let measured = |dir: &Path, iteration: u32| {
        let rows = read_parquet(&dir.join(format!("metrics/dpo/iteration={iteration}/metrics.parquet"))).unwrap();
        let column = Columns(&rows).double("eval_loss").unwrap().clone();
        (0..column.len()).map(|i| column.is_valid(i).then(|| column.value(i))).collect::<Vec<Option<f64>>>()
    };
    let told = |dir: &Path| -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(dir.join("models/M2/reflux.json")).unwrap()).unwrap()
    };
    for schedule in ["epochs", "streaming"] {
        let dir = temp.path().join(schedule);
        let last = temp.path().join(format!("{schedule}-last"));
        let patient = temp.path().join(format!("{schedule}-patient"));
        let text = format!("data_schedule = \"{schedule}\"");
        run(&keys(&text), &dir, &RunOptions::default()).0.unwrap();
        run(&keys(&format!("{text}\nkeep_weights = \"last\"")), &last, &RunOptions::default()).0.unwrap();
        run(&keys(&format!("{text}\npatience = 2")), &patient, &RunOptions::default()).0.unwrap();
        let losses: Vec<f64> = measured(&dir, 1).into_iter().map(Option::unwrap).collect();
        assert_eq!(measured(&last, 1), measured(&dir, 1), "measuring changes nothing");
        let best = (0..losses.len()).reduce(|a, b| if losses[b] < losses[a] { b } else { a }).unwrap();
        assert!(losses.len() > 5 && best + 3 < losses.len(), "{schedule}: {losses:?}");
        let (kept, stayed, stopped) = (told(&dir), told(&last), told(&patient));
        assert_eq!((&kept["chosen_step"], &kept["steps"]), (&(best + 1).into(), &losses.len().into()), "{schedule}");
        assert_eq!((kept["measure"].as_str(), kept["eval_loss"].as_f64()), (Some("eval_loss"), Some(losses[best])));
        assert_eq!(stayed["chosen_step"], losses.len());
        // Two measurements that are no better: the end.
        let best_until = |i| (0..=i).reduce(|a, b| if losses[b] < losses[a] { b } else { a }).unwrap();
        let until = (0..losses.len()).find(|&i| i - best_until(i) >= 2).unwrap();
        assert_eq!(stopped["steps"], until + 1, "{schedule}: {losses:?}");
        // The weights are those of that step: a run that ends there has them.
        let hash = |dir: &Path| Run::open(dir).unwrap().model("M2").unwrap().hash;
        if stopped["chosen_step"] == kept["chosen_step"] {
            assert_eq!(hash(&patient), hash(&dir));
        }
        assert_ne!(hash(&last), hash(&dir));
    }
}

/// Lets the last microbatch pass only when a training step has been taken.
struct Gate;
static STEPPED: AtomicBool = AtomicBool::new(false);

impl StepSpec for Gate {
    fn explain(&self) -> String {
        "waits".into()
    }
    fn output(&self, _: &[Port<'_>]) -> Result<&'static Schema, Vec<String>> {
        Ok(&named::PROMPTS)
    }
}
impl Operator for Gate {
    fn stage(&self) -> Stage<'_> {
        Stage::Map(self)
    }
}
impl Map for Gate {
    fn map(&self, cx: &Context<'_>, input: &RecordBatch) -> Result<Output> {
        let began = Instant::now();
        while cx.epoch.iteration == 1 && cx.epoch.microbatch as usize == MICROBATCHES - 1 && !STEPPED.load(SeqCst) {
            if began.elapsed() > Duration::from_secs(120) {
                return Err(Error::bug("no training step before the last microbatch"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut ledger = reflux::dataflow::Ledger::new(input);
        ledger.all_kept();
        ledger.close(input.clone())
    }
}
static GATE: OperatorDef<dyn Operator> = OperatorDef {
    name: "gate",
    about: "for tests",
    shape: Shape::Map,
    model: NeedsModel::No,
    min_inputs: 1,
    max_inputs: 1,
    example: "",
    parse: |_| Box::new(Gate),
};

#[derive(Default)]
struct Order(Mutex<Vec<String>>);
impl Observer for Order {
    fn event(&self, event: &Event<'_>) {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Within { step: "dpo", epoch, done, .. } => {
                log.push(format!("step {} of {}", done, epoch.iteration));
                STEPPED.store(true, SeqCst);
            }
            Event::Done { step: "scores", epoch, .. } => {
                log.push(format!("scores {} of {}", epoch.microbatch, epoch.iteration));
            }
            _ => {}
        }
    }
}

#[test]
fn steps_are_taken_before_the_last_microbatch_is_there() {
    let temp = tempfile::tempdir().unwrap();
    let text = pipeline(temp.path(), 0, STREAMING)
        .replace("[step.responses]", "[step.gate]\nop = \"gate\"\nfrom = \"prompts\"\n[step.responses]")
        .replace("op = \"generate\"\nfrom = \"prompts\"", "op = \"generate\"\nfrom = \"gate\"");
    let kinds: Vec<_> = operators::ALL.iter().copied().chain([&GATE]).collect();
    let plan = pipeline::parse_str("t.toml", &text, &[], &kinds).unwrap_or_else(|d| panic!("{}", d.render(false)));
    let (run, _) = Run::create_or_open(&temp.path().join("run"), &plan.resolved, plan.seed, false).unwrap();
    let env = RuntimeEnv::new(
        Models::new("cpu", EngineConfig { kv_memory: 64 << 20, ..EngineConfig::default() }, 5).unwrap(),
    );
    let order = Arc::new(Order::default());
    let observer = Arc::clone(&order) as Arc<dyn Observer>;
    let shared = Shared { plan: Arc::new(plan), run: Arc::new(run), env, observer, stop: CancelFlag::default() };
    dataflow::run(shared, 2, WorkerTransport::Typed).unwrap();
    let log = order.0.lock().unwrap();
    let at = |what: String| log.iter().position(|l| *l == what).unwrap_or_else(|| panic!("{what}: {log:?}"));
    assert!(at("step 1 of 1".into()) < at(format!("scores {} of 1", MICROBATCHES - 1)), "{log:?}");
    // And none before the pairs it takes can be there.
    assert!(at("step 1 of 1".into()) > at("scores 0 of 1".into()), "{log:?}");
}
