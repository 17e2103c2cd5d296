//! Selection through the dataflow: scores in, pairs and dropped prompts out, the same whatever the workers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use crate::common::rows::texts;
use crate::common::{RunOptions, outcome, run};
use arrow::array::{ArrayRef, Float32Array, RecordBatch, StringArray, UInt32Array};
use reflux::data::{Columns, List, named};
use reflux::dataflow::WorkerTransport;
use reflux::report::LeftOut;
use reflux::store::{Run, write_parquet};

/// An answer: prompt, name, tokens, score, the judge's scores, how it ended.
type Answer<'a> = (&'a str, &'a str, Vec<u32>, Option<f32>, Vec<f32>, &'a str);

fn scores(dir: &Path, answers: &[Answer<'_>]) -> String {
    let text = |of: &dyn Fn(&Answer<'_>) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(answers.iter().map(of)))
    };
    let tokens: Vec<Vec<u32>> = answers.iter().map(|a| a.2.clone()).collect();
    let logprobs: Vec<Vec<f32>> = tokens.iter().map(|t| vec![-1.; t.len()]).collect();
    let judgements: Vec<_> = answers
        .iter()
        .map(|a| a.4.iter().map(|s| (format!("Score: {s}"), "score".to_owned(), Some(*s))).collect())
        .collect();
    let rows = named::SCORES
        .batch(vec![
            text(&|a| a.0.into()),
            text(&|a| format!("say {}", a.0)),
            text(&|a| a.1.into()),
            Arc::new(UInt32Array::from_iter_values(0..answers.len() as u32)),
            text(&|a| a.2.iter().map(|t| format!("w{t}")).collect::<Vec<_>>().join(" ")),
            text(&|a| a.5.into()),
            List::of_tokens(&vec![vec![1, 2]; answers.len()]),
            List::of_tokens(&tokens),
            List::of_floats(&logprobs),
            text(&|_| "writer".into()),
            Arc::new(Float32Array::from_iter(answers.iter().map(|a| a.3))),
            List::of_judgements(&judgements),
            text(&|_| "judge".into()),
        ])
        .unwrap();
    let path = dir.join("scores.parquet");
    write_parquet(&path, &rows).unwrap();
    path.display().to_string()
}

fn pipeline(scores: &str, step: &str) -> String {
    format!(
        "[pipeline]\nname = \"s\"\n[step.scores]\nop = \"read\"\ndataset = {scores:?}\n[step.out]\nfrom = \"scores\"\n{step}\n"
    )
}

/// The rows of a step, and the row and code of what it left out.
fn made(dir: &Path, text: &str) -> (RecordBatch, Vec<(String, String)>) {
    run(text, dir, &RunOptions::default()).0.unwrap();
    let run = Run::open(dir).unwrap();
    let mut dropped = Vec::new();
    for entry in run.files("out") {
        let Some(rows) = run.left_out(&entry).unwrap() else { continue };
        assert!(texts(&rows, "kind").iter().all(|k| k == "dropped"));
        dropped.extend(texts(&rows, "row").into_iter().zip(texts(&rows, "code")));
    }
    (run.read_step("out", None).unwrap().unwrap(), dropped)
}

fn answers() -> Vec<Answer<'static>> {
    let answer = |prompt, name, tokens: &[u32], score: Option<f32>, judged: &[f32]| {
        (prompt, name, tokens.to_vec(), score, judged.to_vec(), "stop")
    };
    vec![
        answer("clear", "c1", &[3, 4], Some(5.), &[5., 5., 5.]),
        answer("clear", "c2", &[5], Some(1.), &[1., 1., 1.]),
        answer("clear", "c3", &[6, 7, 8, 9], Some(4.), &[4., 4., 4.]),
        answer("equal", "e1", &[3], Some(3.), &[3.]),
        answer("equal", "e2", &[4], Some(3.), &[3.]),
        answer("lonely", "l1", &[3], Some(3.), &[3.]),
        answer("lonely", "l2", &[4], None, &[]),
        answer("silent", "s1", &[3], None, &[]),
        answer("silent", "s2", &[4], Some(f32::NAN), &[]),
        answer("copies", "k1", &[3], Some(4.), &[4.]),
        answer("copies", "k2", &[3], Some(2.), &[2.]),
        answer("near", "n1", &[3, 4, 5], Some(3.5), &[3., 4.]),
        answer("near", "n2", &[6], Some(3.25), &[3.25]),
        answer("near", "n3", &[7, 7], Some(3.5), &[3.5, 3.5]),
    ]
}

fn pairs(rows: &RecordBatch) -> Vec<(String, String)> {
    texts(rows, "chosen_id").into_iter().zip(texts(rows, "rejected_id")).collect()
}

fn both(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

#[test]
fn every_prompt_gives_pairs_or_a_reason() {
    let temp = tempfile::tempdir().unwrap();
    let scores = scores(temp.path(), &answers());
    let with = |name: &str, keys: &str| {
        let out = made(&temp.path().join(name), &pipeline(&scores, &format!("op = \"select\"\n{keys}")));
        // Nothing is lost: each prompt has pairs or one reason, never both.
        let paired: BTreeSet<String> = texts(&out.0, "prompt_id").into_iter().collect();
        let mut all: Vec<String> = out.1.iter().map(|d| d.0.clone()).chain(paired).collect();
        all.sort();
        assert_eq!(all, ["clear", "copies", "equal", "lonely", "near", "silent"], "{name}");
        let (high, low, margin) = (
            Columns(&out.0).float("chosen_score").unwrap(),
            Columns(&out.0).float("rejected_score").unwrap(),
            Columns(&out.0).float("margin").unwrap(),
        );
        assert!(
            (0..out.0.num_rows())
                .all(|i| margin.value(i) > 0. && (high.value(i) > low.value(i) || keys.contains("penalty")))
        );
        out
    };
    let always = [("equal", "tie"), ("lonely", "one_answer"), ("silent", "no_score"), ("copies", "same_answer")];
    let (rows, dropped) = with("plain", "");
    assert_eq!(pairs(&rows)[0], ("c1".into(), "c2".into()));
    assert_eq!((rows.num_rows(), dropped), (2, both(&always)));
    // Of the two that are equally good the judge was surer of the second; of the shorter there is no doubt either.
    assert_eq!(pairs(&with("variance", "tie_break = \"variance\"").0)[1], ("n3".into(), "n2".into()));
    assert_eq!(pairs(&with("length", "tie_break = \"length\"").0)[1], ("n3".into(), "n2".into()));
    let (rows, dropped) = with("margin", "min_margin = 0.5");
    assert_eq!((pairs(&rows), dropped.last()), (both(&[("c1", "c2")]), Some(&("near".into(), "below_margin".into()))));
    let (rows, dropped) = with("threshold", "chosen_min = 4.5\nrejected_max = 1.0");
    let thresholds: Vec<_> = dropped.iter().filter(|d| d.1 == "threshold").map(|d| d.0.as_str()).collect();
    assert_eq!((pairs(&rows), thresholds), (both(&[("c1", "c2")]), vec!["copies", "near"]));
    let (rows, _) = with("all", "strategy = \"all-pairs\"");
    assert_eq!(pairs(&rows), both(&[("c1", "c2"), ("c3", "c2"), ("c1", "c3"), ("n1", "n2"), ("n3", "n2")]));
    assert_eq!(pairs(&with("two", "strategy = \"all-pairs\"\nmax_pairs = 1").0).len(), 2);
    let (rows, _) = with("random", "strategy = \"best-random\"\nmax_pairs = 2");
    assert_eq!(pairs(&rows).iter().filter(|p| p.0 == "c1").count(), 2);
    // A band of a quarter of 5 - 1 = 4 points: 4 is in it, but c1 is shorter; n1 is out for its length at last.
    let (rows, dropped) = with("control", "length_control = 0.25\nmax_chosen_length = 1");
    assert_eq!((rows.num_rows(), dropped.iter().filter(|d| d.1 == "too_long").count()), (0, 2));
    // Half a point a token: 4 tokens cost c3 two points, and n2 is the best of its prompt. In characters ("w3 w4") more.
    let (rows, _) = with("penalty", "strategy = \"all-pairs\"\nlength_penalty = 0.5");
    let penalised: BTreeMap<_, _> =
        pairs(&rows).into_iter().zip(Columns(&rows).float("margin").unwrap().values().to_vec()).collect();
    let want = [
        (("c1", "c2"), 3.5),
        (("c1", "c3"), 2.),
        (("c3", "c2"), 1.5),
        (("n2", "n1"), 0.75),
        (("n2", "n3"), 0.25),
        (("n3", "n1"), 0.5),
    ];
    assert_eq!(penalised, want.into_iter().map(|((a, b), m)| ((a.to_owned(), b.to_owned()), m)).collect());
    let (rows, _) = with("characters", "strategy = \"all-pairs\"\nlength_penalty = 0.01\nlength_unit = \"characters\"");
    let margin = Columns(&rows).float("margin").unwrap();
    // 5 - 0.05 against 1 - 0.02.
    assert!((margin.value(0) - 3.97).abs() < 1e-6, "{}", margin.value(0));
}

#[test]
fn workers_and_the_place_of_rows_do_not_matter() {
    let temp = tempfile::tempdir().unwrap();
    let mut many: Vec<Answer<'_>> = Vec::new();
    let names: Vec<String> = (0..120).map(|i| format!("{i:03}")).collect();
    for (i, name) in names.iter().enumerate() {
        let score = (i * 7919 % 11) as f32 / 2.;
        many.push((
            &names[i / 4],
            name,
            vec![i as u32 + 3; 1 + i % 5],
            (i % 13 > 0).then_some(score),
            vec![score, (i % 3) as f32],
            "stop",
        ));
    }
    let scores = scores(temp.path(), &many);
    for (n, keys) in
        ["strategy = \"best-random\"\nmax_pairs = 2", "length_control = 0.4", "strategy = \"all-pairs\"\nmax_pairs = 3"]
            .iter()
            .enumerate()
    {
        let text = pipeline(&scores, &format!("op = \"select\"\n{keys}"))
            .replace("name = \"s\"", "name = \"s\"\nmicrobatch = 8\nwindow = 3");
        let mut outcomes = Vec::new();
        for (workers, transport) in [(1, WorkerTransport::Typed), (3, WorkerTransport::Serialised)] {
            let dir = temp.path().join(format!("{n}-{workers}"));
            run(&text, &dir, &RunOptions { workers, transport, ..RunOptions::default() }).0.unwrap();
            outcomes.push(outcome(&dir));
        }
        assert!(outcomes[0].len() > 15);
        assert_eq!(outcomes[0], outcomes[1], "{keys}");
    }
    // Another seed draws others.
    let seeded = |seed: u32| {
        let text = pipeline(&scores, "op = \"select\"\nstrategy = \"best-random\"")
            .replace("name = \"s\"", &format!("name = \"s\"\nseed = {seed}"));
        pairs(&made(&temp.path().join(format!("seed-{seed}")), &text).0)
    };
    assert_ne!(seeded(1), seeded(2));
}

#[test]
fn positives_are_rows_to_train_on() {
    let temp = tempfile::tempdir().unwrap();
    let mut all = answers();
    all.push(("cut", "x1", vec![3], Some(5.), vec![5.], "length"));
    let scores = scores(temp.path(), &all);
    let (rows, dropped) = made(&temp.path().join("five"), &pipeline(&scores, "op = \"positives\""));
    assert_eq!((texts(&rows, "prompt"), texts(&rows, "response")), (vec!["say clear".into()], vec!["w3 w4".into()]));
    let count = |code: &str| dropped.iter().filter(|d| d.1 == code).count();
    assert_eq!((count("low_score"), count("no_score"), count("cut"), dropped.len()), (10, 3, 1, 14));
    let (rows, dropped) =
        made(&temp.path().join("three"), &pipeline(&scores, "op = \"positives\"\nscore_min = 3.0\nper_prompt = 1"));
    assert_eq!(texts(&rows, "prompt"), ["say clear", "say equal", "say lonely", "say copies", "say near"]);
    let beyond: Vec<&str> = dropped.iter().filter(|d| d.1 == "per_prompt").map(|d| d.0.as_str()).collect();
    assert_eq!(beyond, ["c3", "e2", "n2", "n3"]);
    let left_out = LeftOut::of(&Run::open(&temp.path().join("three")).unwrap()).unwrap();
    assert_eq!(left_out.lines()[0], "out: 10 dropped (per_prompt 4, no_score 3, low_score 2, cut 1)");
}
