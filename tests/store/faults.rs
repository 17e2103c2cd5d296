//! A process is killed at every point of a commit; the next one goes on, and ends with the same bytes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use arrow::array::{RecordBatch, StringArray};
use reflux::data::{Epoch, named};
use reflux::error::Result;
use reflux::store::files::fault;
use reflux::store::{Run, read_parquet};

const RUN_DIR: &str = "STORE_FAULTS_RUN";

fn rows(n: u32) -> RecordBatch {
    let column = || Arc::new(StringArray::from_iter_values((0..=n).map(|i| format!("{n} {i}")))) as _;
    named::IFT.batch(vec![column(), column()]).unwrap()
}
fn failed(microbatch: u32) -> RecordBatch {
    let text = |s: &str| Arc::new(StringArray::from(vec![s])) as _;
    let number = |n| Arc::new(arrow::array::UInt32Array::from(vec![n])) as _;
    let columns =
        vec![text("s"), number(1), number(microbatch), text("row"), text("failed"), text("code"), text("why")];
    named::ERRORS.batch(columns).unwrap()
}

/// A small run: what is committed is not done again.
fn work(dir: &Path) -> Result<()> {
    let (run, _) = Run::create_or_open(dir, "a = 1\n", 1, false)?;
    for m in 0..3 {
        let epoch = Epoch::new(1, m);
        match run.load("s", epoch)? {
            Some(found) => assert_eq!(found, rows(m)),
            None => drop(run.commit("s", epoch, &rows(m), &failed(m), &[])?),
        }
    }
    for at in run.checkpoints("dpo", 1).first().map_or(1, |(at, _)| at + 1)..=2 {
        run.save_checkpoint("dpo", 1, at, |files| files.put("state", |to| Ok(to.write_all(b"state")?)))?;
    }
    if run.model("M1").is_none() {
        run.commit_model("M1", "dpo", 1, |path| {
            fs::write(path.join("model.safetensors"), "weights")?;
            Ok("hash".into())
        })?;
    }
    run.remove_checkpoints("dpo", 1)?;
    run.finish()
}

/// Every file of a run with its bytes; the lock says who holds it, so it is left out.
fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { left.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found.retain(|p| !p.ends_with("lock"));
    found.into_iter().map(|p| (p.strip_prefix(dir).unwrap().to_owned(), fs::read(&p).unwrap())).collect()
}

/// Not a test of its own: what the child processes run.
#[test]
fn child() {
    if let Some(dir) = std::env::var_os(RUN_DIR)
        && let Err(error) = work(Path::new(&dir))
    {
        eprintln!("{error}");
        std::process::exit(3);
    }
}

fn child_with(dir: &Path, fault: &str) -> std::process::Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "faults::child", "--nocapture"]).env(RUN_DIR, dir).env("REFLUX_FAULT", fault);
    command.output().unwrap()
}

#[test]
fn killed_at_every_point_the_run_ends_the_same() {
    let root = tempfile::tempdir().unwrap();
    let undisturbed = root.path().join("undisturbed");
    work(&undisturbed).unwrap();
    let want = contents(&undisturbed);
    assert_eq!(want.len(), 9, "pipeline, manifest, 3 x (rows, errors), weights: {want:?}");
    for point in fault::POINTS {
        let mut kills = 0;
        for nth in 1..20 {
            let dir = root.path().join(format!("{point}-{nth}"));
            let output = child_with(&dir, &format!("{point}:{nth}"));
            if output.status.success() {
                assert_eq!(contents(&dir), want, "{point}:{nth} undisturbed");
                break;
            }
            kills += 1;
            assert_ne!(output.status.code(), Some(3), "{point}: {}", String::from_utf8_lossy(&output.stderr));
            // A reader now sees whole files only, and all that the manifest names.
            if let Ok(run) = Run::open(&dir) {
                for file in run.files("s") {
                    run.verify(&file).unwrap();
                    assert_eq!(run.load_entry(&file).unwrap(), rows(file.microbatch));
                }
                assert!(run.model("M1").is_none() || dir.join("models/M1/model.safetensors").exists());
            }
            for (path, _) in contents(&dir).iter().filter(|(p, _)| p.extension().is_some_and(|e| e == "parquet")) {
                read_parquet(&dir.join(path)).unwrap();
            }
            // A checkpoint that has its name is whole, and there are at most two.
            let checkpoints = fs::read_dir(dir.join("checkpoints/dpo/iteration=1")).into_iter().flatten().flatten();
            let named: Vec<PathBuf> =
                checkpoints.map(|e| e.path()).filter(|p| p.to_string_lossy().contains("/step=")).collect();
            assert!(named.len() <= 2, "{named:?}");
            named.iter().for_each(|dir| Run::verify_checkpoint(dir).unwrap());
            work(&dir).unwrap();
            assert_eq!(contents(&dir), want, "{point}:{nth}");
        }
        assert!(kills > 0, "{point} is never reached");
        assert!(kills < 19, "{point}");
    }
}

#[test]
fn a_disk_that_fills_up_stops_the_run_and_loses_nothing() {
    let root = tempfile::tempdir().unwrap();
    let undisturbed = root.path().join("undisturbed");
    work(&undisturbed).unwrap();
    for nth in [1, 2, 3, 5, 8, 10] {
        let dir = root.path().join(nth.to_string());
        let output = child_with(&dir, &format!("disk-full:{nth}"));
        assert_eq!(output.status.code(), Some(3), "{nth}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("the disk is full"), "{text}");
        assert!(contents(&dir).iter().all(|(p, _)| !p.to_string_lossy().ends_with(".tmp")), "{nth}");
        work(&dir).unwrap();
        assert_eq!(contents(&dir), contents(&undisturbed), "{nth}");
    }
}
