//! Corrections of a finished run's scores: what is revised is what a run over the corrected scores makes, to the byte.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Array, RecordBatch, StringArray, UInt32Array};
use common::{How, files, plan, run};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use reflux::data::{Columns, List, named};
use reflux::dataflow::{Revision, revise_run};
use reflux::store::{Corrections, Run, read_parquet, write_parquet};

/// An answer: prompt, name, tokens, score, the judge's scores.
type Answer = (String, String, Vec<u32>, Option<f32>, Vec<f32>);

fn write_scores(path: &Path, answers: &[Answer]) {
    let text = |of: &dyn Fn(&Answer) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(answers.iter().map(of)))
    };
    let tokens: Vec<Vec<u32>> = answers.iter().map(|a| a.2.clone()).collect();
    let logprobs: Vec<Vec<f32>> = tokens.iter().map(|t| vec![-1.; t.len()]).collect();
    let judged = |a: &Answer| a.4.iter().map(|s| (format!("Score: {s}"), "score".to_owned(), Some(*s))).collect();
    let rows = named::SCORES
        .batch(vec![
            text(&|a| a.0.clone()),
            text(&|a| format!("say {}", a.0)),
            text(&|a| a.1.clone()),
            Arc::new(UInt32Array::from_iter_values(0..answers.len() as u32)),
            text(&|a| format!("{:?}", a.2)),
            text(&|_| "stop".into()),
            List::of_tokens(&vec![vec![1, 2]; answers.len()]),
            List::of_tokens(&tokens),
            List::of_floats(&logprobs),
            text(&|_| "writer".into()),
            Arc::new(Float32Array::from_iter(answers.iter().map(|a| a.3))),
            List::of_judgements(&answers.iter().map(judged).collect::<Vec<_>>()),
            text(&|_| "judge".into()),
        ])
        .unwrap();
    write_parquet(path, &rows).unwrap();
}

/// Below `n`.
fn draw(rng: &mut ChaCha8Rng, n: u64) -> u64 {
    rng.next_u64() % n
}

fn score(rng: &mut ChaCha8Rng) -> Option<f32> {
    // Few values, so that there are ties; sometimes none; sometimes one that differs by less than a thousandth.
    match draw(rng, 12) {
        0 => None,
        1 => Some(3.0001),
        n => Some((n % 6) as f32),
    }
}

fn answers(rng: &mut ChaCha8Rng, prompts: usize) -> Vec<Answer> {
    let mut all = Vec::new();
    for p in 0..prompts {
        for a in 0..draw(rng, 5) + 1 {
            // Some answers are the same text.
            let tokens = (0..draw(rng, 4) + 1).map(|t| t as u32).collect();
            let judged = (0..3).map(|_| draw(rng, 6) as f32).collect();
            all.push((format!("p{p:03}"), format!("p{p:03}-{a}"), tokens, score(rng), judged));
        }
    }
    all
}

fn pipeline(dir: &Path, scores: &str, select: &str) -> String {
    let (scores, others) = (dir.join(scores), dir.join("others.parquet"));
    format!(
        "[pipeline]\nname = \"r\"\nmicrobatch = 16\n[step.scores]\nop = \"read\"\ndataset = {scores:?}\n\
         [step.others]\nop = \"read\"\ndataset = {others:?}\n[step.out]\nop = \"select\"\nfrom = \"scores\"\n{select}\n"
    )
}

/// A finished run of the pipeline.
fn finished(text: &str, dir: &Path) {
    run(text, dir, &How::default()).0.unwrap();
    let plan = plan(text);
    Run::create_or_open(dir, &plan.resolved, plan.seed, false).unwrap().0.finish().unwrap();
}

fn revised(text: &str, run: &Path, fix: &Path, into: &Path) -> Revision {
    let corrections = Corrections::read(fix).unwrap();
    revise_run(&plan(text), &Arc::new(Run::open(run).unwrap()), "out", &corrections, into).unwrap()
}

/// Each row of pairs as text, with how often it is there.
fn rows(batch: &RecordBatch, count: &mut BTreeMap<String, i64>, sign: impl Fn(usize) -> i64) {
    let columns: Vec<_> = named::PAIRS.columns.iter().map(|c| batch.column_by_name(c.name).unwrap()).collect();
    for i in 0..batch.num_rows() {
        let row = columns.iter().map(|c| format!("{:?}", c.slice(i, 1))).collect::<String>();
        *count.entry(row).or_default() += sign(i);
    }
}

fn all_pairs(dir: &Path) -> BTreeMap<String, i64> {
    let mut all = BTreeMap::new();
    for name in files(&dir.join("data/out")).keys() {
        rows(&read_parquet(&dir.join("data/out").join(name)).unwrap(), &mut all, |_| 1);
    }
    all
}

const SELECTS: [&str; 5] = [
    "",
    "strategy = \"all-pairs\"\nmax_pairs = 3",
    "strategy = \"best-random\"\nmax_pairs = 2\nmin_margin = 1.5",
    "length_control = 0.3\ntie_break = \"variance\"",
    "consistency = \"others\"\nconsistency_of = \"microbatch\"\nlength_penalty = 0.25",
];

#[test]
fn revised_is_recomputed() {
    for case in 0..15u64 {
        let mut rng = ChaCha8Rng::seed_from_u64(case);
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let select = SELECTS[case as usize % SELECTS.len()];
        let before = answers(&mut rng, 40);
        write_scores(&dir.join("before.parquet"), &before);
        let mut others = before.clone();
        others.iter_mut().for_each(|a| a.3 = score(&mut rng));
        write_scores(&dir.join("others.parquet"), &others);
        // None, a few, or most of the answers are corrected.
        let share = [0, 12, 2][case as usize / SELECTS.len()];
        let (mut after, mut fix) = (before.clone(), Vec::new());
        for answer in &mut after {
            if share > 0 && draw(&mut rng, share) == 0 {
                answer.3 = score(&mut rng);
                fix.push(answer.clone());
            }
        }
        let lines = fix.iter().map(|a| format!("{}\n", serde_json::json!({"response_id": a.1, "score": a.3})));
        fs::write(dir.join("fix.jsonl"), lines.collect::<String>()).unwrap();
        write_scores(&dir.join("fix.parquet"), &fix);
        write_scores(&dir.join("after.parquet"), &after);

        let text = pipeline(dir, "before.parquet", select);
        finished(&text, &dir.join("run"));
        let untouched = files(&dir.join("run"));
        let done = revised(&text, &dir.join("run"), &dir.join("fix.jsonl"), &dir.join("new"));
        assert_eq!(files(&dir.join("run")), untouched, "the run stays as it is");
        finished(&pipeline(dir, "after.parquet", select), &dir.join("again"));

        let recomputed = files(&dir.join("again/data/out"));
        assert!(recomputed.len() > 5 && done.microbatches == recomputed.len());
        assert_eq!(files(&dir.join("new/data/out")), recomputed, "case {case}: to the byte");
        // Before, less what was withdrawn, with what was added, is after; and nothing is both withdrawn and added.
        let mut sum = all_pairs(&dir.join("run"));
        let changes = read_parquet(&dir.join("new/changes.parquet")).unwrap();
        let change = Columns(&changes).text("change").unwrap();
        let sign = |i: usize| if change.value(i) == "added" { 1 } else { -1 };
        let mut net = BTreeMap::new();
        rows(&changes, &mut net, sign);
        assert_eq!(net.values().map(|n| n.unsigned_abs() as usize).sum::<usize>(), changes.num_rows());
        rows(&changes, &mut sum, sign);
        sum.retain(|_, n| *n != 0);
        assert_eq!(sum, all_pairs(&dir.join("again")));
        assert_eq!(changes.num_rows(), done.withdrawn + done.added);
        assert_eq!(share > 0, changes.num_rows() > 0, "case {case}");
        // As Parquet, the same; and with the same lineage but for the file.
        revised(&text, &dir.join("run"), &dir.join("fix.parquet"), &dir.join("same"));
        assert_eq!(files(&dir.join("same/data")), files(&dir.join("new/data")));
        let lineage: serde_json::Value =
            serde_json::from_slice(&fs::read(dir.join("new/revision.json")).unwrap()).unwrap();
        let hash = reflux::store::hash_file(&dir.join("fix.jsonl")).unwrap().0;
        assert_eq!(lineage["corrections"]["hash"], hash);
        assert_eq!(lineage["revised"].as_array().unwrap().len(), done.touched);
    }
}

#[test]
fn only_the_microbatches_concerned_are_made_again() {
    let mut rng = ChaCha8Rng::seed_from_u64(99);
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut all = answers(&mut rng, 60);
    let of = |name: &str| (name.to_owned(), format!("{name}-"));
    for (i, given) in [5., 3., 1.].into_iter().enumerate() {
        let (prompt, answer) = of("q");
        all.push((prompt, format!("{answer}{i}"), vec![i as u32], Some(given), vec![given]));
    }
    write_scores(&dir.join("before.parquet"), &all);
    write_scores(&dir.join("others.parquet"), &all);
    let text = pipeline(dir, "before.parquet", "");
    finished(&text, &dir.join("run"));
    // The best answer loses its score: the second takes its place.
    fs::write(dir.join("fix.jsonl"), "\n{\"response_id\": \"q-0\", \"score\": null}\n").unwrap();
    let reflux = |args: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_reflux")).current_dir(dir).args(args).output().unwrap();
        let (said, told) = (String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap());
        (out.status.code(), said, told)
    };
    let (code, said, told) = reflux(&["revise", "run", "--scores", "fix.jsonl", "--into", "new"]);
    assert_eq!(code, Some(0), "{told}");
    assert!(said.contains("1 answers corrected in 1 of ") && said.contains(": 1 pairs withdrawn, 1 added;"), "{said}");
    let changes = read_parquet(&dir.join("new/changes.parquet")).unwrap();
    let text = |name: &str| -> Vec<String> {
        Columns(&changes).text(name).unwrap().iter().map(|t| t.unwrap_or("-").to_owned()).collect()
    };
    assert_eq!(text("change"), ["withdrawn", "added"]);
    assert_eq!((text("chosen_id"), text("rejected_id")), (vec!["q-0".into(), "q-1".into()], vec!["q-2".to_owned(); 2]));

    // All of them lose theirs: there is no pair, and why.
    let none = (0..3).map(|i| format!("{{\"response_id\": \"q-{i}\", \"score\": null}}\n")).collect::<String>();
    fs::write(dir.join("none.jsonl"), none).unwrap();
    let (code, said, told) = reflux(&["revise", "run", "--scores", "none.jsonl"]);
    assert_eq!(code, Some(0), "{told}");
    let into = Path::new(said.trim().rsplit_once(": ").unwrap().1).join("changes.parquet");
    let changes = read_parquet(&dir.join(into)).unwrap();
    assert_eq!(Columns(&changes).text("reason").unwrap().iter().collect::<Vec<_>>(), [Some("no_score")]);

    // What cannot be done is said, by file and line, and leaves nothing.
    fs::write(
        dir.join("bad.jsonl"),
        "{\"response_id\": \"q-0\", \"score\": 1}\n{\"response_id\": \"nobody\", \"score\": 1}\n",
    )
    .unwrap();
    for (args, says) in [
        (
            vec!["--scores", "bad.jsonl", "--into", "x"],
            "`bad.jsonl` corrects answers that are not there: line 2 `nobody`",
        ),
        (vec!["--scores", "fix.jsonl", "--into", "new"], "`new` is there already"),
        (
            vec!["--scores", "fix.jsonl", "--step", "scores", "--into", "x"],
            "`scores` is not a step of the run that makes pairs",
        ),
        (vec!["--scores", "missing.jsonl", "--into", "x"], "missing.jsonl"),
    ] {
        let (code, _, told) = reflux(&[&["revise", "run"], &args[..]].concat());
        assert_eq!(code, Some(2), "{told}");
        assert!(told.contains(says), "{told}");
        assert!(!dir.join("x").exists());
    }
}
