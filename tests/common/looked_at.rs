//! A run that is looked at through the program.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::OnceLock;

use arrow::array::RecordBatch;
use reflux::store::Run;
use serde_json::Value;

pub use super::program::command;
use super::{RunOptions, small_loop};

/// Exit code, standard output as bytes, and standard error.
pub fn reflux(args: &[&str]) -> (Option<i32>, Vec<u8>, String) {
    let Output { status, stdout, stderr } = command(args).output().unwrap();
    (status.code(), stdout, String::from_utf8(stderr).unwrap())
}
/// What a command that works prints.
pub fn text(args: &[&str]) -> String {
    let (code, out, err) = reflux(args);
    assert_eq!(code, Some(0), "{args:?}: {err}");
    String::from_utf8(out).unwrap()
}
pub fn lines(args: &[&str]) -> Vec<Value> {
    text(args).lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// A finished run of two iterations that all tests look at.
pub fn finished() -> &'static Path {
    static RUN: OnceLock<PathBuf> = OnceLock::new();
    RUN.get_or_init(|| {
        let temp = tempfile::tempdir().unwrap().keep();
        let dir = temp.join("small");
        super::run(&small_loop(&temp), &dir, &RunOptions::default()).0.unwrap();
        let text = Run::open(&dir).unwrap().pipeline_text().unwrap();
        Run::create_or_open(&dir, &text, 5, false).unwrap().0.finish().unwrap();
        dir
    })
}
pub fn of(what: &str) -> String {
    finished().join(what).to_str().unwrap().to_owned()
}
pub fn stored(step: &str, iteration: Option<u32>) -> RecordBatch {
    Run::open(finished()).unwrap().read_step(step, iteration).unwrap().unwrap()
}
