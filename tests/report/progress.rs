//! Progress as a run prints it: lines and JSON where there is no terminal, and a training's metrics while it runs.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reflux"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env_remove("NO_COLOR").env("COLUMNS", "60").args(args);
    command
}

/// A pipeline that trains for many steps on few rows.
fn training(dir: &Path, epochs: u32) -> PathBuf {
    let file = dir.join("train.toml");
    let text = format!(
        "[pipeline]\nname = \"t\"\n[model.m]\npath = \"pipelines/listworld/m0\"\n[step.ift]\nop = \"listworld\"\ndata = \"ift\"\n\
         rows = 16\n[step.tuned]\nop = \"sft\"\nfrom = \"ift\"\nmodel = \"m\"\nbatch_tokens = 64\nepochs = {epochs}\n"
    );
    std::fs::write(&file, text).unwrap();
    file
}

#[test]
fn lines_fit_the_columns_and_json_has_the_figures() {
    let temp = tempfile::tempdir().unwrap();
    let file = training(temp.path(), 4);
    let (file, runs) = (file.to_str().unwrap(), temp.path().join("runs"));
    let runs = runs.to_str().unwrap();
    let run = |more: &[&str]| {
        let args = ["run", file, "--runs", runs, "--device", "cpu", "--fresh"];
        let output = command(&[&args[..], more].concat()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stderr).unwrap()
    };
    let plain = run(&["-v"]);
    let told: Vec<&str> = plain.lines().filter(|l| l.contains("s  tuned")).collect();
    assert!(told.iter().any(|l| l.contains("steps, loss ")), "{plain}");
    assert!(told.last().unwrap().contains("1/1 microbatch, 1 row"), "{plain}");
    let wide = |line: &&str| line.chars().count() > 60 && !line.contains("reflux");
    assert_eq!(plain.lines().find(wide), None, "{plain}");
    assert!(!plain.contains('\u{1b}'), "no colours where there is no terminal: {plain:?}");
    // Colours where they are asked for, in what is coloured: a warning of the pipeline file.
    let unused = std::fs::read_to_string(file).unwrap() + "[step.more]\nop = \"listworld\"\ndata = \"ift\"\nrows = 2\n";
    std::fs::write(temp.path().join("unused.toml"), unused.replace("[step.more]\nop", "[step.more]\nopp")).unwrap();
    let unused = temp.path().join("unused.toml");
    let check = |color: &str| {
        let output = command(&["check", unused.to_str().unwrap(), "--color", color]).output().unwrap();
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(
        check("always").contains("\u{1b}[") && !check("never").contains('\u{1b}') && !check("auto").contains('\u{1b}')
    );
    let always = command(&["--color", "always", "run", "--help"]).output().unwrap();
    assert!(String::from_utf8_lossy(&always.stdout).contains("\u{1b}["));

    let json = run(&["--log", "json"]);
    let events: Vec<Value> =
        json.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect();
    let of = |name: &str| events.iter().filter(|e| e["event"] == name).collect::<Vec<_>>();
    let steps = of("measured");
    assert!(steps.len() > 8 && steps.iter().all(|e| e["metrics"]["loss"].is_f64()), "{json}");
    assert_eq!(of("within").len(), steps.len());
    let status = of("status").pop().expect("a status at the end");
    assert_eq!((&status["seconds_left"], &status["running"]), (&0.0.into(), &serde_json::json!([])));
    assert_eq!(status["training"]["step"], "tuned");
    assert_eq!(status["memory_bytes"].is_u64(), cfg!(target_os = "linux"));
}

/// A follower sees the first steps of a training before it ends, and each step once.
#[test]
fn a_training_is_followed_step_by_step() {
    let temp = tempfile::tempdir().unwrap();
    let file = training(temp.path(), 60);
    let runs = temp.path().join("runs");
    let args = ["run", file.to_str().unwrap(), "--runs", runs.to_str().unwrap(), "--device", "cpu", "-q"];
    let mut running = command(&args).spawn().unwrap();
    let dir = runs.join("t");
    while !dir.join("metrics/tuned/iteration=0/metrics.running.parquet").exists()
        && running.try_wait().unwrap().is_none()
    {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let what = dir.join("metrics/tuned");
    let args = ["show", what.to_str().unwrap(), "--follow", "--format", "json", "--columns", "step,loss"];
    let mut follower = command(&args).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    let early = !reflux::store::Run::open(&dir).unwrap().finished();
    let rows: Vec<Value> =
        std::iter::once(first).chain(lines.map(Result::unwrap)).map(|l| serde_json::from_str(&l).unwrap()).collect();
    assert!(running.wait().unwrap().success() && follower.wait().unwrap().success());
    assert!(early, "the first rows came when the run was over");
    let run = reflux::store::Run::open(&dir).unwrap();
    assert_eq!(rows.len() as u64, run.metrics()[0].rows);
    assert!(rows.iter().enumerate().all(|(i, row)| row["step"] == i as u64 + 1), "each step once, in order");
}
