//! Peak memory does not depend on how many prompts there are.

mod common;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Command;

use common::{How, run};
use reflux::bench::peak_rss;

const PROMPTS: &str = "REFLUX_TEST_PROMPTS";

const SCRIPT: &str = "
[[answer]]
match = \"You grade an AI\"
text = [\"Clear.\\nScore: {score}\", \"Dull.\\nScore: {score}\"]
[[answer]]
text = [\"Answer {n}.\", \"Perhaps {n}.\"]
";

/// Reads `prompts` prompts, answers each four times, judges each answer three times and selects pairs, in a process of its own;
/// returns its peak in bytes.
fn peak(prompts: usize) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap());
    let out = child.args(["--ignored", "--exact", "one_size", "--nocapture"]).env(PROMPTS, prompts.to_string());
    let out = out.output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success(), "{text}{}", String::from_utf8_lossy(&out.stderr));
    text.lines().find_map(|l| l.strip_prefix("peak ")?.parse().ok()).unwrap_or_else(|| panic!("{text}"))
}

fn script(dir: &Path, prompts: usize) -> String {
    let (script, rows) = (dir.join("script.toml"), dir.join("prompts.jsonl"));
    std::fs::write(&script, SCRIPT).unwrap();
    let mut file = BufWriter::new(File::create(&rows).unwrap());
    for i in 0..prompts {
        writeln!(file, "{{\"prompt\": \"Tell me about {i}\", \"response\": \"x\"}}").unwrap();
    }
    file.into_inner().unwrap();
    format!(
        "[pipeline]\nname = \"memory\"\nmicrobatch = 128\n[model.s]\nscript = {script:?}\n[step.prompts]\nop = \"read\"\nschema = \"ift\"\n\
         dataset = {rows:?}\n[step.responses]\nop = \"generate\"\nfrom = \"prompts\"\nmodel = \"s\"\nsamples = 4\n\
         [step.scores]\nop = \"judge\"\nfrom = \"responses\"\nmodel = \"s\"\nsamples = 3\n[step.pairs]\nop = \"select\"\nfrom = \"scores\"\n"
    )
}

#[test]
#[ignore = "a part of the test below, which gives it a process of its own"]
fn one_size() {
    let prompts = std::env::var(PROMPTS).unwrap().parse().unwrap();
    let temp = tempfile::tempdir().unwrap();
    let (result, watch) = run(&script(temp.path(), prompts), &temp.path().join("run"), &How::default());
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
