//! The directory of a run: what others put there stays, and what was edited is found.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::case::Case;
use crate::common::program::{run_program, said};
use crate::common::{self, files, outcome};
use reflux::store::Run;

/// Things of others in every folder of a run: files, folders, links, with names that are almost ours.
#[test]
fn what_others_put_into_a_run_stays() {
    let case = Case::new();
    case.killed(18);
    let dir = case.run_dir();
    let outside = case.path("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious.parquet"), "gold").unwrap();
    let mut theirs = Vec::new();
    let put = |folder: &Path, theirs: &mut Vec<PathBuf>| {
        fs::create_dir_all(folder).unwrap();
        for name in [
            "notes.txt",
            "microbatch=old.parquet",
            "microbatch=00000 (copy).parquet",
            ".half.tmp",
            "metrics.parquet.bak",
        ] {
            fs::write(folder.join(name), "mine").unwrap();
            theirs.push(folder.join(name));
        }
        fs::create_dir_all(folder.join("mine/deeper")).unwrap();
        fs::write(folder.join("mine/deeper/w"), "mine").unwrap();
        theirs.push(folder.join("mine/deeper/w"));
        fs::create_dir_all(folder.join(".cache.tmp")).unwrap();
        fs::write(folder.join(".cache.tmp/w"), "mine").unwrap();
        theirs.push(folder.join(".cache.tmp/w"));
        #[cfg(unix)]
        {
            let link = folder.join("link");
            std::os::unix::fs::symlink(&outside, &link).unwrap();
            theirs.push(link.join("precious.parquet"));
        }
    };
    for folder in [
        "",
        "data",
        "data/responses",
        "data/responses/iteration=0",
        "data/errors",
        "data/errors/scores",
        "data/errors/scores/iteration-0",
        "metrics",
        "metrics/tuned",
        "metrics/tuned/iteration=0",
        "models",
        "models/mine",
        "checkpoints",
        "checkpoints/tuned",
        "checkpoints/tuned/iteration=0",
        "revised",
        "data/notes",
    ] {
        put(&dir.join(folder), &mut theirs);
    }
    let all_there = |when: &str| {
        for path in &theirs {
            assert!(path.exists(), "{when}: {} is gone", path.strip_prefix(case.dir()).unwrap().display());
        }
    };
    case.to_the_end(&[]);
    all_there("resumed and finished");
    case.to_the_end(&[]);
    all_there("run again");
    assert!(!dir.join("data/responses/iteration=0/microbatch=00000.parquet").exists(), "keep = false");
    let verified = said(&case.verify(&[]));
    assert!(verified.contains("stray: models/mine/notes.txt: not of this run"), "{verified}");
    case.to_the_end(&["--fresh"]);
    all_there("with --fresh");
    assert!(case.verify(&[]).status.success());
}

/// What reflux itself left unfinished goes, wherever it died.
#[test]
fn what_a_killed_process_left_goes() {
    let whole = Case::new();
    whole.to_the_end(&[]);
    for point in ["after-write:5", "after-rename:5", "mid-manifest:6", "model-before-rename:1", "model-after-rename:1"]
    {
        let case = Case::new();
        let output = case.run(&[], point);
        assert!(output.status.code().is_none(), "{point}: {}", said(&output));
        case.to_the_end(&[]);
        let left: Vec<String> = files(&case.run_dir()).into_keys().filter(|f| f.contains(".tmp")).collect();
        assert!(left.is_empty(), "{point}: {left:?}");
        assert_eq!(
            outcome(&case.run_dir()).into_keys().collect::<Vec<_>>(),
            outcome(&whole.run_dir()).into_keys().collect::<Vec<_>>(),
            "{point}"
        );
        let verified = case.verify(&[]);
        assert!(verified.status.success() && !said(&verified).contains("stray"), "{point}: {}", said(&verified));
    }
}

/// A model's place that is taken by something of others is named before anything is trained.
#[test]
fn what_stands_in_the_way_of_a_model_is_named() {
    let case = Case::new();
    case.killed(8);
    fs::create_dir_all(case.run_dir().join("models/tuned")).unwrap();
    fs::write(case.run_dir().join("models/tuned/mine"), "w").unwrap();
    let refused = case.run(&[], "");
    let text = said(&refused);
    assert_eq!(refused.status.code(), Some(2), "{text}");
    assert!(text.contains("models/tuned` is in the way") && text.contains("move it"), "{text}");
    assert!(case.run_dir().join("models/tuned/mine").exists());
}

/// Links where a run has files of its own are refused, and what they lead to stays as it is.
#[cfg(unix)]
#[test]
fn links_are_refused_and_never_followed() {
    use std::os::unix::fs::symlink;
    let case = Case::new();
    case.to_the_end(&[]);
    let victim = case.path("victim");
    fs::rename(case.run_dir(), &victim).unwrap();
    fs::write(victim.join("data/precious"), "gold").unwrap();
    let before = files(&victim);
    for name in ["data", "metrics", "models", "checkpoints", "lock", "manifest.jsonl", "pipeline.toml"] {
        let dir = case.path("runs/linked");
        fs::create_dir_all(&dir).unwrap();
        symlink(victim.join(name), dir.join(name)).unwrap();
        for args in [&["--name", "linked"][..], &["--name", "linked", "--fresh"]] {
            let refused = case.run(args, "");
            let text = said(&refused);
            assert_eq!(refused.status.code(), Some(2), "{name}: {text}");
            assert!(text.contains(&format!("linked/{name}` is a link")), "{name}: {text}");
        }
        assert_eq!(before, files(&victim), "{name}");
        fs::remove_dir_all(&dir).unwrap();
    }
    // Further down.
    let further = [
        "data/scores",
        "data/scores/iteration=0",
        "data/errors/scores",
        "metrics/tuned",
        "replies/scores",
        "replies/scores/iteration=0",
        "checkpoints/tuned",
        "scratch/tuned",
        "logs/tuned",
    ];
    for name in further {
        let dir = case.path("runs/linked");
        fs::create_dir_all(dir.join(name).parent().unwrap()).unwrap();
        symlink(victim.join(name), dir.join(name)).unwrap();
        let text = said(&case.run(&["--name", "linked"], ""));
        assert!(text.contains("is a link"), "{name}: {text}");
        assert_eq!(before, files(&victim), "{name}");
        fs::remove_dir_all(&dir).unwrap();
    }
    // The lock of a run that is verified, and of one that is replayed.
    fs::create_dir_all(case.path("runs")).unwrap();
    fs::rename(&victim, case.run_dir()).unwrap();
    fs::write(case.path("precious"), "gold").unwrap();
    fs::remove_file(case.run_dir().join("lock")).unwrap();
    symlink(case.path("precious"), case.run_dir().join("lock")).unwrap();
    let repaired = case.verify(&["--repair"]);
    assert!(!repaired.status.success() && said(&repaired).contains("is a link"), "{}", said(&repaired));
    let run = case.run_dir();
    let args = ["replay", run.to_str().unwrap(), "--from", "tuned", "--runs", run.parent().unwrap().to_str().unwrap()];
    let replayed = case.reflux(&args, "");
    assert!(!replayed.status.success() && said(&replayed).contains("is a link"), "{}", said(&replayed));
    assert_eq!(fs::read(case.path("precious")).unwrap(), b"gold");
}

/// Killed between the end of a run and the removal of what is not kept, the next start removes it.
#[test]
fn rows_that_are_not_kept_go_wherever_the_process_died() {
    let whole = Case::new();
    whole.to_the_end(&[]);
    let lines = fs::read_to_string(whole.run_dir().join("manifest.jsonl")).unwrap().lines().count() as u32;
    // The last line is `dropped`, the one before it says that the run is finished.
    for killed_after in [lines - 1, lines] {
        let case = Case::new();
        case.killed(killed_after);
        assert!(Run::open(&case.run_dir()).unwrap().finished());
        assert!(case.run_dir().join("data/responses").exists());
        case.to_the_end(&[]);
        assert!(!case.run_dir().join("data/responses").exists(), "after line {killed_after} of {lines}");
        assert!(Run::open(&case.run_dir()).unwrap().dropped("responses"));
        let names = |c: &Case| outcome(&c.run_dir()).into_keys().collect::<Vec<_>>();
        assert_eq!(names(&case), names(&whole));
        assert!(case.verify(&[]).status.success());
    }
}

/// A committed file that was edited, and has its size still, is not used.
#[test]
fn an_edited_file_of_the_same_size_is_found_when_it_is_read() {
    let case = Case::new();
    case.killed(20);
    let path = case.run_dir().join("data/scores/iteration=0/microbatch=00000.parquet");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 3;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    let refused = said(&case.run(&[], ""));
    assert!(
        refused.contains("microbatch=00000.parquet` is damaged: its content is not what was committed"),
        "{refused}"
    );
    assert!(refused.contains(&format!("reflux verify {} --repair", case.run_dir().display())), "{refused}");
    assert!(case.verify(&["--repair"]).status.success());
    case.to_the_end(&[]);
    assert!(case.verify(&[]).status.success());
}

/// After a repair a replay says how many of its lines it still has from the other run.
#[test]
fn a_repaired_replay_counts_what_it_took_over() {
    let case = Case::new();
    case.to_the_end(&[]);
    let (run, runs) = (case.run_dir(), case.path("runs"));
    let args = [
        "replay",
        run.to_str().unwrap(),
        "--from",
        "tuned",
        "--runs",
        runs.to_str().unwrap(),
        "--into",
        "again",
        "--device",
        "cpu",
    ];
    // Rows that were not kept cannot be taken over.
    fs::write(case.path("p.toml"), case.pipeline().replace("keep = false\n", "")).unwrap();
    case.to_the_end(&["--fresh"]);
    let done = case.reflux(&args, "");
    assert!(done.status.success(), "{}", said(&done));
    let again = case.path("runs/again");
    let before = Run::open(&again).unwrap().taken().unwrap();
    let file = again.join("data/pairs/iteration=0/microbatch=00000.parquet");
    let bytes = fs::read(&file).unwrap();
    // Not the file of the other run, which is the same one under another name.
    fs::remove_file(&file).unwrap();
    fs::write(&file, &bytes[1..]).unwrap();
    let repaired = case.reflux(&["verify", again.to_str().unwrap(), "--repair"], "");
    assert!(repaired.status.success(), "{}", said(&repaired));
    let taken = Run::open(&again).unwrap().taken().unwrap();
    let manifest = fs::read_to_string(again.join("manifest.jsonl")).unwrap();
    let there =
        manifest.lines().skip(2).filter(|l| l.contains("\"kind\":\"file\"") && !l.contains("\"tuned\"")).count();
    assert!(taken.entries < before.entries, "{} of {}", taken.entries, before.entries);
    assert_eq!(taken.entries as usize, there);
    // The same command goes on with it.
    let done = case.reflux(&args, "");
    assert!(done.status.success(), "{}", said(&done));
    assert_eq!(outcome(&again), outcome(&run));
}

/// Names that would be one in a run's directory, or of two models.
#[test]
fn names_that_clash_are_errors_of_check() {
    let temp = tempfile::tempdir().unwrap();
    let loop_ = common::small_loop(temp.path());
    let renamed = |from: &str, to: &str| loop_.replace(from, to);
    let once = "[step.M2]\nop = \"sft\"\nfrom = \"ift\"\nmodel = \"m0\"\n";
    for (what, text, clash) in [
        ("a step called as the loop's second policy", format!("{loop_}{once}"), "makes `M2`"),
        ("the same in lower case", format!("{loop_}{}", once.replace("M2", "m2")), "makes the model `m2`"),
        ("two steps that differ in case", renamed("[step.truth]", "[step.Answers]"), "differ in case only"),
        (
            "a model called as one that is made",
            renamed("[model.m0]", "[model.M2]").replace("model = \"m0\"", "model = \"M2\""),
            "makes `M2`",
        ),
        ("a word with a meaning", renamed("[step.truth]", "[step.Errors]"), "a meaning of its own"),
    ] {
        let file = temp.path().join("clash.toml");
        fs::write(&file, &text).unwrap();
        let output = run_program(&["check", file.to_str().unwrap()]);
        let text = said(&output);
        assert_eq!(output.status.code(), Some(2), "{what}: {text}");
        assert!(text.contains(clash), "{what}: {text}");
    }
}

/// The directory of a run is moved away while a process writes it, and another run begins in its place: the first one stops, and
/// the second is whole.
#[cfg(unix)]
#[test]
fn a_run_whose_directory_was_replaced_stops() {
    let slow = Case::new();
    let text = fs::read_to_string(slow.path("script-0.toml")).unwrap();
    fs::write(slow.path("script-0.toml"), text.replace("per_call_ms = 0", "per_call_ms = 300")).unwrap();
    let (file, runs) = (slow.path("p.toml"), slow.path("runs"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_reflux"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env_remove("REFLUX_FAULT").arg("run").arg(&file);
    command.arg("--runs").arg(&runs).args(["--device", "cpu"]);
    let first = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    // Until it has rows.
    while fs::read_to_string(slow.run_dir().join("manifest.jsonl")).unwrap_or_default().lines().count() < 4 {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    fs::rename(slow.run_dir(), slow.path("moved")).unwrap();
    fs::write(slow.path("script-0.toml"), text).unwrap();
    slow.to_the_end(&[]);
    let before = outcome(&slow.run_dir());
    let first = first.wait_with_output().unwrap();
    assert_eq!(first.status.code(), Some(1), "{}", said(&first));
    assert!(said(&first).contains("moved or replaced"), "{}", said(&first));
    assert!(slow.verify(&[]).status.success(), "{}", said(&slow.verify(&[])));
    assert_eq!(before, outcome(&slow.run_dir()));
}

/// What cannot be read is not damaged: a repair says so, and takes nothing out.
#[cfg(unix)]
#[test]
fn a_file_that_cannot_be_read_is_not_damage() {
    use std::os::unix::fs::PermissionsExt as _;
    let case = Case::new();
    case.to_the_end(&[]);
    let file = case.run_dir().join("data/prompts/iteration=0/microbatch=00000.parquet");
    let manifest = fs::read(case.run_dir().join("manifest.jsonl")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
    let repaired = if fs::File::open(&file).is_err() {
        case.verify(&["--repair"])
    } else {
        // The superuser may read everything, so somebody else tries; the folders above are open to all.
        for dir in case.run_dir().ancestors().take_while(|at| at.starts_with(case.dir())) {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
        }
        fs::set_permissions(case.run_dir().join("lock"), fs::Permissions::from_mode(0o666)).unwrap();
        let program = case.path("reflux");
        fs::copy(env!("CARGO_BIN_EXE_reflux"), &program).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program);
        command.arg("verify").arg(case.run_dir()).arg("--repair").output().expect("setpriv is part of util-linux")
    };
    let text = said(&repaired);
    assert_eq!(repaired.status.code(), Some(1), "{text}");
    assert!(text.contains("cannot be read") && text.contains("nothing was repaired"), "{text}");
    assert_eq!(manifest, fs::read(case.run_dir().join("manifest.jsonl")).unwrap());
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(case.verify(&[]).status.success());
}

/// A directory, or a link, at the place of a committed file is damage; a repair puts it out of the way, and keeps it.
#[cfg(unix)]
#[test]
fn what_stands_in_a_files_place_is_put_aside() {
    let whole = Case::new();
    whole.to_the_end(&[]);
    for replace in ["directory", "link"] {
        let case = Case::new();
        case.to_the_end(&[]);
        let place = case.run_dir().join("data/scores/iteration=0/microbatch=00001.parquet");
        let aside = place.with_file_name("microbatch=00001.parquet.aside-1");
        if replace == "directory" {
            fs::remove_file(&place).unwrap();
            fs::create_dir(&place).unwrap();
        } else {
            fs::rename(&place, case.path("elsewhere")).unwrap();
            std::os::unix::fs::symlink(case.path("elsewhere"), &place).unwrap();
        }
        assert_eq!(case.verify(&[]).status.code(), Some(1), "{replace}");
        assert!(case.verify(&["--repair"]).status.success(), "{replace}");
        case.to_the_end(&[]);
        assert!(case.verify(&[]).status.success(), "{replace}");
        assert!(fs::symlink_metadata(&aside).is_ok(), "{replace}");
        if replace == "directory" {
            fs::remove_dir(aside).unwrap();
        } else {
            fs::remove_file(aside).unwrap();
        }
        let names = |c: &Case| outcome(&c.run_dir()).into_keys().collect::<Vec<_>>();
        assert_eq!(names(&case), names(&whole), "{replace}");
    }
}

/// A summary that is damaged is named, and made again by the next run, as is one that is gone.
#[test]
fn a_summary_is_checked_and_made_again() {
    let case = Case::new();
    case.to_the_end(&[]);
    let path = case.run_dir().join("summary.json");
    let text = fs::read_to_string(&path).unwrap();
    let rows = |text: &str| -> Vec<(String, u64)> {
        let summary: serde_json::Value = serde_json::from_str(text).unwrap();
        let steps = summary["steps"].as_array().unwrap();
        steps.iter().map(|s| (s["step"].to_string(), s["rows"].as_u64().unwrap())).collect()
    };
    for damage in ["cut", "gone"] {
        match damage {
            "cut" => fs::write(&path, &text[..text.len() / 2]).unwrap(),
            _ => fs::remove_file(&path).unwrap(),
        }
        let verified = case.verify(&[]);
        assert_eq!(verified.status.success(), damage == "gone", "{}", said(&verified));
        assert!(damage == "gone" || said(&verified).contains("damaged: summary.json"), "{}", said(&verified));
        case.to_the_end(&[]);
        assert!(case.verify(&[]).status.success());
        assert_eq!(rows(&fs::read_to_string(&path).unwrap()), rows(&text));
    }
}
