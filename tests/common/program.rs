//! The program: how tests start it, and what it says.

use std::path::Path;
use std::process::{Command, Output};

/// The program, started in the folder of the sources and without colours.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reflux"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env("NO_COLOR", "1").args(args);
    command
}

pub fn run_program(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

/// Exit code, standard output and standard error.
pub fn reflux(args: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = run_program(args);
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// Runs a command on a pipeline text, in a folder; exit code and everything that it said.
pub fn reflux_on(dir: &Path, text: &str, args: &[&str]) -> (Option<i32>, String) {
    let file = dir.join("p.toml");
    std::fs::write(&file, text).unwrap();
    let mut command = command(&[args[0], file.to_str().unwrap()]);
    command.args(&args[1..]);
    if args[0] == "run" {
        command.arg("--runs").arg(dir.join("runs")).args(["--device", "cpu"]);
    }
    let output = command.output().unwrap();
    (output.status.code(), said(&output))
}

/// Everything that it said.
pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}
