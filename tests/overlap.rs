//! Stages overlap: three equal stages take little more than one of them.
//!
//! A binary of its own: other tests would take the cores on which the stages run.

mod common;

use std::time::Duration;

use common::{RunOptions, SCORES_TO_DPO, run, script};

const MICROBATCHES: usize = 24;
const LATENCY: u64 = 40;

#[test]
fn three_equal_stages_take_at_most_a_quarter_more_than_one() {
    let temp = tempfile::tempdir().unwrap();
    let script = script(temp.path(), LATENCY);
    let prompts: Vec<String> = (0..8)
        .map(|i| serde_json::json!({ "prompt": format!("Tell me about number {i}"), "response": "x" }).to_string())
        .collect();
    std::fs::write(temp.path().join("seed.jsonl"), prompts.join("\n")).unwrap();
    let text = format!(
        r#"
[pipeline]
name = "overlap"
microbatch = 4
window = 6
[model.script]
script = {script:?}
[model.tiny]
init = "pipelines/listworld/model"
[step.seed]
op = "read"
dataset = {:?}
schema = "ift"
[loop]
policy = "tiny"
next = "dpo"
[step.prompts]
op = "synthesize"
from = "seed"
model = "script"
per_iteration = {}
shots = {{ seed = 2, generated = 0 }}
reject = {{ rouge_l = 1.0 }}
attempts = 1
[step.responses]
op = "generate"
from = "prompts"
model = "script"
samples = 2
{SCORES_TO_DPO}
"#,
        temp.path().join("seed.jsonl").display().to_string(),
        4 * MICROBATCHES
    );
    let (result, watch) = run(&text, &temp.path().join("run"), &RunOptions { spans: true, ..RunOptions::default() });
    // The script's tokens are none of the tiny model's vocabulary; this is about what comes before training.
    assert!(result.is_ok() || result.unwrap_err().to_string().contains("dpo"));
    let spans = watch.spans.as_ref().unwrap().all();
    let stages = ["prompts", "responses", "scores"];
    let of = |stage: &'static str| spans.iter().filter(move |s| s.step == stage);
    for stage in stages {
        assert_eq!(of(stage).count(), MICROBATCHES);
    }
    let began = spans.iter().filter(|s| stages.contains(&s.step.as_str())).map(|s| s.began).min().unwrap();
    let ended = of("scores").map(|s| s.ended).max().unwrap();
    let slowest = stages.map(|stage| of(stage).map(|s| s.ended - s.began).sum::<Duration>()).into_iter().max().unwrap();
    let ratio = (ended - began).as_secs_f64() / slowest.as_secs_f64();
    println!("makespan {:?}, slowest stage {slowest:?}, ratio {ratio:.3}", ended - began);
    assert!(ratio <= 1.25, "three stages took {ratio:.2} times the slowest");
    // They really ran at the same time: some judge job began before the last prompt was written.
    assert!(of("scores").any(|s| s.began < of("prompts").map(|p| p.ended).max().unwrap()));
}
