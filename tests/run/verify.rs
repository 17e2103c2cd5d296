//! Every kind of damage to a run is named, repaired, and made good by the next `run` to the byte.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::common::program::reflux;
use crate::common::{RunOptions, copy, files, outcome, run, script, small_loop, without_checksums};
use proptest::prelude::*;
use reflux::store::Run;
use serde_json::Value;

/// The small loop: its pipeline text, a finished run, and one that was stopped in its second iteration.
struct Runs {
    text: String,
    finished: PathBuf,
    stopped: PathBuf,
    whole: BTreeMap<String, Vec<u8>>,
}

fn finish(dir: &Path) {
    let text = Run::open(dir).unwrap().pipeline_text().unwrap();
    Run::create_or_open(dir, &text, 5, false).unwrap().0.finish().unwrap();
}

fn runs() -> &'static Runs {
    static RUNS: OnceLock<Runs> = OnceLock::new();
    RUNS.get_or_init(|| {
        let temp = tempfile::tempdir().unwrap().keep();
        let text = small_loop(&temp);
        let (finished, stopped) = (temp.join("finished"), temp.join("stopped"));
        run(&text, &finished, &RunOptions::default()).0.unwrap();
        finish(&finished);
        assert!(run(&text, &stopped, &RunOptions { stop_after: Some(34), ..RunOptions::default() }).0.is_err());
        let whole = outcome(&finished);
        Runs { text, finished, stopped, whole }
    })
}

fn verify(dir: &Path, more: &[&str]) -> (Option<i32>, String, String) {
    reflux(&[&["verify", dir.to_str().unwrap()], more].concat())
}
fn json(dir: &Path) -> Value {
    serde_json::from_str(&verify(dir, &["--json"]).1).unwrap()
}

/// Damages a copy of a run, has the damage named and repaired, and runs to the end. Returns what verify said of it.
fn made_good(of: &Path, name: &str, damage: impl FnOnce(&Path)) -> Value {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("run");
    copy(of, &dir);
    assert_eq!(verify(&dir, &[]).0, Some(0), "{name}: before the damage");
    damage(&dir);
    let (code, out, err) = verify(&dir, &[]);
    assert_eq!(code, Some(1), "{name}: {out}{err}");
    assert!(out.contains("damaged: ") && err.contains("is damaged in"), "{name}: {out}{err}");
    let said = json(&dir);
    assert_eq!(said["sound"], false);
    let (code, out, err) = verify(&dir, &["--repair"]);
    assert_eq!(code, Some(0), "{name}: {out}{err}");
    // A damaged pipeline file is put back by the run itself.
    if !said["damaged"].to_string().contains("pipeline.toml") {
        let (code, out, err) = verify(&dir, &[]);
        assert_eq!(code, Some(0), "{name}, after the repair: {out}{err}");
    }
    run(&runs().text, &dir, &RunOptions::default()).0.unwrap_or_else(|e| panic!("{name}: {e}"));
    let (got, want) = (outcome(&dir), &runs().whole);
    assert!(got.keys().eq(want.keys()), "{name}: {:?}", got.keys());
    for (path, bytes) in want {
        assert!(got[path] == *bytes, "{name}: {path} is not what it was");
    }
    finish(&dir);
    let (code, out, err) = verify(&dir, &[]);
    assert_eq!(code, Some(0), "{name}, at the end: {out}{err}");
    said
}

fn cut(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() * 2 / 3]).unwrap();
}
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 4;
    fs::write(path, bytes).unwrap();
}
fn delete(path: &Path) {
    fs::remove_file(path).unwrap();
}
fn lengthen(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes.push(0);
    fs::write(path, bytes).unwrap();
}
/// Changes the manifest's lines, as a program would that does not know of checksums.
fn edit(dir: &Path, change: impl FnOnce(&mut Vec<String>)) {
    let path = dir.join("manifest.jsonl");
    let text = without_checksums(&fs::read_to_string(&path).unwrap());
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    change(&mut lines);
    fs::write(path, lines.join("\n") + "\n").unwrap();
}
fn line_of(lines: &mut [String], words: &[&str]) -> usize {
    lines.iter().position(|l| words.iter().all(|w| l.contains(w))).unwrap_or_else(|| panic!("no line with {words:?}"))
}
fn lose(lines: &mut Vec<String>, words: &[&str]) {
    let at = line_of(lines, words);
    lines.remove(at);
}
fn microbatches(said: &Value) -> u64 {
    said["repair_drops"]["microbatches"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum()
}

/// A way to damage a file.
type Way = fn(&Path);

#[test]
fn a_sound_run_is_said_to_be_sound() {
    for dir in [&runs().finished, &runs().stopped] {
        let (code, out, err) = verify(dir, &[]);
        assert!(code == Some(0) && out.contains("all as committed"), "{out}{err}");
        let said = json(dir);
        assert!(said["sound"] == true && said["strays"].as_array().unwrap().is_empty(), "{said}");
        // Repairing what is sound changes nothing.
        let before = files(dir);
        assert_eq!(verify(dir, &["--repair"]).0, Some(0));
        assert!(files(dir) == before);
    }
    let (code, _, err) = reflux(&["verify", "no/such"]);
    assert!(code == Some(2) && err.contains("no run found at"), "{err}");
    assert_eq!(reflux(&["verify", "no/such", "--repair"]).0, Some(2));
}

/// One digit of the number of lines is found as others are, whether it says too few or too many.
#[test]
fn the_last_line_counts_the_others() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("run");
    copy(&runs().finished, &dir);
    let manifest = without_checksums(&fs::read_to_string(dir.join("manifest.jsonl")).unwrap());
    let last = manifest.lines().find(|l| l.ends_with("\"kind\":\"finished\"}")).unwrap();
    let count: u64 = serde_json::from_str::<Value>(last).unwrap()["lines"].as_u64().unwrap();
    for other in [0, 1, count - 10, count - 1, count + 1, count + 10, u64::MAX] {
        let text = manifest.replace(last, &last.replace(&count.to_string(), &other.to_string()));
        fs::write(dir.join("manifest.jsonl"), text).unwrap();
        let (code, said, _) = verify(&dir, &[]);
        assert!(code == Some(1) && said.contains("damaged: manifest.jsonl: line "), "{other} for {count}: {said}");
    }
}

/// Each kind of file in each way, in a run that is finished.
#[test]
fn any_file_of_a_finished_run() {
    let ways: [(&str, Way); 4] = [("cut", cut), ("flip", flip), ("delete", delete), ("lengthen", lengthen)];
    let kinds = [
        ("data/ift/iteration=0/microbatch=00002.parquet", "a source's"),
        ("data/written/iteration=1/microbatch=00001.parquet", "a head's"),
        ("data/scores/iteration=1/microbatch=00002.parquet", "a map's"),
        ("data/pairs/iteration=2/microbatch=00000.parquet", "a reduce's"),
        ("data/dpo.reference/iteration=1/microbatch=00000.parquet", "references"),
        ("data/pairs.candidates/iteration=1/microbatch=00001.parquet", "candidates"),
        ("data/dpo/iteration=1/microbatch=00000.parquet", "an announcement"),
        ("metrics/dpo/iteration=1/metrics.parquet", "metrics"),
        ("models/M1/model.safetensors", "weights"),
        ("models/M3/tokenizer.json", "a tokenizer"),
    ];
    for (i, (file, what)) in kinds.iter().enumerate() {
        // Each way comes round on files of rows, of models and of metrics.
        let (how, damage) = ways[i % 4];
        let said = made_good(&runs().finished, &format!("{what}, {how}"), |dir| damage(&dir.join(file)));
        let damaged = said["damaged"].as_array().unwrap();
        assert_eq!(damaged.len(), 1, "{said}");
        assert_eq!(damaged[0]["path"], *file);
        let why = damaged[0]["why"].as_str().unwrap();
        let words = match how {
            "cut" => "cut short",
            "flip" => "not what was committed",
            "delete" => "gone",
            _ => "1 more than were committed",
        };
        assert!(why.contains(words), "{how}: {why}");
    }
    let errors = files(&runs().finished).into_keys().find(|n| n.starts_with("data/errors/")).unwrap();
    made_good(&runs().finished, "errors", |dir| flip(&dir.join(&errors)));
}

/// What goes is what was made of the damaged file, and no more.
#[test]
fn no_more_goes_than_has_to() {
    let all = runs();
    let drops = |file: &str| {
        let said = made_good(&all.finished, file, |dir| flip(&dir.join(file)));
        let models: Vec<String> =
            said["repair_drops"]["models"].as_array().unwrap().iter().map(|m| m.as_str().unwrap().to_owned()).collect();
        (said["repair_drops"]["microbatches"].clone(), models)
    };
    // Nobody reads what the oracle says.
    let (steps, models) = drops("data/truth/iteration=1/microbatch=00001.parquet");
    assert_eq!((steps, models.len()), (serde_json::json!({ "truth": 1 }), 0));
    // Candidates are made of the scores again, the pairs are not.
    let (steps, models) = drops("data/pairs.candidates/iteration=2/microbatch=00001.parquet");
    assert_eq!((steps, models.len()), (serde_json::json!({ "pairs.candidates": 1 }), 0));
    // An announcement is made of its model again.
    let (steps, models) = drops("data/dpo/iteration=1/microbatch=00000.parquet");
    assert_eq!((steps, models.len()), (serde_json::json!({ "dpo": 1 }), 0));
    // Scores lead to a pair, the training on it, and the last model's answers.
    let (steps, models) = drops("data/scores/iteration=2/microbatch=00001.parquet");
    assert_eq!(models, ["M3"]);
    assert_eq!(steps["scores"], 1);
    assert_eq!((&steps["responses"], &steps["written"]), (&Value::Null, &Value::Null));
    assert_eq!((&steps["dpo"], &steps["answers"], &steps["truth"]), (&1.into(), &2.into(), &2.into()), "{steps}");
    // Weights lead to all that the policy of the next iteration made, and no further back.
    let (steps, models) = drops("models/M2/model.safetensors");
    assert_eq!(models, ["M2", "M3"]);
    assert_eq!((&steps["responses"], &steps["dpo"]), (&3.into(), &2.into()), "{steps}");
    assert_eq!((&steps["written"], &steps["ift"]), (&Value::Null, &Value::Null), "a fixed model wrote the prompts");
}

#[test]
fn any_file_of_a_stopped_run() {
    let there = files(&runs().stopped);
    let data: Vec<&String> = there.keys().filter(|n| n.starts_with("data/") || n.starts_with("m")).collect();
    assert!(data.iter().any(|n| n.starts_with("models/M1")) && data.len() > 30, "{data:?}");
    let ways: [fn(&Path); 3] = [cut, flip, delete];
    for (i, file) in data.iter().filter(|n| !n.starts_with("manifest")).enumerate().filter(|(i, _)| i % 9 == 1) {
        made_good(&runs().stopped, file, |dir| ways[i % 3](&dir.join(file)));
    }
}

#[test]
fn any_line_of_the_manifest() {
    for of in [&runs().finished, &runs().stopped] {
        let said = made_good(of, "a garbled line", |dir| edit(dir, |l| l[20].truncate(30)));
        assert_eq!(said["damaged"][0]["path"], "manifest.jsonl");
        assert!(said["damaged"][0]["why"].as_str().unwrap().contains("line 21 is not JSON"), "{said}");
        // Without the first line it is still known what the run is.
        let said = made_good(of, "a garbled first line", |dir| edit(dir, |l| l[0].truncate(9)));
        assert_eq!(microbatches(&said), 0, "{said}");
        made_good(of, "two garbled lines", |dir| {
            edit(dir, |l| {
                l[0] = "{}".into();
                l[15] = String::new();
            });
        });
    }
    // Lines that can be read and are wrong.
    let scores = ["\"file\"", "\"scores\"", "\"iteration\":1", "\"microbatch\":1"];
    let changes: [(&str, &str, &str); 6] = [
        ("\"step\":\"scores\"", "\"step\":\"scoret\"", "not at"),
        ("\"iteration\":1", "\"iteration\":2", "not at"),
        ("\"rows\":", "\"rows\":1", "rows, the manifest says"),
        ("\"hash\":\"", "\"hash\":\"0", "not what was committed"),
        ("\"lineage\"", "\"lineagf\"", "cannot be read"),
        (
            "\"lineage\":[",
            "\"lineage\":[\"1111111111111111111111111111111111111111111111111111111111111111\",",
            "made from 111111111111",
        ),
    ];
    for (from, to, words) in changes {
        let said = made_good(&runs().finished, from, |dir| {
            edit(dir, |l| {
                let at = line_of(l, &scores);
                l[at] = l[at].replacen(from, to, 1);
            });
        });
        assert!(said["damaged"].to_string().contains(words), "{from}: {said}");
    }
    made_good(&runs().finished, "a line twice", |dir| {
        edit(dir, |l| {
            let at = line_of(l, &scores);
            l.insert(at, l[at].clone());
        });
    });
    made_good(&runs().finished, "a line lost", |dir| edit(dir, |l| lose(l, &scores)));
    for words in [["\"metrics\"", "\"dpo\""], ["\"model\"", "\"M2\""], ["\"file\"", "\"dpo\""], ["\"file\"", "\"eft\""]]
    {
        made_good(&runs().finished, words[1], |dir| edit(dir, |l| lose(l, &words)));
    }
    let said = made_good(&runs().finished, "another model", |dir| {
        edit(dir, |l| {
            let at = line_of(l, &["\"model\"", "\"M2\""]);
            let from = l[at].find("\"hash\":\"").unwrap() + 8;
            let digit = if l[at].as_bytes()[from] == b'0' { "1" } else { "0" };
            l[at].replace_range(from..=from, digit);
        });
    });
    assert!(said["damaged"].to_string().contains("announces"), "{said}");
    let said = made_good(&runs().finished, "a reference by other weights", |dir| {
        edit(dir, |l| {
            let at = line_of(l, &["\"dpo.reference\"", "\"iteration\":2"]);
            let from = l[at].find("\"lineage\":[\"").unwrap() + 12;
            l[at].replace_range(from..from + 64, &"1".repeat(64));
        });
    });
    assert!(said["damaged"].to_string().contains("the manifest names the weights `1111"), "{said}");
    let said = made_good(&runs().finished, "more rows than there can be", |dir| {
        edit(dir, |l| {
            let at = line_of(l, &scores);
            l[at] = l[at].replacen("\"rows\":", "\"rows\":1844674407370955", 1);
        });
    });
    assert!(said["damaged"].to_string().contains("has a count that cannot be"), "{said}");
    made_good(&runs().finished, "another seed", |dir| edit(dir, |l| l[0] = l[0].replace("\"seed\":5", "\"seed\":4")));
}

/// One wrong bit in a line of any kind is corrected, and nothing is computed again.
#[test]
fn a_wrong_bit_in_each_kind_of_line() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("run");
    copy(&runs().finished, &dir);
    let path = dir.join("manifest.jsonl");
    let whole = fs::read(&path).unwrap();
    let text = String::from_utf8(whole.clone()).unwrap();
    for kind in ["run", "input", "file", "model", "metrics", "finished"] {
        let line =
            text.lines().find(|l| l.contains(&format!("\"kind\":\"{kind}\""))).unwrap_or_else(|| panic!("no {kind}"));
        let from = text.find(line).unwrap();
        for at in [from, from + 2, from + 12, from + 40, from + line.len() / 2, from + line.len() - 1] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&path, bytes).unwrap();
            let (code, out, err) = verify(&dir, &[]);
            let words = format!("damaged: manifest.jsonl: line {} has one wrong bit", text[..from].lines().count() + 1);
            assert!(
                code == Some(1) && out.contains(&words) && out.matches("damaged: ").count() == 1,
                "{kind}, byte {at}: {out}{err}"
            );
            assert!(err.contains("removes 0 of"), "{kind}: {err}");
            assert_eq!(verify(&dir, &["--repair"]).0, Some(0));
            assert!(fs::read(&path).unwrap() == whole, "{kind}, byte {at}");
        }
    }
}

/// A last line that was not finished is no damage: the next run takes it off, and so says verify.
#[test]
fn a_cut_last_line() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("run");
    copy(&runs().stopped, &dir);
    let path = dir.join("manifest.jsonl");
    let text = fs::read(&path).unwrap();
    fs::write(&path, &text[..text.len() - 25]).unwrap();
    let (code, out, _) = verify(&dir, &[]);
    assert!(code == Some(0) && out.contains("cut: manifest.jsonl ends with"), "{out}");
    // Its file is there and has no line now.
    assert!(out.contains("left by a process that died"), "{out}");
    run(&runs().text, &dir, &RunOptions::default()).0.unwrap();
    assert!(outcome(&dir) == runs().whole);
    let (code, out, _) = verify(&dir, &[]);
    assert!(code == Some(0) && !out.contains("cut:") && !out.contains("stray"), "{out}");
}

#[test]
fn a_pipeline_file_that_is_damaged_is_put_back_by_the_run() {
    for of in [&runs().finished, &runs().stopped] {
        for damage in [cut as fn(&Path), delete] {
            let said = made_good(of, "pipeline.toml", |dir| damage(&dir.join("pipeline.toml")));
            assert_eq!(microbatches(&said), 0, "nothing else goes: {said}");
        }
    }
    // With other damage there is no plan to go by: all goes that came after.
    made_good(&runs().finished, "pipeline.toml and scores", |dir| {
        delete(&dir.join("pipeline.toml"));
        flip(&dir.join("data/scores/iteration=2/microbatch=00000.parquet"));
    });
    // Nothing is left to go by.
    let temp = tempfile::tempdir().unwrap();
    copy(&runs().finished, temp.path());
    delete(&temp.path().join("pipeline.toml"));
    edit(temp.path(), |l| l[0] = "?".into());
    let (code, _, err) = verify(temp.path(), &["--repair"]);
    assert!(code == Some(2) && err.contains("nothing says what the run is") && err.contains("--fresh"), "{err}");
}

#[test]
fn strays_are_named_and_left_alone() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("run");
    copy(&runs().finished, &dir);
    let strays = [
        ("data/scores/iteration=9/microbatch=00000.parquet", "removes it"),
        ("data/scores/iteration=1/.microbatch=00000.parquet.7-1.tmp", "removes it"),
        ("data/scores/.x.tmp", "not of this run"),
        ("data/scores/iteration=9/microbatch=00001.parquet", "not of this run"),
        ("data/notes.txt", "not of this run"),
        ("models/M1/extra.bin", "not of this run"),
        ("notes/", "not of this run"),
    ];
    for (name, _) in strays {
        let path = dir.join(if name.ends_with('/') { "notes/a" } else { name });
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }
    // Reflux wrote this one.
    fs::copy(dir.join("data/scores/iteration=1/microbatch=00000.parquet"), dir.join(strays[0].0)).unwrap();
    let (code, out, _) = verify(&dir, &[]);
    assert_eq!(code, Some(0), "{out}");
    for (name, why) in strays {
        let line = out.lines().find(|l| l.contains(name)).unwrap_or_else(|| panic!("{name}: {out}"));
        assert!(line.starts_with("stray: ") && line.ends_with(why), "{line}");
    }
    assert_eq!(json(&dir)["strays"].as_array().unwrap().len(), strays.len());
}

/// A training's state that is damaged is named and removed; the training starts from its beginning, to the same end.
#[test]
fn a_damaged_checkpoint() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("run");
    copy(&runs().stopped, &dir);
    let (open, _) = Run::create_or_open(&dir, &Run::open(&dir).unwrap().pipeline_text().unwrap(), 5, false).unwrap();
    let fill = |files: &mut reflux::store::CheckpointFiles| files.put("state", |to| Ok(to.write_all(b"a state")?));
    open.save_checkpoint("dpo", 2, 3, fill).unwrap();
    drop(open);
    assert_eq!(verify(&dir, &[]).0, Some(0));
    flip(&dir.join("checkpoints/dpo/iteration=2/step=000003/state"));
    let (code, out, _) = verify(&dir, &[]);
    assert!(code == Some(1) && out.contains("damaged: checkpoints/dpo/iteration=2/step=000003"), "{out}");
    let manifest = fs::read(dir.join("manifest.jsonl")).unwrap();
    assert_eq!(verify(&dir, &["--repair"]).0, Some(0));
    assert_eq!(fs::read(dir.join("manifest.jsonl")).unwrap(), manifest, "nothing that is committed goes");
    assert_eq!(verify(&dir, &[]).0, Some(0));
    run(&runs().text, &dir, &RunOptions::default()).0.unwrap();
    assert!(outcome(&dir) == runs().whole);
}

#[test]
fn a_run_that_is_written_is_not_repaired() {
    let temp = tempfile::tempdir().unwrap();
    copy(&runs().stopped, temp.path());
    let (_open, _) =
        Run::create_or_open(temp.path(), &Run::open(temp.path()).unwrap().pipeline_text().unwrap(), 5, false).unwrap();
    let (code, _, err) = verify(temp.path(), &["--repair"]);
    assert!(code == Some(2) && err.contains("is being written by process"), "{err}");
}

/// Through the program, with a step that is not kept: what was removed at the end is made again for the repair, and
/// removed again.
#[test]
fn a_run_with_a_step_that_was_not_kept() {
    let temp = tempfile::tempdir().unwrap();
    let script = script(temp.path(), 0);
    let text = format!(
        "[pipeline]\nname = \"part\"\nmicrobatch = 4\n[model.m]\nscript = {script:?}\n[step.prompts]\nop = \"listworld\"\ndata = \"requests\"\n\
         rows = 12\n[step.answers]\nop = \"generate\"\nfrom = \"prompts\"\nmodel = \"m\"\nsamples = 2\nkeep = false\n\
         [step.scores]\nop = \"judge\"\nfrom = \"answers\"\nmodel = \"m\"\nsamples = 2\n[step.pairs]\nop = \"select\"\nfrom = \"scores\"\n"
    );
    let file = temp.path().join("part.toml");
    fs::write(&file, text).unwrap();
    let go = || {
        let (code, _, err) = reflux(&["run", file.to_str().unwrap(), "--runs", temp.path().to_str().unwrap(), "-q"]);
        assert_eq!(code, Some(0), "{err}");
    };
    go();
    let dir = temp.path().join("part");
    let whole = outcome(&dir);
    assert!(!dir.join("data/answers").exists());
    assert_eq!(verify(&dir, &[]).0, Some(0));
    flip(&dir.join("data/scores/iteration=0/microbatch=00001.parquet"));
    let said = json(&dir);
    assert_eq!(
        said["repair_drops"]["microbatches"],
        serde_json::json!({ "answers": 3, "pairs": 1, "pairs.candidates": 1, "scores": 1 })
    );
    let (code, out, err) = verify(&dir, &["--repair"]);
    assert!(code == Some(0) && out.contains("manifest.before-repair-1.jsonl"), "{out}{err}");
    let (code, out, err) = verify(&dir, &[]);
    assert_eq!(code, Some(0), "{out}{err}");
    go();
    assert!(outcome(&dir) == whole);
    let (code, out, err) = verify(&dir, &[]);
    assert!(code == Some(0) && !out.contains("stray"), "{out}{err}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    /// One bit anywhere in what the manifest names, or in the manifest itself, is found and made good.
    #[test]
    fn one_bit_anywhere(file in any::<prop::sample::Index>(), byte in any::<prop::sample::Index>(), bit in 0..8u8) {
        let mut names: Vec<String> = runs().whole.keys().cloned().collect();
        names.extend(std::iter::repeat_n("manifest.jsonl".to_owned(), names.len() / 2));
        let name = file.get(&names).clone();
        let what = format!("{name}, {byte:?}, bit {bit}");
        let mut changed = true;
        let damage = |dir: &Path| {
            let path = dir.join(&name);
            let mut bytes = fs::read(&path).unwrap();
            let at = byte.index(bytes.len());
            // Its last line end is a cut line, which is another matter.
            changed = at + 1 < bytes.len() || name != "manifest.jsonl";
            bytes[at] ^= if changed { 1 << bit } else { 0 };
            if !changed {
                bytes[at - 3] ^= 1;
            }
            fs::write(path, bytes).unwrap();
        };
        made_good(&runs().finished, &what, damage);
    }
}
