//! Peak memory does not depend on how many prompts there are; where it must, what a prompt takes is bounded.

use std::process::Command;

use crate::common::{RunOptions, run};
use crate::scripted;
use reflux::bench::peak_rss;

const PROMPTS: &str = "REFLUX_TEST_PROMPTS";

/// Runs one of the ignored tests with so many prompts in a process of its own; returns its peak in bytes.
fn peak(test: &str, prompts: usize) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap());
    let out = child
        .args(["--ignored", "--exact", &format!("memory::{test}"), "--nocapture"])
        .env(PROMPTS, prompts.to_string());
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
        run(&scripted::pipeline(temp.path(), prompts, 128).unwrap(), &temp.path().join("run"), &RunOptions::default());
    result.unwrap();
    let rows = |step: &str| watch.tally.counts()[&(step.to_owned(), 0)].rows;
    assert_eq!((rows("prompts"), rows("scores")), (prompts as u64, 4 * prompts as u64));
    println!("\npeak {}", peak_rss());
}

/// A hundred times the prompts, and within a tenth of the memory.
#[test]
#[cfg(target_os = "linux")]
fn of_a_thousand_prompts_and_of_a_hundred_thousand() {
    let _alone = crate::one_at_a_time();
    let (few, many) = (peak("one_size", 1_000), peak("one_size", 100_000));
    println!("1,000 prompts: {few} bytes; 100,000 prompts: {many} bytes");
    assert!(few > 0 && many * 10 <= few * 11, "{few} bytes for 1,000 prompts, {many} for 100,000");
}

/// Bytes of peak memory that each prompt beyond the first 20,000 takes.
fn growth(test: &str) -> f64 {
    let (few, many) = (peak(test, 20_000), peak(test, 220_000));
    println!("{test}: {few} bytes for 20,000 prompts, {many} for 220,000");
    (many.saturating_sub(few)) as f64 / 200_000.
}

#[test]
#[ignore = "a part of the test below, which gives it a process of its own"]
fn deduplicated() {
    let prompts: usize = std::env::var(PROMPTS).unwrap().parse().unwrap();
    let temp = tempfile::tempdir().unwrap();
    let data = temp.path().join("prompts.jsonl");
    let lines: String =
        (0..prompts).map(|i| format!("{{\"prompt\": \"Tell me about {i}\", \"response\": \"x\"}}\n")).collect();
    std::fs::write(&data, lines).unwrap();
    let text = format!(
        "[pipeline]\nname = \"d\"\nmicrobatch = 256\n[step.prompts]\nop = \"read\"\nschema = \"ift\"\ndataset = {data:?}\n\
         [step.fresh]\nop = \"dedup\"\nfrom = \"prompts\"\n"
    );
    let (result, watch) = run(&text, &temp.path().join("run"), &RunOptions::default());
    result.unwrap();
    assert_eq!(watch.tally.counts()[&("fresh".to_owned(), 0)].rows, prompts as u64);
    println!("\npeak {}", peak_rss());
}

#[test]
#[ignore = "a part of the test below, which gives it a process of its own"]
fn compared_with_near_copies() {
    let prompts: usize = std::env::var(PROMPTS).unwrap().parse().unwrap();
    let mut near = reflux::eval::rouge::NearCopies::new(0.7);
    // Ten words, most of which other prompts have too.
    for i in 0..prompts {
        let word = |n: usize| (i * 7919 + n * n * 104_729) % 5_000;
        near.insert(&(0..10).map(|n| format!("w{} ", word(n))).collect::<String>());
    }
    println!("\npeak {}", peak_rss());
}

/// `dedup` remembers each text that it has kept by its hash and place; `synthesize` with `rouge_l` remembers each prompt's words.
#[test]
#[cfg(target_os = "linux")]
fn what_is_remembered_of_a_prompt_is_bounded() {
    let _alone = crate::one_at_a_time();
    let (dedup, near) = (growth("deduplicated"), growth("compared_with_near_copies"));
    println!("dedup {dedup:.0} bytes a prompt, near copies of ten words {near:.0}");
    assert!(dedup < 400., "dedup needs {dedup:.0} bytes for each prompt");
    assert!(near < 250., "near copies of ten words need {near:.0} bytes for each prompt");
}
