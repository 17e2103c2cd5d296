//! Peak memory does not depend on how many prompts there are.

mod common;
#[path = "../benches/scripted/mod.rs"]
mod scripted;

use std::process::Command;

use common::{How, run};
use reflux::bench::peak_rss;

const PROMPTS: &str = "REFLUX_TEST_PROMPTS";

/// Runs the scripted pipeline over so many prompts in a process of its own; returns its peak in bytes.
fn peak(prompts: usize) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap());
    let out = child.args(["--ignored", "--exact", "one_size", "--nocapture"]).env(PROMPTS, prompts.to_string());
    let out = out.output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success(), "{text}{}", String::from_utf8_lossy(&out.stderr));
    text.lines().find_map(|l| l.strip_prefix("peak ")?.parse().ok()).unwrap_or_else(|| panic!("{text}"))
}

#[test]
#[ignore = "a part of the test below, which gives it a process of its own"]
fn one_size() {
    let prompts = std::env::var(PROMPTS).unwrap().parse().unwrap();
    let temp = tempfile::tempdir().unwrap();
    let (result, watch) =
        run(&scripted::pipeline(temp.path(), prompts, 128).unwrap(), &temp.path().join("run"), &How::default());
    result.unwrap();
    let rows = |step: &str| watch.tally.counts()[&(step.to_owned(), 0)].rows;
    assert_eq!((rows("prompts"), rows("scores")), (prompts as u64, 4 * prompts as u64));
    println!("\npeak {}", peak_rss());
}

/// A hundred times the prompts, and within a tenth of the memory.
#[test]
#[cfg(target_os = "linux")]
fn of_a_thousand_prompts_and_of_a_hundred_thousand() {
    let (few, many) = (peak(1_000), peak(100_000));
    println!("1,000 prompts: {few} bytes; 100,000 prompts: {many} bytes");
    assert!(few > 0 && many * 10 <= few * 11, "{few} bytes for 1,000 prompts, {many} for 100,000");
}
