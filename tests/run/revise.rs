//! Corrections of a finished run's scores: what is revised is what a run over the corrected scores makes, to the byte.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use crate::common::scored::{answers, draw, score, write_scores};
use crate::common::{RunOptions, copy, files, plan, run, small_loop, without_checksums};
use arrow::array::{Float32Array, RecordBatch};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use reflux::data::Columns;
use reflux::dataflow::{Replay, Revision, revise_run};
use reflux::store::files::fault;
use reflux::store::{Corrections, Run, read_parquet, write_parquet};

fn pipeline(dir: &Path, scores: &str, select: &str) -> String {
    let (scores, others) = (dir.join(scores), dir.join("others.parquet"));
    format!(
        "[pipeline]\nname = \"r\"\nmicrobatch = 16\n[step.scores]\nop = \"read\"\ndataset = {scores:?}\n\
         [step.others]\nop = \"read\"\ndataset = {others:?}\n[step.out]\nop = \"select\"\nfrom = \"scores\"\n{select}\n"
    )
}

/// A finished run of the pipeline.
fn finished(text: &str, dir: &Path) {
    run(text, dir, &RunOptions::default()).0.unwrap();
    let plan = plan(text);
    Run::create_or_open(dir, &plan.resolved, plan.seed, false).unwrap().0.finish().unwrap();
}

fn revised(text: &str, run: &Path, fix: &Path, into: &Path, whole: bool) -> Revision {
    let corrections = Arc::new(Corrections::read(fix).unwrap());
    revise_run(&plan(text), &Arc::new(Run::open(run).unwrap()), "out", &corrections, into, whole).unwrap()
}

/// Each row of pairs, by what `changes.parquet` has of it, with how often it is there.
fn rows(batch: &RecordBatch, count: &mut BTreeMap<String, i64>, sign: impl Fn(usize) -> i64) {
    let of = ["prompt_id", "chosen_id", "rejected_id", "chosen_score", "rejected_score", "margin", "consistency"];
    let columns: Vec<_> = of.iter().map(|name| batch.column_by_name(name).unwrap()).collect();
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

/// The files of a pipeline that reads the pairs in a folder below `dir`.
fn read_by_a_pipeline(dir: &Path, name: &str) -> BTreeMap<String, Vec<u8>> {
    let folder = dir.join(name);
    let text = format!(
        "[pipeline]\nname = \"r\"\nmicrobatch = 7\n[step.pairs]\nop = \"read\"\nschema = \"pairs\"\ndataset = {folder:?}\n"
    );
    let into = dir.join(format!("read of {}", name.replace('/', " ")));
    finished(&text, &into);
    files(&into.join("data/pairs"))
}

const SELECTS: [&str; 8] = [
    "",
    "strategy = \"all-pairs\"\nmax_pairs = 3",
    "strategy = \"best-random\"\nmax_pairs = 2\nmin_margin = 1.5",
    "length_control = 0.3\ntie_break = \"variance\"",
    "consistency = \"others\"\nconsistency_of = \"microbatch\"\nlength_penalty = 0.25",
    "consistency = \"others\"\nlength_penalty = 0.01\nlength_unit = \"characters\"",
    "chosen_min = 3\nrejected_max = 2\ntie_break = \"length\"",
    "strategy = \"all-pairs\"\nmax_chosen_length = 3\nchosen_min = 1",
];

/// The command in a folder: exit code, what it said, what it complained of.
fn reflux(dir: &Path, args: &[&str], env: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reflux"));
    let out = command.current_dir(dir).args(args).envs(env.iter().copied()).output().unwrap();
    (out.status.code(), String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap())
}

#[test]
fn revised_is_recomputed() {
    for case in 0..24u64 {
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
        let mut given: BTreeMap<String, Option<f32>> = BTreeMap::new();
        for answer in &mut after {
            if let Some(score) = given.get(&answer.1) {
                answer.3 = *score;
            } else if share > 0 && draw(&mut rng, share) == 0 {
                answer.3 = score(&mut rng);
                given.insert(answer.1.clone(), answer.3);
                fix.push(answer.clone());
            }
        }
        // What stands before the one that was drawn, too.
        after.iter_mut().for_each(|a| a.3 = given.get(&a.1).copied().unwrap_or(a.3));
        let lines = fix.iter().map(|a| format!("{}\n", serde_json::json!({"response_id": a.1, "score": a.3})));
        fs::write(dir.join("fix.jsonl"), lines.collect::<String>()).unwrap();
        write_scores(&dir.join("fix.parquet"), &fix);
        write_scores(&dir.join("after.parquet"), &after);

        let text = pipeline(dir, "before.parquet", select);
        finished(&text, &dir.join("run"));
        let untouched = files(&dir.join("run"));
        let done = revised(&text, &dir.join("run"), &dir.join("fix.jsonl"), &dir.join("new"), true);
        assert_eq!(files(&dir.join("run")), untouched, "the run stays as it is");
        finished(&pipeline(dir, "after.parquet", select), &dir.join("again"));

        // Rows and the prompts that were left out, with their reasons.
        let recomputed = files(&dir.join("again/data/out"));
        assert!(recomputed.len() > 5 && done.microbatches == recomputed.len());
        assert!(files(&dir.join("new/data/out")) == recomputed, "case {case}: to the byte");
        let left_out = files(&dir.join("again/data/errors/out"));
        assert!(!left_out.is_empty());
        assert!(files(&dir.join("new/data/errors/out")) == left_out, "case {case}: errors, to the byte");
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
        // As Parquet and as CSV, the same.
        let csv = fix.iter().map(|a| format!("\"{}\",{}\n", a.1, a.3.map_or(String::new(), |s| s.to_string())));
        fs::write(dir.join("fix.csv"), "response_id,score\n".to_owned() + &csv.collect::<String>()).unwrap();
        for name in ["fix.parquet", "fix.csv"] {
            let into = dir.join(format!("of {name}"));
            revised(&text, &dir.join("run"), &dir.join(name), &into, true);
            assert_eq!(files(&into.join("data")), files(&dir.join("new/data")));
            assert_eq!(
                fs::read(into.join("changes.parquet")).unwrap(),
                fs::read(dir.join("new/changes.parquet")).unwrap()
            );
        }
        // From the candidates alone the same changes are found, and the pairs that are then read are those that were written.
        let quick = revised(&text, &dir.join("run"), &dir.join("fix.jsonl"), &dir.join("quick"), false);
        assert_eq!(quick, done);
        let changes_of = |name: &str| fs::read(dir.join(name).join("changes.parquet")).unwrap();
        assert!(changes_of("quick") == changes_of("new"), "case {case}: the changes");
        assert!(!dir.join("quick/data").exists());
        let kept = dir.join("run/data/out.candidates").is_dir();
        assert_eq!(kept, !select.contains("consistency"), "with another judge's scores pairs depend on more");
        let read = |name: &str| read_by_a_pipeline(dir, name);
        assert!(read("quick") == read("new/data/out"), "case {case}: as it is read");
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
    let reflux = |args: &[&str]| reflux(dir, args, &[]);
    let (code, said, told) = reflux(&["revise", "run", "--scores", "fix.jsonl", "--into", "new"]);
    assert_eq!(code, Some(0), "{told}");
    assert!(said.contains("1 answer corrected in 1 of ") && said.contains(": 1 pair withdrawn, 1 added;"), "{said}");
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
        (vec!["--scores", "missing.parquet", "--into", "x"], "missing.parquet"),
        (vec!["--scores", "missing.csv", "--into", "x"], "missing.csv"),
        (vec!["--scores", "run", "--into", "x"], "it is not a regular file"),
    ] {
        let (code, _, told) = reflux(&[&["revise", "run"], &args[..]].concat());
        assert_eq!(code, Some(2), "{told}");
        assert!(told.contains(says), "{told}");
        assert!(!dir.join("x").exists());
    }
    // The run is still what its manifest says, and what was made in it belongs there.
    let (code, said, told) = reflux(&["verify", "run"]);
    assert_eq!(code, Some(0), "{said}{told}");
    assert!(!said.contains("revised"), "{said}");
    // A run that is not finished has scores that are not there yet.
    let manifest = fs::read_to_string(dir.join("run/manifest.jsonl")).unwrap();
    let open: String =
        manifest.lines().filter(|l| !l.ends_with("\"kind\":\"finished\"}")).map(|l| format!("{l}\n")).collect();
    assert_ne!(open, manifest);
    fs::write(dir.join("run/manifest.jsonl"), &open).unwrap();
    let (code, _, told) = reflux(&["revise", "run", "--scores", "fix.jsonl", "--into", "x"]);
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("is not finished") && !dir.join("x").exists(), "{told}");
    // A damaged file is not built upon.
    fs::write(dir.join("run/manifest.jsonl"), &manifest).unwrap();
    let touched = manifest.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
    for entry in touched.filter(|e| e["step"] == "scores" && e["kind"] == "file") {
        flip(&dir.join("run").join(entry["path"].as_str().unwrap()));
    }
    let (code, _, told) = reflux(&["revise", "run", "--scores", "fix.jsonl", "--into", "x", "--whole"]);
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("damaged") && !dir.join("x").exists(), "{told}");
    // What changes is known without the answers; to read them is another thing.
    assert_eq!(reflux(&["revise", "run", "--scores", "fix.jsonl", "--into", "quick"]).0, Some(0));
    let (code, _, told) = reflux(&["show", "quick", "--limit", "0"]);
    assert!(code == Some(2) && told.contains("data/scores/") && told.contains("damaged"), "{told}");
    for path in files(&dir.join("run/data/out.candidates")).keys() {
        flip(&dir.join("run/data/out.candidates").join(path));
    }
    let (code, _, told) = reflux(&["revise", "run", "--scores", "fix.jsonl", "--into", "x"]);
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("damaged") && told.contains("out.candidates") && !dir.join("x").exists(), "{told}");
    // Made good without the pairs being made again.
    let (code, said, told) = reflux(&["verify", "run", "--repair"]);
    assert_eq!(code, Some(0), "{said}{told}");
}

/// Changes a bit in the middle of a file.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Makes a finished run of thirty prompts in `dir`, and corrections of every ninth answer.
fn run_and_fix(dir: &Path, seed: u64) {
    let all = answers(&mut ChaCha8Rng::seed_from_u64(seed), 30);
    write_scores(&dir.join("before.parquet"), &all);
    write_scores(&dir.join("others.parquet"), &all);
    finished(&pipeline(dir, "before.parquet", ""), &dir.join("run"));
    let lines = all.iter().step_by(9).map(|a| format!("{{\"response_id\": \"{}\", \"score\": 2.5}}\n", a.1));
    fs::write(dir.join("fix.jsonl"), lines.collect::<String>()).unwrap();
}

#[test]
fn the_new_pairs_are_a_dataset() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run_and_fix(dir, 7);
    let reflux = |args: &[&str]| reflux(dir, args, &[]);
    let revise = |more: &[&str]| reflux(&[&["revise", "run", "--scores", "fix.jsonl"], more].concat());
    let (code, said, told) = revise(&["--whole", "--into", "new"]);
    assert_eq!(code, Some(0), "{told}");
    assert!(said.contains(" pairs: new"), "{said}");
    // Within the run's directory and elsewhere, what is read is what would have been written.
    let (code, said, told) = revise(&[]);
    assert_eq!(code, Some(0), "{told}");
    let within = said.trim().rsplit_once(": ").unwrap().1.to_owned();
    assert!(within.starts_with("run/revised/out-"), "{said}");
    assert_eq!(revise(&["--into", "far/quick"]).0, Some(0));
    let mut all = all_pairs(&dir.join("new"));
    assert!(all.len() > 10);
    for name in [&within, "far/quick", "new"] {
        assert_eq!(read_by_a_pipeline(dir, name), read_by_a_pipeline(dir, "new/data/out"), "{name}");
        let (code, _, told) = reflux(&["show", name]);
        assert_eq!(code, Some(0), "{told}");
        let mut show = Command::new(env!("CARGO_BIN_EXE_reflux"));
        let out = show.current_dir(dir).args(["show", name, "--format", "parquet"]).output().unwrap();
        fs::write(dir.join("shown.parquet"), out.stdout).unwrap();
        let shown = read_parquet(&dir.join("shown.parquet")).unwrap();
        rows(&shown, &mut all, |_| -1);
        assert!(all.values().all(|n| *n == 0), "{name}");
        all.values_mut().for_each(|n| *n = 1);
        if name == "new" {
            continue;
        }
        assert_eq!(shown.schema().field(1).name(), "microbatch");
        let (code, said, _) = reflux(&["show", name, "--iteration", "0", "--format", "csv", "--columns", "prompt_id"]);
        assert_eq!((code, said.lines().count()), (Some(0), shown.num_rows() + 1));
    }
    // It is of pairs, and of the run that there was.
    let read = |dataset: &str, more: &str| {
        let text = format!("[pipeline]\nname = \"r\"\n[step.pairs]\nop = \"read\"\ndataset = \"{dataset}\"\n{more}\n");
        fs::write(dir.join("read.toml"), text).unwrap();
        reflux(&["run", "read.toml", "--fresh"])
    };
    let (code, _, told) = read("far/quick", "");
    assert_eq!(code, Some(0), "{told}");
    let (code, _, told) = read("far/quick", "schema = \"scores\"");
    assert!(code == Some(2) && told.contains("`far/quick` is a revision, which has `pairs`"), "{told}");
    let (code, _, told) = read("far/quick", "min_rows = 100000");
    assert!(code == Some(2) && told.contains("has ") && told.contains("min_rows"), "{told}");
    let manifest = fs::read_to_string(dir.join("run/manifest.jsonl")).unwrap();
    let is_pairs = |e: &serde_json::Value| e["step"] == "out" && e["kind"] == "file";
    let entries = manifest.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
    let first = entries.filter(is_pairs).map(|e| e["hash"].as_str().unwrap().to_owned()).next().unwrap();
    let another = without_checksums(&manifest).replace(&first, &"0".repeat(64));
    fs::write(dir.join("run/manifest.jsonl"), another).unwrap();
    let (code, _, told) = reflux(&["show", "far/quick"]);
    assert!(code == Some(2) && told.contains("is of another run than there is at"), "{told}");
    fs::write(dir.join("run/manifest.jsonl"), &manifest).unwrap();
    fs::rename(dir.join("run"), dir.join("elsewhere")).unwrap();
    for (code, _, told) in [reflux(&["show", "far/quick"]), read("far/quick", "")] {
        assert_eq!(code, Some(2), "{told}");
        assert!(told.contains("`far/quick` is a revision of the run `run`, which cannot be read at"), "{told}");
    }
    for (code, _, told) in [reflux(&["show", "new"]), read("new", "")] {
        assert_eq!(code, Some(0), "what was written is read without the run: {told}");
    }
    let (code, _, told) = reflux(&["show", &within.replace("run/", "elsewhere/")]);
    assert_eq!(code, Some(0), "{told}");
    fs::write(dir.join("far/quick/revision.json"), "{").unwrap();
    let (code, _, told) = reflux(&["show", "far/quick"]);
    assert!(code == Some(2) && told.contains("far/quick/revision.json` cannot be read"), "{told}");
}

/// A run with a loop: an iteration is revised as a replay over corrected scores makes it, the others stay.
#[test]
fn an_iteration_of_a_loop_is_revised() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let text = small_loop(dir);
    finished(&text, &dir.join("run"));
    let source = Run::open(&dir.join("run")).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    // The same run, had the judge said otherwise.
    copy(&dir.join("run"), &dir.join("other"));
    let manifest = dir.join("other/manifest.jsonl");
    let mut said = without_checksums(&fs::read_to_string(&manifest).unwrap());
    let mut fix = String::new();
    for entry in source.files("scores").into_iter().filter(|f| f.iteration == 1) {
        let rows = source.load_entry(&entry).unwrap();
        let (ids, scores) = (Columns(&rows).text("response_id").unwrap(), Columns(&rows).float("score").unwrap());
        let new: Vec<Option<f32>> = scores
            .iter()
            .zip(ids)
            .map(|(before, id)| {
                if draw(&mut rng, 3) > 0 {
                    return before;
                }
                let new = draw(&mut rng, 11) as f32 / 2.;
                fix += &format!("{{\"response_id\": \"{}\", \"score\": {new}}}\n", id.unwrap());
                Some(new)
            })
            .collect();
        let at = rows.schema().index_of("score").unwrap();
        let mut columns = rows.columns().to_vec();
        columns[at] = Arc::new(Float32Array::from(new));
        let path = dir.join("other").join(&entry.path);
        let new = write_parquet(&path, &RecordBatch::try_new(rows.schema(), columns).unwrap()).unwrap();
        said = said.replace(&entry.hash, &new.hash);
        said = said.replace(
            &format!("\"bytes\":{},\"hash\":\"{}\"", entry.bytes, new.hash),
            &format!("\"bytes\":{},\"hash\":\"{}\"", new.bytes, new.hash),
        );
    }
    fs::write(&manifest, said).unwrap();
    fs::write(dir.join("fix.jsonl"), fix).unwrap();
    let (other, plan) = (Run::open(&dir.join("other")).unwrap(), plan(&text));
    let replay = Replay::new(&other, &plan, &plan, &["pairs".to_owned()]).unwrap();
    replay.begin(&dir.join("again"), &|_| panic!("the manifest knows every file of a model")).unwrap();
    run(&text, &dir.join("again"), &RunOptions::default()).0.unwrap();

    let corrections = Arc::new(Corrections::read(&dir.join("fix.jsonl")).unwrap());
    let done = revise_run(&plan, &Arc::new(source), "pairs", &corrections, &dir.join("new"), true).unwrap();
    let run = Arc::new(Run::open(&dir.join("run")).unwrap());
    let quick = revise_run(&plan, &run, "pairs", &corrections, &dir.join("quick"), false).unwrap();
    assert_eq!(quick, done);
    let changes = |name: &str| fs::read(dir.join(name).join("changes.parquet")).unwrap();
    assert_eq!(changes("quick"), changes("new"));
    assert!(done.withdrawn > 0 && done.added > 0 && done.touched < done.microbatches, "{done:?}");
    for (part, again) in [("data/pairs/iteration=1", "again"), ("data/pairs/iteration=2", "run")] {
        assert_eq!(files(&dir.join("new").join(part)), files(&dir.join(again).join(part)), "{part}");
    }
    for (part, again) in [("data/errors/pairs/iteration-1", "again"), ("data/errors/pairs/iteration-2", "run")] {
        assert_eq!(files(&dir.join("new").join(part)), files(&dir.join(again).join(part)), "{part}");
    }
    assert_ne!(files(&dir.join("new/data/pairs/iteration=1")), files(&dir.join("run/data/pairs/iteration=1")));

    // The judge's scale is known.
    let id = corrections_id(&dir.join("fix.jsonl"));
    fs::write(dir.join("off.csv"), format!("response_id,score\n{id},45\n")).unwrap();
    let off = Arc::new(Corrections::read(&dir.join("off.csv")).unwrap());
    let source = Arc::new(Run::open(&dir.join("run")).unwrap());
    let error = revise_run(&plan, &source, "pairs", &off, &dir.join("off"), false).unwrap_err();
    assert!(error.to_string().contains("off.csv` has scores that are not on the judge's scale: line 2 45"), "{error}");
    assert!(error.help_text().unwrap().contains("from 0 to 5"));
    assert!(!dir.join("off").exists());
}

fn corrections_id(lines: &Path) -> String {
    let text = fs::read_to_string(lines).unwrap();
    let first: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    first["response_id"].as_str().unwrap().to_owned()
}

/// Whenever it is killed, or the disk is full, there is nothing or the whole revision, and the run stays as it was.
#[test]
fn a_killed_revision_leaves_nothing_or_all() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run_and_fix(dir, 5);
    for more in [None, Some("--whole")] {
        killed(dir, &[&["revise", "run", "--scores", "fix.jsonl", "--into", "new"], more.as_slice()].concat());
    }
}

fn killed(dir: &Path, revise: &[&str]) {
    let _ = fs::remove_dir_all(dir.join("new"));
    assert_eq!(reflux(dir, revise, &[]).0, Some(0));
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let whole = files(&dir.join("new"));
    let before = files(&dir.join("run"));
    let mut killed = 0;
    let mut check = |code: Option<i32>| {
        if code == Some(0) {
            assert!(files(&dir.join("new")) == whole);
            return false;
        }
        assert!(!dir.join("new").exists(), "a part of a revision has its name");
        killed += 1;
        true
    };
    for point in [fault::AFTER_WRITE, fault::AFTER_FSYNC, fault::AFTER_RENAME, fault::DISK_FULL] {
        for n in 1.. {
            let _ = fs::remove_dir_all(dir.join("new"));
            let (code, _, told) = reflux(dir, revise, &[("REFLUX_FAULT", &format!("{point}:{n}"))]);
            if !check(code) {
                break;
            }
            assert!(point != fault::DISK_FULL || (code == Some(1) && told.contains("the disk is full")), "{told}");
        }
    }
    // At any moment.
    for _ in 0..30 {
        let _ = fs::remove_dir_all(dir.join("new"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_reflux"));
        let mut child = command.current_dir(dir).args(revise).stdout(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_micros(draw(&mut rng, 60_000)));
        child.kill().unwrap();
        let code = child.wait().unwrap().code();
        // It may have been done a moment before it was killed.
        check(if dir.join("new").exists() { Some(0) } else { code });
    }
    assert!(killed > 12, "only {killed}");
    let _ = fs::remove_dir_all(dir.join("new"));
    assert_eq!(reflux(dir, revise, &[]).0, Some(0));
    assert!(files(&dir.join("new")) == whole && files(&dir.join("run")) == before);
    let left = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    assert_eq!(left.filter(|n| n.starts_with('.')).count(), 0, "what was left half-done is gone");
}
