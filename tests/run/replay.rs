//! Replays: the same files as a run of the changed pipeline from its start, without making again what lies above.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use crate::common::program::{run_program, said};
use crate::common::{RunOptions, Watch, files, outcome, plan, run, small_loop};
use candle_core::Device;
use reflux::dataflow::Replay;
use reflux::error::{ErrorKind, Result};
use reflux::model::{Model, saved_dtype};
use reflux::store::Run;

/// A finished small loop that all tests replay; its folder lives as long as they do.
fn source() -> &'static (tempfile::TempDir, String) {
    static SOURCE: OnceLock<(tempfile::TempDir, String)> = OnceLock::new();
    SOURCE.get_or_init(|| {
        let temp = tempfile::tempdir().unwrap();
        // So large a margin leaves prompts without a pair: there are rows of errors.
        let text = small_loop(temp.path()).replace("op = \"select\"", "op = \"select\"\nmin_margin = 1.5");
        run(&text, &temp.path().join("small"), &RunOptions::default()).0.unwrap();
        (temp, text)
    })
}

fn weights(dir: &Path) -> Result<String> {
    Ok(Model::load(dir, &Device::Cpu, saved_dtype(dir)?, false)?.hash)
}

/// Takes over what `from` (or the change) leaves of a run, into `dir`.
fn begin(run: &Path, before: &str, after: &str, from: &[&str], dir: &Path) -> Result<bool> {
    let (source, before, after) = (Run::open(run)?, plan(before), plan(after));
    let from: Vec<String> = from.iter().map(ToString::to_string).collect();
    Replay::new(&source, &before, &after, &from)?.begin(dir, &weights)
}

/// Replays the small loop under `after`, compares with a run of it from the start, and returns what was counted.
fn same_as_anew(name: &str, after: &str, from: &[&str]) -> Arc<Watch> {
    let (temp, text) = source();
    let (small, whole, replayed) =
        (temp.path().join("small"), temp.path().join(format!("{name}-whole")), temp.path().join(name));
    assert!(begin(&small, text, after, from, &replayed).unwrap());
    run(after, &whole, &RunOptions::default()).0.unwrap();
    let (result, watch) = run(after, &replayed, &RunOptions { workers: 2, ..RunOptions::default() });
    result.unwrap();
    let (whole, replayed) = (outcome(&whole), outcome(&replayed));
    assert_eq!(whole.keys().collect::<Vec<_>>(), replayed.keys().collect::<Vec<_>>());
    for (file, bytes) in &whole {
        assert!(bytes == &replayed[file], "{name}: {file} differs");
    }
    watch
}

/// The steps and iterations of which a microbatch was made and not taken over.
fn made(watch: &Watch) -> BTreeSet<(String, u32)> {
    watch.tally.counts().into_iter().filter(|(_, c)| c.microbatches > c.restored).map(|(of, _)| of).collect()
}

fn of(steps: &[(&str, u32)]) -> BTreeSet<(String, u32)> {
    steps.iter().map(|(s, i)| ((*s).to_owned(), *i)).collect()
}

const AFTER_DPO: &[(&str, u32)] = &[
    ("responses", 2),
    ("scores", 2),
    ("pairs", 2),
    ("dpo", 1),
    ("dpo", 2),
    ("answers", 2),
    ("answers", 3),
    ("truth", 2),
    ("truth", 3),
];

#[test]
fn another_judge_is_heard_without_answering_again() {
    let text = source().1.replace("model = \"script\"\nsamples = 2", "model = \"script\"\nsamples = 3");
    assert_ne!(text, source().1);
    let watch = same_as_anew("scores", &text, &["scores"]);
    let mut expected = of(AFTER_DPO);
    expected.extend(of(&[("scores", 1), ("pairs", 1)]));
    assert_eq!(made(&watch), expected);
}

#[test]
fn another_margin_makes_other_pairs() {
    let text = source().1.replace("min_margin = 1.5", "min_margin = 2.0");
    let watch = same_as_anew("pairs", &text, &["pairs"]);
    let mut expected = of(AFTER_DPO);
    expected.extend(of(&[("pairs", 1)]));
    assert_eq!(made(&watch), expected);
}

#[test]
fn another_beta_trains_on_the_same_pairs() {
    let text = source().1.replace("op = \"dpo\"", "op = \"dpo\"\nbeta = 0.3");
    // What has changed is found.
    let watch = same_as_anew("beta", &text, &[]);
    assert_eq!(made(&watch), of(AFTER_DPO));
    let temp = &source().0;
    let (old, new) = (outcome(&temp.path().join("small")), outcome(&temp.path().join("beta")));
    let weights = |name: &str| (&old[name], &new[name]);
    let (a, b) = weights("models/M2/model.safetensors");
    assert!(a != b, "the other beta made another model");
    let (a, b) = weights("models/M1/model.safetensors");
    assert!(a == b);
}

#[test]
fn an_iteration_more_takes_over_those_before() {
    let text = source().1.replace("iterations = 2", "iterations = 3");
    let watch = same_as_anew("longer", &text, &[]);
    assert!(made(&watch).iter().all(|(_, i)| *i >= 3), "{:?}", made(&watch));
    assert!(made(&watch).contains(&("dpo".to_owned(), 3)));
}

#[test]
fn a_stopped_replay_goes_on_to_the_same_end() {
    let (temp, text) = source();
    let after = text.replace("op = \"dpo\"", "op = \"dpo\"\nbeta = 0.2");
    let (small, whole, dir) = (temp.path().join("small"), temp.path().join("stop-whole"), temp.path().join("stop"));
    // Half a directory without a manifest, as a death while linking leaves it, is no run.
    std::fs::create_dir_all(dir.join("data/responses/iteration=1")).unwrap();
    std::fs::write(dir.join("data/responses/iteration=1/microbatch=00000.parquet"), "half").unwrap();
    assert!(begin(&small, text, &after, &["dpo"], &dir).unwrap());
    let mut stops = 0;
    while let Err(e) = run(&after, &dir, &RunOptions { stop_after: Some(3), ..RunOptions::default() }).0 {
        assert_eq!(e.kind(), ErrorKind::Cancelled, "{e}");
        assert!(!begin(&small, text, &after, &["dpo"], &dir).unwrap(), "the same command goes on");
        stops += 1;
    }
    assert!(stops >= 2, "only {stops} stops");
    run(&after, &whole, &RunOptions::default()).0.unwrap();
    assert_eq!(outcome(&whole), outcome(&dir));
}

#[test]
fn the_manifest_says_where_files_came_from_and_links_cost_nothing() {
    let (temp, text) = source();
    let after = text.replace("op = \"dpo\"", "op = \"dpo\"\nbeta = 0.7");
    let (small, dir) = (temp.path().join("small"), temp.path().join("lineage"));
    begin(&small, text, &after, &["dpo"], &dir).unwrap();
    let taken = Run::open(&dir).unwrap().taken().unwrap();
    assert_eq!((taken.run, taken.from), (small.display().to_string(), vec!["dpo".to_owned()]));
    let lines = |dir: &Path| -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(dir.join("manifest.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let (old, new) = (lines(&small), lines(&dir));
    assert_eq!(new[1]["kind"], "taken");
    assert_eq!(new[1]["pipeline"], old[0]["pipeline"], "the run's own file, by its hash");
    // The lines of inputs follow; they are not files of the run.
    let inputs = new.iter().filter(|line| line["kind"] == "input").count();
    assert_eq!(new[1]["entries"], (new.len() - 2 - inputs) as u64);
    // Each line is the source's: step, file and hash; and each file is there, with its errors, models and metrics.
    assert!(new[2..].iter().all(|line| old.contains(line)));
    let (there, before) = (files(&dir), outcome(&small));
    let taken: Vec<&String> = there.keys().filter(|f| before.contains_key(*f)).collect();
    assert!(taken.iter().any(|f| f.starts_with("data/errors/pairs/iteration-1")), "{taken:?}");
    assert!(taken.iter().any(|f| *f == "models/M1/model.safetensors") && !there.contains_key("models/M2/config.json"));
    assert!(taken.iter().any(|f| f.starts_with("metrics/m1")));
    #[cfg(unix)]
    for file in taken {
        use std::os::unix::fs::MetadataExt;
        let inode = |dir: &Path| std::fs::metadata(dir.join(file)).unwrap().ino();
        assert_eq!(inode(&dir), inode(&small), "{file}");
    }
}

#[test]
fn what_cannot_be_replayed_is_refused_with_advice() {
    let (temp, text) = source();
    let small = temp.path().join("small");
    let refused = |after: &str, from: &[&str], dir: &str| {
        let e = begin(&small, text, after, from, &temp.path().join(dir)).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::User, "{e}");
        format!("{e}\n{}", e.help_text().unwrap_or_default())
    };
    let said = refused(text, &["score"], "none");
    assert!(said.contains("no step `score`") && said.contains("did you mean `scores`?"), "{said}");
    assert!(refused(text, &[], "none").contains("nothing has changed"));
    // responses is below scores by the policy, but not in the first iteration.
    let answers = text.replace("samples = 3", "samples = 4");
    let said = refused(&answers, &["scores"], "none");
    assert!(said.contains("the step `responses`") && said.contains("--from responses makes again"), "{said}");
    assert!(!temp.path().join("none").exists(), "nothing was begun");
    // Another run of that name.
    let said = refused(text, &["dpo"], "small");
    assert!(said.contains("there is a run at") && said.contains("--into"), "{said}");
}

#[test]
fn a_damaged_file_is_not_taken_over() {
    let (temp, text) = source();
    // A copy, as the files of the shared run must stay whole.
    let small = temp.path().join("damaged");
    for (name, bytes) in files(&temp.path().join("small")) {
        let path = small.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let turn = |name: &str| {
        let path = small.join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    };
    for name in [
        "data/responses/iteration=1/microbatch=00000.parquet",
        "models/M1/model.safetensors",
        "metrics/m1/iteration=0/metrics.parquet",
    ] {
        turn(name);
        let dir = temp.path().join("from-damaged");
        let e = begin(&small, text, text, &["scores"], &dir).unwrap_err();
        let place = name.split("/model.").next().unwrap();
        assert!(e.to_string().contains(place) && e.to_string().contains("is damaged"), "{e}");
        assert!(!dir.join("manifest.jsonl").exists());
        turn(name);
    }
}

#[test]
fn rows_that_were_not_kept_or_not_made_are_missed() {
    let temp = tempfile::tempdir().unwrap();
    let text = small_loop(temp.path()).replace("iterations = 2", "iterations = 1");
    let dir = temp.path().join("short");
    let (result, _) = run(&text, &dir, &RunOptions { stop_after: Some(3), ..RunOptions::default() });
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Cancelled);
    let e = begin(&dir, &text, &text, &["pairs"], &temp.path().join("other")).unwrap_err();
    assert!(e.to_string().contains("did not get to the rows of `scores`"), "{e}");
    run(&text, &dir, &RunOptions::default()).0.unwrap();
    let (opened, _) = {
        let p = plan(&text);
        Run::create_or_open(&dir, &p.resolved, p.seed, false).unwrap()
    };
    let e = begin(&dir, &text, &text, &["pairs"], &temp.path().join("other")).unwrap_err();
    assert!(e.to_string().contains("is being written by process"), "{e}");
    opened.finish().unwrap();
    opened.drop_step("prompts").unwrap();
    drop(opened);
    let e = begin(&dir, &text, &text, &["pairs"], &temp.path().join("other")).unwrap_err();
    assert!(e.to_string().contains("the rows of `prompts` are needed"), "{e}");
    assert!(e.help_text().unwrap().contains("--from prompts"), "{e:?}");
    // From there on nothing that was dropped is needed.
    assert!(begin(&dir, &text, &text, &["prompts"], &temp.path().join("other")).unwrap());
}

#[test]
fn a_changed_file_is_refused_with_the_command_that_replays_it() {
    let temp = tempfile::tempdir().unwrap();
    let runs = temp.path().join("runs");
    let file = temp.path().join("small.toml");
    std::fs::write(&file, small_loop(temp.path()).replace("iterations = 2", "iterations = 1")).unwrap();
    let (file, runs_text) = (file.to_str().unwrap(), runs.to_str().unwrap());
    let run = |more: &[&str]| run_program(&[&["run", file, "--device", "cpu", "--runs", runs_text][..], more].concat());
    let first = run(&[]);
    assert!(first.status.success(), "{}", said(&first));
    let changed = ["--set", "step.dpo.beta=0.5", "--set", "step.dpo.learning_rate=0.002"];
    let refused = run(&changed);
    let words = said(&refused);
    assert_eq!(refused.status.code(), Some(2), "{words}");
    assert!(words.contains("the pipeline file has changed") && words.contains("+"), "{words}");
    let command =
        words.lines().find_map(|l| l.trim().strip_prefix("reflux replay ")).unwrap_or_else(|| panic!("{words}"));
    assert!(command.contains("--from dpo --set step.dpo.beta=0.5 --set step.dpo.learning_rate="), "{command}");
    // The plan first; a dry run ends there.
    let words: Vec<&str> = command.split(' ').collect();
    let replay = |more: &[&str]| run_program(&[&["replay"][..], &words, &["--device", "cpu"], more].concat());
    let dry = replay(&["--dry-run"]);
    assert!(dry.status.success(), "{}", said(&dry));
    let plan = said(&dry);
    assert!(plan.contains("from dpo\n") && plan.contains("taken over: iteration 1 ("), "{plan}");
    assert!(plan.lines().any(|l| l.trim().starts_with("dpo") && l.ends_with("made: iteration 1")), "{plan}");
    assert!(!runs.join("small-2").exists());
    let done = replay(&[]);
    assert!(done.status.success(), "{}", said(&done));
    // What it leads to is the run of the changed file: going on with it finds it finished, and anew it is the same.
    let again = run(&[&changed[..], &["--name", "small-2"]].concat());
    assert!(again.status.success() && said(&again).contains("is finished"), "{}", said(&again));
    let anew = run(&[&changed[..], &["--name", "anew"]].concat());
    assert!(anew.status.success(), "{}", said(&anew));
    assert_eq!(outcome(&runs.join("small-2")), outcome(&runs.join("anew")));
    let ls = said(&run_program(&["ls", runs.join("small-2").to_str().unwrap()]));
    assert!(ls.contains(&format!("replays {} from dpo: ", runs.join("small").display())), "{ls}");
    // Where nothing could be taken over, nothing of that kind is proposed.
    let seed = said(&run(&["--set", "pipeline.seed=6"]));
    assert!(seed.contains("--name") && !seed.contains("reflux replay"), "{seed}");
}
