//! Limits of the system: open files, memory, threads. What they refuse is told, and taken neither for damage nor for a fault of a file.

use std::path::Path;
use std::process::{Command, Output};

use crate::common::program::said;
use crate::common::{files, script};

/// The program under `limits`, words of the shell.
fn under(limits: &str, args: &[&str]) -> Output {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("{limits}; exec \"$@\"")).arg("sh").arg(env!("CARGO_BIN_EXE_reflux")).args(args);
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env("NO_COLOR", "1").output().unwrap()
}

/// Whether a file is taken for damaged.
fn says_damaged(text: &str) -> bool {
    ["damaged:", "is damaged", "get the file again"].iter().any(|words| text.contains(words))
}

/// A pipeline without weights: source, answers, judgements, pairs.
fn pipeline(dir: &Path) -> String {
    let file = dir.join("limits.toml");
    let script = script(dir, 0);
    let text = format!(
        "[pipeline]\nname = \"limits\"\nmicrobatch = 4\n[model.m]\nscript = {script:?}\n[step.prompts]\nop = \"listworld\"\ndata = \"requests\"\n\
         rows = 24\n[step.answers]\nop = \"generate\"\nfrom = \"prompts\"\nmodel = \"m\"\nsamples = 2\n\
         [step.scores]\nop = \"judge\"\nfrom = \"answers\"\nmodel = \"m\"\nsamples = 2\n[step.pairs]\nop = \"select\"\nfrom = \"scores\"\n"
    );
    std::fs::write(&file, text).unwrap();
    file.display().to_string()
}

fn run<'a>(file: &'a str, runs: &'a str) -> [&'a str; 6] {
    ["run", file, "--runs", runs, "--device", "cpu"]
}

#[test]
fn too_many_open_files_is_no_damage() {
    let _alone = crate::one_at_a_time();
    let temp = tempfile::tempdir().unwrap();
    let (file, runs) = (pipeline(temp.path()), temp.path().join("runs").display().to_string());
    assert!(under(":", &run(&file, &runs)).status.success());
    let dir = temp.path().join("runs/limits");
    let before = files(&dir);
    let mut refused = 0;
    for most in [4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 40, 64] {
        for args in [&["verify", dir.to_str().unwrap()][..], &["verify", dir.to_str().unwrap(), "--repair"]] {
            let output = under(&format!("ulimit -n {most}"), args);
            let (code, text) = (output.status.code(), said(&output));
            assert!(code == Some(0) || code == Some(1), "{most}, {args:?}: {code:?} {text}");
            assert!(!says_damaged(&text), "{most}, {args:?}: {text}");
            refused += usize::from(code == Some(1));
            if code == Some(1) {
                assert!(text.contains("pen files") || text.contains("cannot be read"), "{most}, {args:?}: {text}");
            }
        }
        let shown = under(&format!("ulimit -n {most}"), &["show", dir.join("pairs").to_str().unwrap()]);
        let text = said(&shown);
        assert!(shown.status.success() || text.contains("pen files"), "{most}: {text}");
        assert!(!says_damaged(&text), "{most}: {text}");
        let other = temp.path().join(format!("few-{most}"));
        let made = under(&format!("ulimit -n {most}"), &run(&file, other.to_str().unwrap()));
        let text = said(&made);
        assert!(made.status.success() || text.contains("pen files"), "{most}: {:?} {text}", made.status.code());
        assert!(!says_damaged(&text) && !text.contains("panicked"), "{most}: {text}");
        // With the limit gone it ends as any other.
        let made = under(":", &run(&file, other.to_str().unwrap()));
        assert!(made.status.success(), "{most}: {}", said(&made));
        let data = |all: std::collections::BTreeMap<String, Vec<u8>>| {
            all.into_iter().filter(|(name, _)| name.starts_with("data/")).collect::<Vec<_>>()
        };
        assert!(data(files(&other.join("limits"))) == data(before.clone()), "{most}");
    }
    assert!(refused > 1, "{refused}");
    let after = files(&dir);
    assert!(before.iter().all(|(name, bytes)| name == "lock" || after.get(name) == Some(bytes)), "nothing was changed");
}

/// Threads have stacks of tens of megabytes: with little memory to address, some of them cannot be started.
#[test]
fn a_thread_that_cannot_be_started_is_told() {
    let _alone = crate::one_at_a_time();
    let temp = tempfile::tempdir().unwrap();
    let file = pipeline(temp.path());
    let (mut told, mut unread) = (0, 0);
    // The program itself needs about 100 MB; a compute thread asks for 64, and the thread that reads a pipeline file for less.
    for megabytes in [110, 120, 130, 160, 200, 260, 320, 400, 500, 700] {
        let runs = temp.path().join(megabytes.to_string()).display().to_string();
        let limits = format!("export RAYON_NUM_THREADS=2; ulimit -v {}", megabytes * 1024);
        for args in [&run(&file, &runs)[..], &["check", &file]] {
            let output = under(&limits, args);
            let (code, text) = (output.status.code(), said(&output));
            if output.status.success() {
                continue;
            }
            assert_eq!(code, Some(1), "{megabytes} MB, {args:?}: {text}");
            assert!(text.contains("ulimit -u") && text.contains("ulimit -v"), "{megabytes} MB, {args:?}: {text}");
            assert!(!text.contains("E0002") && !text.contains("panicked"), "{megabytes} MB, {args:?}: {text}");
            told += 1;
            unread += usize::from(text.contains("E0003"));
        }
    }
    assert!(told > 2 && unread > 0, "{told} {unread}");
}

#[test]
fn many_workers_are_too_many_or_make_the_same() {
    let _alone = crate::one_at_a_time();
    let temp = tempfile::tempdir().unwrap();
    let file = pipeline(temp.path());
    let mut made = Vec::new();
    for workers in ["1", "3", "64"] {
        let runs = temp.path().join(workers).display().to_string();
        let output = under(":", &[&run(&file, &runs)[..], &["-w", workers]].concat());
        assert!(output.status.success(), "{workers}: {}", said(&output));
        let mut all = files(&temp.path().join(workers).join("limits/data"));
        all.retain(|name, _| name.ends_with(".parquet"));
        made.push(all);
    }
    assert!(made.windows(2).all(|pair| pair[0] == pair[1]));
    let runs = temp.path().join("1024").display().to_string();
    let output = under(":", &[&run(&file, &runs)[..], &["-w", "1024"]].concat());
    let text = said(&output);
    assert!(output.status.code() == Some(2) && text.contains("1024"), "{:?} {text}", output.status.code());
}
