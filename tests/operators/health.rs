//! The bounds of `[health]`, and which iterations' pairs a training has.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::process::Command;

use crate::common::program::reflux_on;
use crate::common::{RunOptions, SCORES_TO_DPO, outcome, plan, run, script};
use reflux::data::Columns;
use reflux::error::{Error, ErrorKind};
use reflux::report::Health;
use reflux::store::{Run, read_parquet};
use serde_json::Value;

/// A loop whose policy is random and whose judge is scripted; `dpo` are further keys of the training, `more` of the file.
fn pipeline(dir: &Path, dpo: &str, more: &str) -> String {
    let script = script(dir, 0);
    format!(
        r#"
[pipeline]
name = "health"
seed = 5
iterations = 3
microbatch = 8
[model.m0]
init = "pipelines/listworld/model"
[model.script]
script = {script:?}
[step.ift]
op = "listworld"
data = "ift"
rows = 20
[loop]
policy = "m0"
next = "dpo"
[step.prompts]
op = "synthesize"
from = "ift"
model = "script"
per_iteration = 20
shots = {{ seed = 2, generated = 0 }}
reject = {{ rouge_l = 1.0 }}
[step.responses]
op = "generate"
from = "prompts"
model = "policy"
samples = 3
sampling = {{ temperature = 1.0, max_tokens = 6 }}
{SCORES_TO_DPO}
learning_rate = 1e-3
batch_size = 4
checkpoint_every = 2
{dpo}
{more}
"#
    )
}

fn fails(text: &str, dir: &Path) -> Error {
    let e = run(text, dir, &RunOptions::default()).0.unwrap_err();
    assert_eq!((e.kind(), e.exit_code()), (ErrorKind::User, 2), "{e}");
    e
}

fn rows(dir: &Path, step: &str, iteration: u32) -> arrow::array::RecordBatch {
    Run::open(dir).unwrap().read_step(step, Some(iteration)).unwrap().unwrap()
}

fn made(dir: &Path, model: &str) -> Value {
    serde_json::from_slice(&std::fs::read(dir.join(format!("models/{model}/reflux.json"))).unwrap()).unwrap()
}

#[test]
fn the_values_are_those_of_the_rows() {
    let temp = tempfile::tempdir().unwrap();
    let text = pipeline(temp.path(), "", "[health]\nduplicates = { warn = -1.0 }");
    let dir = temp.path().join("run");
    run(&text, &dir, &RunOptions::default()).0.unwrap();
    let health = Health::of(&plan(&text), &Run::open(&dir).unwrap()).unwrap();
    let all = health.json();
    let value = |gate: &str| {
        let of = |r: &&Value| r["gate"] == gate && r["iteration"] == 2 && r["step"] == "dpo";
        all.as_array().unwrap().iter().find(of).unwrap()["value"].as_f64().unwrap()
    };
    let (scores, pairs) = (rows(&dir, "scores", 2), rows(&dir, "pairs", 2));
    let columns = Columns(&scores);
    let prompts: HashSet<&str> = columns.text("prompt_id").unwrap().iter().flatten().collect();
    assert!((value("pair_yield") - pairs.num_rows() as f64 / prompts.len() as f64).abs() < 1e-12);
    let judgements = columns.judgements("judgements").unwrap();
    let said: Vec<(&str, Option<f32>)> =
        (0..scores.num_rows()).flat_map(|i| judgements.row(i).collect::<Vec<_>>()).collect();
    let unread = said.iter().filter(|j| j.0 != "score").count();
    assert!(unread > 0 && (value("parse_failures") - unread as f64 / said.len() as f64).abs() < 1e-12);
    let mut histogram: BTreeMap<i64, f64> = BTreeMap::new();
    said.iter().filter_map(|j| j.1).for_each(|s| *histogram.entry(s as i64).or_default() += 1.);
    let n: f64 = histogram.values().sum();
    let bits: f64 = histogram.values().map(|c| c / n * (n / c).log2()).sum();
    assert!(bits > 1. && (value("score_entropy") - bits).abs() < 1e-9, "{bits}");
    let mut margins: Vec<f32> = Columns(&pairs).float("margin").unwrap().iter().flatten().collect();
    margins.sort_by(f32::total_cmp);
    assert!((value("margin") - f64::from(margins[(margins.len() - 1) / 2]) / 5.).abs() < 1e-12);
    let texts: HashSet<&str> = columns.text("response").unwrap().iter().flatten().collect();
    assert!((value("duplicates") - (scores.num_rows() - texts.len()) as f64 / scores.num_rows() as f64).abs() < 1e-12);
    let tokens = |column: &str| {
        let list = Columns(&pairs).tokens(column).unwrap();
        (0..pairs.num_rows()).map(|i| list.row(i).len()).sum::<usize>() as f64
    };
    assert!((value("length_gap") - (tokens("chosen_tokens") / tokens("rejected_tokens") - 1.)).abs() < 1e-12);
    let metrics = read_parquet(&dir.join("metrics/dpo/iteration=2/metrics.parquet")).unwrap();
    let rewards: Vec<f64> = Columns(&metrics).double("rewards/chosen").unwrap().iter().flatten().collect();
    let last = rewards.len().div_ceil(4);
    let mean = rewards[rewards.len() - last..].iter().sum::<f64>() / last as f64;
    let fall = -mean / 0.1 / (tokens("chosen_tokens") / pairs.num_rows() as f64);
    assert!(fall != 0. && (value("chosen_logprob") - fall).abs() < 1e-9);
    // All of three iterations; a warning is told with its advice.
    assert_eq!(all.as_array().unwrap().len(), 21);
    let lines = health.lines();
    assert!(lines.iter().any(|l| l.starts_with("dpo 3: pair_yield ") && l.contains(", chosen_logprob ")), "{lines:?}");
    let warned = lines.iter().find(|l| l.contains("above health.duplicates.warn = -1")).unwrap();
    assert!(warned.contains("temperature"), "{warned}");
}

#[test]
fn a_bound_stops_the_run_before_training_and_a_wider_one_goes_on() {
    let temp = tempfile::tempdir().unwrap();
    let whole = temp.path().join("whole");
    run(&pipeline(temp.path(), "", ""), &whole, &RunOptions::default()).0.unwrap();
    let dir = temp.path().join("run");
    let strict = pipeline(temp.path(), "", "[health]\npair_yield = { stop = 1.5 }\nscore_entropy = { stop = 9.0 }");
    for _ in 0..2 {
        let e = fails(&strict, &dir);
        let words = e.to_string();
        assert!(words.contains("iteration 1 is not trained: pair_yield is "), "{e}");
        assert!(
            words.contains("below health.pair_yield.stop = 1.5; score_entropy is ") && words.contains("= 9"),
            "{e}"
        );
        let help = e.help_text().unwrap();
        assert!(help.contains("data/errors") && help.contains("--set health.pair_yield.stop=.."), "{help}");
        assert!(
            !dir.join("models/M2").exists() && !dir.join("checkpoints/dpo").exists() && !dir.join("metrics").exists()
        );
    }
    // The wider bound is the same run: what is there stays, and the end is as if nothing had happened.
    let before = outcome(&dir);
    let wide = strict.replace("1.5", "0.1").replace("9.0", "0.1");
    run(&wide, &dir, &RunOptions::default()).0.unwrap();
    let after = outcome(&dir);
    assert!(before.iter().all(|(name, bytes)| after.get(name) == Some(bytes)));
    assert_eq!(after, outcome(&whole));
    assert!(std::fs::read_to_string(dir.join("pipeline.toml")).unwrap().contains("stop = 0.1"));
    // Anything else is another run.
    let (other, _) = (plan(&wide.replace("batch_size = 4", "batch_size = 3")), ());
    let refused = Run::create_or_open(&dir, &other.resolved, other.seed, false).unwrap_err().to_string();
    assert!(refused.contains("batch_size = 3") && !refused.contains("health"), "{refused}");
}

#[test]
fn what_is_known_after_training_stops_before_the_next_iteration() {
    let temp = tempfile::tempdir().unwrap();
    let gate = "[health]\nchosen_logprob = { stop = -100.0 }";
    for (name, schedule, gate, words) in [
        ("epochs", "", gate, "chosen_logprob is "),
        ("streaming", "data_schedule = \"streaming\"", gate, "chosen_logprob is "),
        ("late", "data_schedule = \"streaming\"", "[health]\npair_yield = { stop = 1.5 }", "pair_yield is "),
    ] {
        let dir = temp.path().join(name);
        let text = pipeline(temp.path(), schedule, gate);
        for _ in 0..2 {
            let e = fails(&text, &dir);
            assert!(e.to_string().contains(&format!("iteration 1 goes no further: {words}")), "{e}");
            assert!(dir.join("models/M2").exists() && !dir.join("data/responses/iteration=2").exists());
        }
        let whole = temp.path().join(format!("{name}-whole"));
        run(&pipeline(temp.path(), schedule, ""), &whole, &RunOptions::default()).0.unwrap();
        run(&text.replace("-100.0", "100.0").replace("1.5", "0.0"), &dir, &RunOptions::default()).0.unwrap();
        assert_eq!(outcome(&dir), outcome(&whole), "{name}");
    }
}

#[test]
fn the_command_says_what_stopped_it_and_how_the_rest_looks() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("health.toml");
    std::fs::write(&file, pipeline(temp.path(), "", "")).unwrap();
    let reflux = |set: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reflux"));
        command.current_dir(env!("CARGO_MANIFEST_DIR")).env_remove("NO_COLOR").arg("run").arg(&file);
        command.arg("--runs").arg(temp.path().join("runs")).args(["--device", "cpu"]);
        let output = command.args(set.iter().flat_map(|s| ["--set", s])).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, _, err) = reflux(&["health.parse_failures.stop=0.01"]);
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("above health.parse_failures.stop = 0.01") && err.contains("mend its pattern"), "{err}");
    let (code, out, err) = reflux(&["health.parse_failures.warn=0.02"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(err.contains("warning: ") && err.contains("above health.parse_failures.warn = 0.02"), "{err}");
    assert!(!err.contains('\u{1b}'), "colours are for terminals: {err:?}");
    assert!(out.contains("dpo 3: pair_yield ") && out.contains("above health.parse_failures.warn = 0.02"), "{out}");
    let summary: Value =
        serde_json::from_slice(&std::fs::read(temp.path().join("runs/health/summary.json")).unwrap()).unwrap();
    let one = &summary["health"].as_array().unwrap()[1];
    assert_eq!(
        (one["gate"].as_str(), one["verdict"].as_str(), &one["stop"]),
        (Some("parse_failures"), Some("warn"), &Value::Null)
    );
    // A slip in the section is found as elsewhere.
    let (code, _, err) = reflux(&["health.pair_yeild.stop=0.5"]);
    assert!(code == Some(2) && err.contains("did you mean `pair_yield`"), "{err}");
}

#[test]
fn a_training_has_the_pairs_of_the_iterations_asked_for() {
    let temp = tempfile::tempdir().unwrap();
    let with = |name: &str, data: &str| {
        let dir = temp.path().join(name);
        run(&pipeline(temp.path(), data, ""), &dir, &RunOptions::default()).0.unwrap();
        dir
    };
    let (fresh, all, two, one) = (
        with("fresh", ""),
        with("cumulative", "data = \"cumulative\""),
        with("two", "data = { window = 2 }"),
        with("one", "data = { window = 1 }"),
    );
    assert_eq!(outcome(&fresh), outcome(&one));
    let iterations = |dir: &Path, model: &str| -> Vec<u64> {
        made(dir, model)["data"].as_array().unwrap().iter().map(|d| d["iteration"].as_u64().unwrap()).collect()
    };
    assert_eq!(
        (iterations(&fresh, "M4"), iterations(&all, "M4"), iterations(&two, "M4")),
        (vec![3], vec![1, 2, 3], vec![2, 3])
    );
    assert_eq!(iterations(&all, "M2"), [1]);
    let weights = |dir: &Path, model: &str| Run::open(dir).unwrap().model(model).unwrap().hash;
    assert_eq!(weights(&fresh, "M2"), weights(&all, "M2"));
    assert_eq!(weights(&all, "M3"), weights(&two, "M3"));
    assert_ne!(weights(&fresh, "M3"), weights(&all, "M3"));
    assert_ne!(weights(&all, "M4"), weights(&two, "M4"));
    // What the policy itself wrote is recorded, what its elders wrote is computed: by its own weights.
    let n = |iteration| rows(&all, "pairs", iteration).num_rows();
    let references = rows(&all, "dpo.reference", 3);
    let text = |rows: &arrow::array::RecordBatch, column: &str| -> Vec<String> {
        Columns(rows).text(column).unwrap().iter().map(|s| s.unwrap().to_owned()).collect()
    };
    assert_eq!(references.num_rows(), n(1) + n(2) + n(3));
    let sources = text(&references, "source");
    assert!(sources[..n(3)].iter().all(|s| s == "recorded") && sources[n(3)..].iter().all(|s| s == "computed"));
    assert!(text(&references, "model").iter().all(|m| *m == weights(&all, "M3")));
    let order: Vec<String> = [3, 1, 2].iter().flat_map(|&i| text(&rows(&all, "pairs", i), "chosen_id")).collect();
    assert_eq!(text(&references, "chosen_id"), order);
    // M3 as the reference of M1's pairs says something else than M1 did when it wrote them.
    let recorded = rows(&all, "pairs", 1);
    let (then, now) = (
        Columns(&recorded).floats("chosen_logprobs").unwrap(),
        Columns(&references).floats("chosen_logprobs").unwrap(),
    );
    assert!((0..n(1)).all(|i| then.row(i).len() == now.row(n(3) + i).len()));
    assert!((0..n(1)).any(|i| then.row(i) != now.row(n(3) + i)));
    // Stopped and gone on with, the same.
    let broken = temp.path().join("broken");
    let text = pipeline(temp.path(), "data = \"cumulative\"", "");
    let mut stops = 0;
    while run(&text, &broken, &RunOptions { stop_after: Some(9), ..RunOptions::default() }).0.is_err() {
        stops += 1;
    }
    assert!(stops > 2);
    assert_eq!(outcome(&broken), outcome(&all));
    // Beside streaming there is no meaning to it.
    let text = pipeline(temp.path(), "data = \"cumulative\"\ndata_schedule = \"streaming\"", "");
    let refused = reflux::pipeline::parse_str("t.toml", &text, &[], reflux::operators::ALL).unwrap_err().render(false);
    assert!(refused.contains("those of their own iteration"), "{refused}");
    for bad in ["{ window = 0 }", "{ windows = 2 }", "7", "\"all\"", "{}"] {
        let text = pipeline(temp.path(), &format!("data = {bad}"), "");
        assert!(reflux::pipeline::parse_str("t.toml", &text, &[], reflux::operators::ALL).is_err(), "{bad}");
    }
}

/// Answers of four prompts, judged by a script; `more` are further tables.
fn judged(dir: &Path, script: &str, keys: &str, more: &str) -> String {
    let (judge, data) = (dir.join("judge.toml"), dir.join("ranked.jsonl"));
    std::fs::write(&judge, script).unwrap();
    let row = |i: usize| {
        let word = ["good", "bad"][i % 2];
        format!(
            "{{\"prompt_id\":\"p{0}\",\"prompt\":\"q {0}\",\"response_id\":\"r{i}\",\"response\":\"{word} {i}\",\"rank\":{1}}}\n",
            i / 2,
            i % 2
        )
    };
    std::fs::write(&data, (0..8).map(row).collect::<String>()).unwrap();
    format!(
        "[pipeline]\nname = \"n\"\n[model.j]\nscript = {judge:?}\n[step.q]\nop = \"read\"\ndataset = {data:?}\nschema = \"ranked\"\n\
         [step.scores]\nop = \"judge\"\nfrom = \"q\"\nmodel = \"j\"\n{keys}\n[step.pairs]\nop = \"select\"\nfrom = \"scores\"\n{more}"
    )
}

#[test]
fn bounds_hold_for_a_run_that_trains_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let script = "[[answer]]\nmatch = \"good\"\ntext = \"Score: 4\"\n[[answer]]\nmatch = \"bad 1\"\ntext = \"Hm.\"\n\
                  [[answer]]\ntext = \"Score: 2\"\n";
    let text = judged(dir, script, "samples = 1\nretries = 0", "[health]\nparse_failures = { stop = 0.1 }\n");
    for _ in 0..2 {
        let (code, said) = reflux_on(dir, &text, &["run"]);
        let words = "the run stops at a health bound on `pairs`: parse_failures is 0.125";
        assert!(code == Some(2) && said.contains(words) && said.contains("mend its pattern"), "{said}");
        assert!(!dir.join("runs/n/summary.json").exists(), "{said}");
    }
    let (code, said) = reflux_on(dir, &text, &["run", "--set", "health.parse_failures.stop=0.2"]);
    assert_eq!(code, Some(0), "{said}");
    let summary: Value = serde_json::from_slice(&std::fs::read(dir.join("runs/n/summary.json")).unwrap()).unwrap();
    let value = |gate: &str| {
        let of = |g: &&Value| g["gate"] == gate && g["step"] == "pairs" && g["iteration"] == 0;
        summary["health"].as_array().unwrap().iter().find(of).unwrap()["value"].as_f64().unwrap()
    };
    assert_eq!((value("parse_failures"), value("pair_yield"), value("margin")), (0.125, 0.75, 0.4));
    // Scores alone, of which no step makes pairs.
    let (scores, _) = text.split_once("[step.pairs]").unwrap();
    let text = format!("{scores}[health]\nscore_entropy = {{ stop = 2.0 }}\n");
    let (code, said) = reflux_on(dir, &text, &["run", "--fresh"]);
    assert!(code == Some(2) && said.contains("on `scores`: score_entropy is 0.985"), "{said}");
}

#[test]
fn pairs_of_tiny_margin_are_warned_of_before_they_are_trained_on() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    // Expected scores of 3.52 and 3.50, all of which are 4 in whole points: an entropy of 0.
    let script = "[[answer]]\nmatch = \"good\"\ntext = \"x\"\nchances = { \"4\" = 0.52, \"3\" = 0.48 }\n\
                  [[answer]]\ntext = \"x\"\nchances = { \"4\" = 0.5, \"3\" = 0.5 }\n";
    let train =
        "[model.m0]\ninit = \"pipelines/listworld/model\"\n[step.d]\nop = \"dpo\"\nfrom = \"pairs\"\nmodel = \"m0\"\n";
    let text = judged(dir, script, "mode = \"expected\"", train);
    let (code, said) = reflux_on(dir, &text, &["run"]);
    assert_eq!(code, Some(0), "{said}");
    let warned = |gate: &str| {
        let line = said
            .lines()
            .find(|l| l.contains("warning: ") && l.contains(gate))
            .unwrap_or_else(|| panic!("{gate}: {said}"));
        line.to_owned()
    };
    assert!(warned("margin is 0.004").contains("below health.margin.warn = 0.02"), "{said}");
    let remedy = "--set step.pairs.min_margin=0.5";
    assert!(warned("margin is 0.004").contains(remedy) && warned("score_entropy is 0.000").contains(remedy), "{said}");
    // What it says works when it is typed: nothing is left to train on.
    let set = remedy.split(' ').collect::<Vec<_>>();
    let (code, said) = reflux_on(dir, &text, &[&["run", "--fresh"], &set[..]].concat());
    assert!(code == Some(2) && said.contains("yielded no pair"), "{said}");
    // Where pairs are apart there is nothing to say.
    let apart = script.replace("\"4\" = 0.5, \"3\" = 0.5", "\"1\" = 1.0");
    let (code, said) = reflux_on(dir, &judged(dir, &apart, "mode = \"expected\"", train), &["run", "--fresh"]);
    assert!(code == Some(0) && !said.contains("min_margin"), "{said}");
    // Where more than a tenth of the scale is asked for already, it names more, and not less.
    let asks = ["run", "--fresh", "--set", "step.pairs.min_margin=1", "--set", "health.margin.warn=0.9"];
    let (code, said) = reflux_on(dir, &judged(dir, &apart, "mode = \"expected\"", train), &asks);
    assert!(code == Some(0) && said.contains("--set step.pairs.min_margin=2.0 leaves"), "{said}");
}

#[test]
fn pairs_beyond_the_limit_are_counted() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("run");
    run(&pipeline(temp.path(), "limit = 3", ""), &dir, &RunOptions::default()).0.unwrap();
    let opened = Run::open(&dir).unwrap();
    for entry in opened.files("dpo") {
        let pairs = rows(&dir, "pairs", entry.iteration).num_rows() as u64;
        assert!(pairs > 3);
        assert_eq!(entry.unused.get("beyond_limit"), Some(&(pairs - 3)), "iteration {}", entry.iteration);
    }
    assert_eq!(opened.files("dpo").len(), 3);
}
