//! What servers were paid for: kept whatever happens to the disk, told and asked again where it is damaged, and never
//! needed again once the rows are there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::common;
use crate::common::program::said;
use crate::models::{answer, command, completions, pipeline, rows, run};
use crate::stub::Stub;

/// Probes of a chat server, which are sent at each start.
const PROBES: usize = 4;

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-r").args([from, to]).status().unwrap().success());
}

fn go_on(file: &Path, runs: &Path) -> Output {
    run(file, runs, &["--set", "model.far.max_tokens=1000000"])
}

/// The only file of replies of an interrupted run, and its lines.
fn replies(run: &Path) -> (PathBuf, Vec<String>) {
    let files = common::files(&run.join("replies"));
    let longest = files.into_iter().filter(|(name, _)| !name.contains("usage")).max_by_key(|(_, bytes)| bytes.len());
    let (name, bytes) = longest.unwrap();
    let lines = String::from_utf8(bytes).unwrap().lines().map(|line| format!("{line}\n")).collect();
    (run.join("replies").join(name), lines)
}

/// A line with other contents, and the checksum of these.
fn forged(line: &str, key: &str, value: Value) -> String {
    let mut object: serde_json::Map<String, Value> = serde_json::from_str(line).unwrap();
    object.remove("sum");
    object[key] = value;
    let json = Value::Object(object).to_string();
    let sum = blake3::hash(&json.as_bytes()[1..]).to_hex();
    format!("{{\"sum\":\"{}\",{}\n", &sum[..16], &json[1..])
}

fn cost(run: &Path) -> f64 {
    let summary: Value = serde_json::from_slice(&fs::read(run.join("summary.json")).unwrap()).unwrap();
    summary["engines"][0]["cost"].as_f64().unwrap()
}

#[test]
fn damaged_replies_are_told_asked_again_and_never_used() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let stub = Stub::start(answer);
    let keys = "max_in_flight = 1\nprice = { input = 1000.0, output = 1000.0 }\nmax_tokens = ";
    let file = pipeline(dir, &[stub.url()], &format!("{keys}1000000"));
    assert!(run(&file, &dir.join("calm"), &[]).status.success());
    let (whole, calm) = (completions(&stub).len() - PROBES, rows(&dir.join("calm/remote")));
    // Stopped in the middle of a microbatch, at the budget.
    let file = pipeline(dir, &[stub.url()], &format!("{keys}600"));
    let stopped = run(&file, &dir.join("stopped"), &[]);
    assert!(said(&stopped).contains("the budget of model `smol` is spent"), "{}", said(&stopped));
    let first = completions(&stub).len() - whole - 2 * PROBES;
    let (path, lines) = replies(&dir.join("stopped/remote"));
    let n = lines.len();
    assert!(n >= 2, "{lines:?}");
    let name = path.strip_prefix(dir.join("stopped")).unwrap();
    let text = lines.concat();
    let flipped = text.replacen("completion", "complftion", 1);
    let other = |key: &str, value: Value| lines.iter().map(|line| forged(line, key, value.clone())).collect::<String>();
    let cases: [(&str, String, usize, &str); 6] = [
        ("intact", text.clone(), 0, ""),
        ("cut", text[..text.len() - 9].to_owned(), 1, ""),
        ("twice", format!("{text}{text}"), 0, ""),
        ("flipped", flipped, 1, "cannot be used: the file was damaged. Their requests are sent again"),
        ("of another request", other("request", json!("00".repeat(32))), n, "answered no request of this microbatch"),
        ("of another model", other("model", json!("near")), n, "answered no request of this microbatch"),
    ];
    let mut of_intact = None;
    for (what, text, again, words) in cases {
        let runs = dir.join(what);
        copy(&dir.join("stopped"), &runs);
        fs::write(runs.join(name), text).unwrap();
        let before = completions(&stub).len();
        let output = go_on(&file, &runs);
        let heard = said(&output);
        assert!(output.status.success(), "{what}: {heard}");
        assert!(rows(&runs.join("remote")) == calm, "{what}");
        let sent = completions(&stub).len() - before;
        let of_intact = *of_intact.get_or_insert(sent);
        assert_eq!(sent, of_intact + again, "{what}");
        // What was in flight when the budget was spent may have been answered too.
        assert!(of_intact <= whole - first + PROBES + 4, "{of_intact} of {whole}, {first} at first");
        assert!(heard.contains(words), "{what}: {heard}");
        assert_eq!(heard.contains("warning") || heard.contains("WARN"), !words.is_empty(), "{what}: {heard}");
        assert!(!runs.join("remote/replies/judged").exists(), "{what}");
        if again == 0 {
            assert!((cost(&runs.join("remote")) - cost(&dir.join("calm/remote"))).abs() < 1e-9, "{what}");
        }
    }
}

#[test]
fn verify_names_damaged_replies_and_a_repair_drops_them() {
    let dir = tempfile::tempdir().unwrap();
    let stub = Stub::start(answer);
    let file = pipeline(dir.path(), &[stub.url()], "max_in_flight = 1\nmax_tokens = 600");
    let place = dir.path().join("remote");
    run(&file, dir.path(), &[]);
    let verify = |more: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_reflux")).arg("verify").arg(&place).args(more).output().unwrap()
    };
    assert!(verify(&[]).status.success(), "{}", said(&verify(&[])));
    let usage = place.join("replies/usage.jsonl");
    for (path, words) in [
        (replies(&place).0, "lines are damaged: their requests are sent again"),
        (usage, "lines are damaged: what they count is not in the cost of the run"),
    ] {
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replacen("prompt", "prumpt", 1)).unwrap();
        let found = verify(&[]);
        assert_eq!(found.status.code(), Some(1), "{}", said(&found));
        assert!(said(&found).contains(&format!("1 of {} {words}", text.lines().count())), "{}", said(&found));
        let repaired = verify(&["--repair"]);
        assert!(repaired.status.success() && verify(&[]).status.success(), "{}", said(&repaired));
        assert_eq!(fs::read_to_string(&path).unwrap(), text.split_inclusive('\n').skip(1).collect::<String>());
    }
    assert!(go_on(&file, dir.path()).status.success());
}

/// The run was stopped by the disk: it says so, keeps what is paid for, and goes on as if nothing had been.
fn goes_on(stub: &Stub, file: &Path, runs: &Path, output: &Output, words: &str) {
    let heard = said(output);
    assert_eq!(output.status.code(), Some(1), "{heard}");
    assert!(heard.contains("error: ") && heard.contains(words) && !heard.contains("panicked"), "{heard}");
    let again = run(file, runs, &[]);
    assert!(again.status.success(), "{}", said(&again));
    let sent = completions(stub);
    let distinct: BTreeSet<&String> = sent.iter().collect();
    // The probes of the second start, what was in flight, and what each of the jobs under way, three for a step, could
    // not write.
    let twice = sent.len() - distinct.len();
    assert!(twice <= PROBES + 2 * 2 * 3, "{twice} of {} were sent twice", sent.len());
    let calm = runs.with_extension("calm");
    assert!(run(file, &calm, &[]).status.success());
    assert!(rows(&runs.join("remote")) == rows(&calm.join("remote")));
}

#[test]
fn a_disk_that_is_full_or_cannot_be_written_loses_only_what_was_in_flight() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let place: PathBuf = dir.join("folder/remote/replies/judged");
    let aside = dir.join("aside");
    // Before the tenth judgement is answered, their folder is moved away, and a file is in its place.
    let judged = AtomicUsize::new(0);
    let stub = Stub::start({
        let (place, aside) = (place.clone(), aside.clone());
        move |request| {
            if request.body.contains("Score:") && place.is_dir() {
                let nth = judged.fetch_add(1, Ordering::SeqCst);
                if nth == 10 && fs::rename(&place, &aside).is_ok() {
                    fs::write(&place, "").unwrap();
                }
            }
            answer(request).delay(Duration::from_millis(5))
        }
    });
    let file = pipeline(dir, &[stub.url()], "max_in_flight = 2");
    assert!(run(&file, &dir.join("calm"), &[]).status.success());
    let of_calm = completions(&stub).len();
    let output = run(&file, &dir.join("folder"), &[]);
    fs::remove_file(&place).unwrap();
    fs::rename(&aside, &place).unwrap();
    let heard = said(&output);
    assert_eq!(output.status.code(), Some(1), "{heard}");
    assert!(heard.contains("replies/judged") && heard.contains("a part of this path is a file"), "{heard}");
    assert!(run(&file, &dir.join("folder"), &[]).status.success());
    assert!(rows(&dir.join("folder/remote")) == rows(&dir.join("calm/remote")));
    let twice = completions(&stub).len() - of_calm;
    assert!(twice <= of_calm + PROBES + 4, "{twice} of {of_calm}");

    for nth in [5, 20, 60, 110] {
        let stub = Stub::start(answer);
        let file = pipeline(dir, &[stub.url()], "max_in_flight = 2");
        let runs = dir.join(format!("full {nth}"));
        let fault = format!("disk-full:{nth}");
        let output = command(&file, &runs, &[]).env("REFLUX_FAULT", fault).output().unwrap();
        goes_on(&stub, &file, &runs, &output, "the disk is full");
    }
}

/// A folder of replies on a disk that becomes read-only in the middle, and a disk of a few kilobytes.
#[test]
fn a_real_disk_that_is_full_or_read_only_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let full = "mount -t tmpfs -o size=60k tmpfs \"$1\" || exit 99; runs=$1; aside=$2; shift 2; \"$@\"; code=$?";
    let closed = "runs=$1; aside=$2; shift 2; \"$@\" & child=$!; answers=$runs/remote/replies/answers; \
        until [ -d \"$answers\" ] || ! kill -0 $child; do sleep 0.01; done; \
        mount -t tmpfs -o ro tmpfs \"$answers\" || exit 99; wait $child; code=$?; umount \"$answers\"";
    for (what, words, script) in [("full", "the disk is full", full), ("closed", "replies/answers", closed)] {
        let stub = Stub::start(|request| answer(request).delay(Duration::from_millis(20)));
        let file = pipeline(dir, &[stub.url()], "max_in_flight = 2");
        let (runs, aside) = (dir.join(what), dir.join(format!("{what} aside")));
        fs::create_dir(&runs).unwrap();
        let inner = command(&file, &runs, &[]);
        let script = format!("{script}; cp -r \"$runs\" \"$aside\"; exit $code");
        let mut outer = Command::new("unshare");
        outer.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script, "sh"]).args([&runs, &aside]);
        outer.arg(inner.get_program()).args(inner.get_args()).stdin(Stdio::null());
        match outer.output() {
            Ok(output) if output.status.code() != Some(99) && aside.exists() => {
                goes_on(&stub, &file, &aside, &output, words);
            }
            other => eprintln!("no file system of our own here ({other:?}): the made-up faults have to do"),
        }
    }
}

/// Appends a selection of pairs to the pipeline file.
fn with_pairs(file: &Path) {
    let text = fs::read_to_string(file).unwrap() + "[step.pairs]\nop = \"select\"\nfrom = \"judged\"\n";
    fs::write(file, text).unwrap();
}

#[test]
fn a_run_whose_servers_are_gone_is_replayed_revised_compared_and_verified() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let stub = Stub::start(answer);
    let file = pipeline(dir, &[stub.url()], "key = { env = \"FAR_KEY\" }");
    with_pairs(&file);
    let text = fs::read_to_string(&file).unwrap().replace("time_limit = 30", "time_limit = 1");
    fs::write(&file, text).unwrap();
    let runs = dir.join("runs");
    let output = command(&file, &runs, &[]).env("FAR_KEY", "k").output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let requests = completions(&stub).len();
    drop(stub);
    let reflux = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reflux"));
        command.current_dir(dir).env("NO_COLOR", "1").env_remove("FAR_KEY").args(args).output().unwrap()
    };
    let ids = reflux(&["show", "runs/remote/judged", "--columns", "response_id", "--format", "json"]);
    let id = String::from_utf8(ids.stdout).unwrap().lines().next().unwrap().to_owned();
    let id: Value = serde_json::from_str(&id).unwrap();
    fs::write(dir.join("fix.jsonl"), json!({"response_id": id["response_id"], "score": 5.0}).to_string()).unwrap();
    let replay = ["replay", "remote", "--set", "step.pairs.min_margin=2", "--into", "strict"];
    for (args, code) in [
        (&["run", "remote.toml"][..], 0),
        (&["verify", "remote"], 0),
        (&["summary", "remote"], 0),
        (&["trace", "remote", id["response_id"].as_str().unwrap()], 0),
        (&["revise", "remote", "--scores", "fix.jsonl", "--whole"], 0),
        (&replay, 0),
        (&["replay", "remote", "--from", "pairs", "--into", "same"], 0),
        (&["diff", "remote", "same"], 0),
        (&["diff", "remote", "strict"], 1),
        (&["verify", "strict"], 0),
    ] {
        let output = reflux(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", said(&output));
    }
    // New judgements need a server, which is said before anything runs, and with what is missing.
    let again = ["replay", "remote", "--set", "step.judged.samples=3", "--into", "more"];
    let output = reflux(&again);
    assert!(said(&output).contains("the environment variable FAR_KEY is not set"), "{}", said(&output));
    let mut command = Command::new(env!("CARGO_BIN_EXE_reflux"));
    let output = command.current_dir(dir).env("FAR_KEY", "k").args(again).output().unwrap();
    assert!(said(&output).contains("waiting for http://") && !output.status.success(), "{}", said(&output));
    assert!(!dir.join("runs/more/data/pairs").exists());
    assert_eq!(requests, 96 + PROBES);
}
