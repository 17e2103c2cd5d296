//! What a training is held to: recorded while sampling and audited, or computed; and what comes of a bad record.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::common::rows::texts;
use crate::common::{self, RunOptions, SCORES_TO_DPO, outcome, run, script, without_checksums};
use arrow::array::{Array, ArrayRef, Float32Array, RecordBatch, StringArray};
use reflux::data::{Columns, List, named};
use reflux::error::ErrorKind;
use reflux::operators::ReferenceUse;
use reflux::store::{Run, read_parquet, write_parquet};

/// A loop on the small world whose policy samples its own pairs; `dpo` are further keys of the training.
fn text(dir: &Path, iterations: u32, dpo: &str) -> String {
    let script = script(dir, 0);
    format!(
        r#"
[pipeline]
name = "references"
seed = 5
iterations = {iterations}
microbatch = 8
[model.m0]
init = "pipelines/listworld/model"
[model.other]
init = "pipelines/listworld/model"
seed = 77
[model.script]
script = {script:?}
[step.ift]
op = "listworld"
data = "ift"
rows = 24
[step.m1]
op = "sft"
from = "ift"
model = "m0"
learning_rate = 1e-3
[loop]
policy = "m1"
next = "dpo"
[step.prompts]
op = "synthesize"
from = "ift"
model = "script"
per_iteration = 16
shots = {{ seed = 2, generated = 1 }}
reject = {{ rouge_l = 1.0 }}
[step.responses]
op = "generate"
from = "prompts"
model = "policy"
samples = 3
sampling = {{ temperature = 0.7, top_p = 0.9, max_tokens = 6 }}
{SCORES_TO_DPO}
learning_rate = 1e-3
batch_size = 4
{dpo}
"#
    )
}

fn done(text: &str, dir: &Path) -> Run {
    run(text, dir, &RunOptions::default()).0.unwrap_or_else(|e| panic!("{e}"));
    Run::open(dir).unwrap()
}
fn uses(text: &str, run: &Run) -> Vec<ReferenceUse> {
    ReferenceUse::load_all(&common::plan(text), run).unwrap()
}
fn weights(run: &Run, model: &str) -> String {
    run.model(model).unwrap().hash
}

#[test]
fn what_was_recorded_while_sampling_is_what_is_computed() {
    let temp = tempfile::tempdir().unwrap();
    let text = text(temp.path(), 2, "audit = 1.0");
    let run = done(&text, &temp.path().join("run"));
    let used = uses(&text, &run);
    assert_eq!(used.len(), 2);
    for (used, policy) in used.iter().zip(["M1", "M2"]) {
        assert!(used.recorded > 4 && used.computed == 0 && used.audited == used.recorded, "{used}");
        assert_eq!((used.hash.as_str(), used.audits_failed), (weights(&run, policy).as_str(), 0));
        // Sampling goes token by token with a cache, training all at once: the same operations in the same order.
        assert!(used.audit_difference.unwrap() < 1e-5, "{used}");
    }
    // One microbatch of references for each of pairs, with its rows; sums are those of the tokens.
    for file in run.files("pairs") {
        let (pairs, stored) = (
            run.load("pairs", file.epoch()).unwrap().unwrap(),
            run.load("dpo.reference", file.epoch()).unwrap().unwrap(),
        );
        for id in ["prompt_id", "chosen_id", "rejected_id"] {
            assert_eq!(texts(&pairs, id), texts(&stored, id));
        }
        assert_eq!(stored.schema(), named::REFERENCE.arrow());
        let (tokens, sums) = (
            Columns(&stored).floats("rejected_logprobs").unwrap(),
            Columns(&stored).double("rejected_logprob").unwrap(),
        );
        for i in 0..stored.num_rows() {
            let sum: f64 = tokens.row(i).iter().map(|&l| f64::from(l)).sum();
            assert_eq!(sums.value(i), sum);
        }
    }
    // The default audits at least one pair of a microbatch, and does not change what is learnt.
    let less = text_without_audit(temp.path());
    let other = done(&less, &temp.path().join("less"));
    assert_eq!(weights(&run, "M3"), weights(&other, "M3"));
    for used in uses(&less, &other) {
        let microbatches = other.files("pairs").iter().filter(|f| f.iteration == used.iteration && f.rows > 0).count();
        assert!(used.audited >= microbatches as u64 && used.audited < used.recorded, "{used}");
    }
}

fn text_without_audit(dir: &Path) -> String {
    text(dir, 2, "")
}

#[test]
fn every_reference_is_what_it_says_and_changes_what_is_learnt() {
    let temp = tempfile::tempdir().unwrap();
    let mut trained = Vec::new();
    let start = done(&text(temp.path(), 2, ""), &temp.path().join("start"));
    trained.push(weights(&start, "M3"));
    let path = start.dir().join("models/M2");
    let path = format!("reference = {:?}", path.to_str().unwrap());
    for (name, key, model, computed) in [
        ("m1", "reference = \"m1\"", "m1", [false, true]),
        ("base", "reference = \"base\"", "m0", [true, true]),
        ("other", "reference = \"other\"", "other", [true, true]),
        ("path", path.as_str(), "", [true, false]),
    ] {
        let text = text(temp.path(), 2, key);
        let run = done(&text, &temp.path().join(name));
        let used = uses(&text, &run);
        if !model.is_empty() {
            assert!(used.iter().all(|u| u.model == model), "{name}: {used:?}");
        }
        assert_eq!(used[0].hash, used[1].hash, "{name}: the same model in every iteration");
        // Where it is the generator after all, nothing is computed but the audit.
        for (used, computed) in used.iter().zip(computed) {
            let same = name == "path" && weights(&run, "M2") != used.hash;
            assert_eq!(used.recorded == 0, computed || same, "{name}: {used}");
            assert_eq!(used.audited == 0, used.recorded == 0, "{name}: {used}");
        }
        trained.push(weights(&run, "M3"));
        match name {
            "m1" => assert_eq!(used[0].hash, weights(&run, "M1")),
            "path" => assert_eq!(used[0].hash, weights(&start, "M2")),
            _ => assert!(run.models().iter().all(|m| m.hash != used[0].hash)),
        }
    }
    let mut different = trained.clone();
    different.sort();
    different.dedup();
    assert_eq!(different.len(), trained.len(), "{trained:?}");
}

#[test]
fn a_stream_is_held_to_where_the_policy_started() {
    let temp = tempfile::tempdir().unwrap();
    for (i, keys) in ["audit = 1.0", "reference = \"base\"", "audit = 0.0"].into_iter().enumerate() {
        let streaming = format!("{keys}\ndata_schedule = \"streaming\"");
        let name = |kind: &str| temp.path().join(format!("{kind}-{i}"));
        let epochs = done(&text(temp.path(), 1, keys), &name("epochs"));
        let stream = done(&text(temp.path(), 1, &streaming), &name("stream"));
        // The same rows of references, though the policy has moved on when the later pairs come.
        let bytes = |run: &Run| {
            let files = run.files("dpo.reference").into_iter().map(|f| std::fs::read(run.dir().join(f.path)).unwrap());
            files.collect::<Vec<_>>()
        };
        assert!(bytes(&epochs).len() > 1);
        assert_eq!(bytes(&epochs), bytes(&stream), "{keys}");
        let made = std::fs::read(stream.dir().join("models/M2/reflux.json")).unwrap();
        let made: serde_json::Value = serde_json::from_slice(&made).unwrap();
        let model = if keys.contains("base") { "m0" } else { "policy" };
        assert_eq!(made["reference"]["model"], model);
        assert_eq!(made["reference"]["audit_difference"].is_null(), keys != "audit = 1.0", "{made}");
    }
}

/// Changes a committed file and its line in the manifest, as somebody might who edits a stored dataset.
fn edit(dir: &Path, path: &str, change: impl Fn(&RecordBatch) -> RecordBatch) {
    let file = dir.join(path);
    let written = write_parquet(&file, &change(&read_parquet(&file).unwrap())).unwrap();
    let manifest = dir.join("manifest.jsonl");
    let lines = without_checksums(&std::fs::read_to_string(&manifest).unwrap());
    let change = |line: &str| {
        let mut entry: serde_json::Value = serde_json::from_str(line).unwrap();
        if entry["path"] == path {
            entry["bytes"] = written.bytes.into();
            entry["hash"] = written.hash.clone().into();
            return entry.to_string();
        }
        line.to_owned()
    };
    std::fs::write(&manifest, lines.lines().map(change).map(|l| l + "\n").collect::<String>()).unwrap();
}
/// Forgets everything from the first line that holds `what`.
fn cut(dir: &Path, what: &str) {
    let manifest = dir.join("manifest.jsonl");
    let lines = without_checksums(&std::fs::read_to_string(&manifest).unwrap());
    let kept: String = lines.lines().take_while(|l| !l.contains(what)).map(|l| l.to_owned() + "\n").collect();
    assert!(kept.len() < lines.len() && kept.contains("pairs"), "{lines}");
    std::fs::write(&manifest, kept).unwrap();
}
fn replaced(rows: &RecordBatch, name: &str, column: ArrayRef) -> RecordBatch {
    let at = rows.schema().index_of(name).unwrap();
    let mut columns = rows.columns().to_vec();
    columns[at] = column;
    RecordBatch::try_new(rows.schema(), columns).unwrap()
}
/// The recorded log-probabilities of the chosen answers, each off by `by`.
fn shifted(rows: &RecordBatch, by: f32) -> RecordBatch {
    let chosen = Columns(rows).floats("chosen_logprobs").unwrap();
    let all: Vec<Vec<f32>> = (0..rows.num_rows()).map(|i| chosen.row(i).iter().map(|l| l + by).collect()).collect();
    replaced(rows, "chosen_logprobs", List::of_floats(&all))
}

#[test]
fn a_bad_record_fails_the_audit_and_the_microbatch_is_computed() {
    let temp = tempfile::tempdir().unwrap();
    let text = text(temp.path(), 1, "audit = 0.5");
    let good = done(&text, &temp.path().join("good"));
    let bad = temp.path().join("bad");
    done(&text, &bad);
    cut(&bad, "dpo.reference");
    edit(&bad, "data/pairs/iteration=1/microbatch=00000.parquet", |rows| shifted(rows, -0.3));
    let bad = done(&text, &bad);
    let (used, fine) = (&uses(&text, &bad)[0], &uses(&text, &good)[0]);
    assert_eq!((fine.audits_failed, used.audits_failed), (0, 1), "{used}");
    let first = reflux::data::Epoch::new(1, 0);
    let rows = bad.load("dpo.reference", first).unwrap().unwrap();
    assert!(texts(&rows, "source").iter().all(|s| s == "computed"));
    assert_eq!(used.computed, rows.num_rows() as u64);
    let said = used.to_string();
    assert!(
        used.audit_difference.unwrap() > 0.01 && said.contains("1 microbatch failed the audit and was computed"),
        "{said}"
    );
    // The other microbatch's record is used; and what is learnt is what a good record teaches, up to float order.
    assert_eq!(used.recorded + used.computed, fine.recorded);
    assert!(used.recorded > 0);
    let loss = |run: &Run| {
        let metrics = run.metrics().into_iter().find(|m| m.step == "dpo").unwrap();
        let metrics = read_parquet(&run.dir().join(&metrics.path)).unwrap();
        Columns(&metrics).double("loss").unwrap().values().to_vec()
    };
    for (a, b) in loss(&good).iter().zip(loss(&bad)) {
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }
    // Without an audit the bad record would have been believed.
    let blind = common_text_blind(temp.path());
    let dir = temp.path().join("blind");
    done(&blind, &dir);
    cut(&dir, "dpo.reference");
    edit(&dir, "data/pairs/iteration=1/microbatch=00000.parquet", |rows| shifted(rows, -0.3));
    let dir = done(&blind, &dir);
    assert_eq!(uses(&blind, &dir)[0].audited, 0);
    assert!((loss(&dir)[0] - loss(&good)[0]).abs() > 1e-3);
}

fn common_text_blind(dir: &Path) -> String {
    text(dir, 1, "audit = 0.0")
}

#[test]
fn a_stopped_training_takes_the_stored_references_if_they_are_its_own() {
    let temp = tempfile::tempdir().unwrap();
    let text = text(temp.path(), 1, "reference = \"other\"");
    let whole = temp.path().join("whole");
    done(&text, &whole);
    let want = outcome(&whole);
    let broken = |name: &str| -> PathBuf {
        let dir = temp.path().join(name);
        done(&text, &dir);
        cut(&dir, "\"models/M2\"");
        dir
    };
    let again = broken("again");
    done(&text, &again);
    assert_eq!(outcome(&again), want);

    // They are read, not made again: a change of theirs shows in what is learnt.
    let file = "data/dpo.reference/iteration=1/microbatch=00000.parquet";
    let changed = broken("changed");
    edit(&changed, file, |rows| shifted(rows, -5.));
    assert_ne!(weights(&done(&text, &changed), "M2"), weights(&Run::open(&whole).unwrap(), "M2"));

    let foreign = broken("foreign");
    edit(&foreign, file, |rows| {
        replaced(rows, "model", Arc::new(StringArray::from(vec!["abc"; rows.num_rows()])) as ArrayRef)
    });
    let error = run(&text, &foreign, &RunOptions::default()).0.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::User);
    let said = error.to_string();
    assert!(said.contains("dpo.reference") && said.contains("those of the model abc"), "{said}");

    let short = broken("short");
    edit(&short, file, |rows| replaced(rows, "chosen_logprobs", List::of_floats(&vec![vec![-1.]; rows.num_rows()])));
    let said = run(&text, &short, &RunOptions::default()).0.unwrap_err().to_string();
    assert!(said.contains("tokens, but 1 and") && said.contains("microbatch 0"), "{said}");
}

#[test]
fn two_judges_make_consistent_pairs_for_cream() {
    let temp = tempfile::tempdir().unwrap();
    let with = |select: &str, dpo: &str| {
        let other = "[step.others]\nop = \"judge\"\nfrom = \"responses\"\nmodel = \"script\"\nsamples = 1\n[step.pairs]\nop = \"select\"\nconsistency = \"others\"\n";
        text(temp.path(), 1, dpo).replace("[step.pairs]\nop = \"select\"\n", &format!("{other}{select}"))
    };
    let (each, mean) = (with("", "loss = \"cream\""), with("consistency_of = \"microbatch\"\n", "loss = \"cream\""));
    let run = done(&each, &temp.path().join("each"));
    let mut seen = Vec::new();
    for file in run.files("pairs") {
        let rows = run.load("pairs", file.epoch()).unwrap().unwrap();
        let of = |step: &str| run.load(step, file.epoch()).unwrap().unwrap();
        let (ours, theirs) = (of("scores"), of("others"));
        let c = Columns(&rows).float("consistency").unwrap();
        for (i, prompt) in texts(&rows, "prompt_id").iter().enumerate() {
            let prompts = texts(&ours, "prompt_id");
            let (a, b) = (Columns(&ours).float("score").unwrap(), Columns(&theirs).float("score").unwrap());
            assert_eq!(texts(&ours, "response_id"), texts(&theirs, "response_id"));
            let both: Vec<usize> =
                (0..prompts.len()).filter(|&j| prompts[j] == *prompt && a.is_valid(j) && b.is_valid(j)).collect();
            let of = |c: &Float32Array| both.iter().map(|&j| f64::from(c.value(j))).collect::<Vec<_>>();
            let tau = reflux::eval::statistics::kendall_tau(&of(a), &of(b)).unwrap_or(0.);
            assert_eq!(c.value(i), ((tau + 1.) / 2.) as f32);
            seen.push(c.value(i));
        }
    }
    assert!(seen.iter().any(|c| *c > 0.5) && seen.iter().any(|c| *c < 0.5), "{seen:?}");
    let mean_run = done(&mean, &temp.path().join("mean"));
    for file in mean_run.files("pairs") {
        let load = |run: &Run| run.load("pairs", file.epoch()).unwrap().unwrap();
        let (rows, single) = (load(&mean_run), load(&run));
        let (c, each) = (Columns(&rows).float("consistency").unwrap(), Columns(&single).float("consistency").unwrap());
        let want = each.values().iter().map(|&v| f64::from(v)).sum::<f64>() / each.len() as f64;
        assert!(c.values().iter().all(|&v| (f64::from(v) - want).abs() < 1e-6), "{c:?} {want}");
    }
    // Without another judge there is nothing that the loss could read.
    let alone = text(temp.path(), 1, "loss = \"cream\"");
    let problems = reflux::pipeline::parse_str("alone.toml", &alone, &[], reflux::operators::ALL);
    let problems = problems.expect_err("cream without a second judge is refused").render(false);
    assert!(problems.contains("consistency = \"STEP\""), "{problems}");
    let plain = done(&text(temp.path(), 1, ""), &temp.path().join("plain"));
    assert_ne!(weights(&run, "M2"), weights(&plain, "M2"));
}
