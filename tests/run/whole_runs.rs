//! Whole runs: the same data whatever the workers, the transport or the interruptions, and clear ends to bad ones.

use crate::common::{RunOptions, files, outcome, run, small_loop};
use reflux::dataflow::WorkerTransport;
use reflux::error::ErrorKind;
use reflux::report::LeftOut;
use reflux::store::{Run, read_parquet};

#[test]
fn workers_and_transport_do_not_matter() {
    let temp = tempfile::tempdir().unwrap();
    let text = small_loop(temp.path());
    let mut outcomes = Vec::new();
    for (workers, transport) in
        [(1, WorkerTransport::Typed), (2, WorkerTransport::Typed), (3, WorkerTransport::Serialised)]
    {
        let dir = temp.path().join(format!("w{workers}"));
        let (result, watch) = run(&text, &dir, &RunOptions { workers, transport, ..RunOptions::default() });
        result.unwrap();
        let counts = watch.tally.counts();
        assert_eq!(counts[&("truth".to_string(), 3)].rows, 20, "the last model is looked at too");
        assert!(counts[&("pairs".to_string(), 2)].rows > 0);
        outcomes.push(outcome(&dir));
    }
    assert!(outcomes[0].len() > 30);
    assert!(outcomes[0].keys().any(|name| name == "models/M3/model.safetensors"), "{:?}", outcomes[0].keys());
    assert_eq!(outcomes[0], outcomes[1]);
    assert_eq!(outcomes[0], outcomes[2]);
}

#[test]
fn a_stopped_run_goes_on_to_the_same_end() {
    let temp = tempfile::tempdir().unwrap();
    let text = small_loop(temp.path());
    let whole = temp.path().join("whole");
    run(&text, &whole, &RunOptions::default()).0.unwrap();
    let broken = temp.path().join("broken");
    let mut stops = 0;
    for workers in [1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2] {
        let (result, _) = run(&text, &broken, &RunOptions { workers, stop_after: Some(7), ..RunOptions::default() });
        match result {
            Ok(()) => break,
            Err(e) => assert_eq!(e.kind(), ErrorKind::Cancelled, "{e}"),
        }
        stops += 1;
    }
    assert!(stops >= 3, "only {stops} stops");
    run(&text, &broken, &RunOptions::default()).0.unwrap();
    assert_eq!(outcome(&whole), outcome(&broken));
}

/// Prompts of which some are bad, answered by a random tiny model.
fn bad_prompts(dir: &std::path::Path) -> String {
    let prompts = dir.join("prompts.jsonl");
    let long = "ape ".repeat(400);
    let rows = ["list two animals", "   ", long.trim(), "name three jobs"];
    let lines: Vec<String> =
        rows.iter().map(|p| serde_json::json!({ "prompt": p, "response": "x" }).to_string()).collect();
    std::fs::write(&prompts, lines.join("\n")).unwrap();
    format!(
        r#"
[pipeline]
name = "bad"
[model.m0]
init = "pipelines/listworld/model"
[step.prompts]
op = "read"
dataset = {:?}
schema = "ift"
[step.responses]
op = "generate"
from = "prompts"
model = "m0"
samples = 2
sampling = {{ max_tokens = 4 }}
[step.scores]
op = "judge"
from = "responses"
model = "m0"
rubric = "pipelines/listworld/judge.jinja"
samples = 2
sampling = {{ max_tokens = 4 }}
[step.pairs]
op = "select"
from = "scores"
"#,
        prompts.display().to_string()
    )
}

#[test]
fn bad_rows_become_error_rows() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("run");
    let (result, watch) = run(&bad_prompts(temp.path()), &dir, &RunOptions::default());
    result.unwrap();
    let counts = watch.tally.counts();
    assert_eq!(counts[&("responses".to_string(), 0)].rows, 4);
    let errors: Vec<_> = files(&dir).into_keys().filter(|n| n.starts_with("data/errors/responses")).collect();
    assert_eq!(errors.len(), 1, "{errors:?}");
    let rows = read_parquet(&dir.join(&errors[0])).unwrap();
    let columns = reflux::data::Columns(&rows);
    let codes: Vec<&str> = columns.text("code").unwrap().iter().flatten().collect();
    assert_eq!(codes, ["empty_prompt", "prompt_too_long", "prompt_too_long"]);
    // A random judge says nothing readable: every answer stays, without a score, and there is no pair.
    let scores = read_parquet(&dir.join("data/scores/iteration=0/microbatch=00000.parquet")).unwrap();
    assert_eq!((scores.num_rows(), counts[&("pairs".to_string(), 0)].rows), (4, 0));
    assert_eq!(scores.column_by_name("score").unwrap().null_count(), 4);
    assert_eq!(counts[&("scores".to_string(), 0)].errors, 4);
    // The summary counts them from the files, so a resumed run counts those of before too.
    let left_out = LeftOut::of(&Run::open(&dir).unwrap()).unwrap();
    assert!(left_out.rows() >= 7, "{}", left_out.rows());
    let first = left_out.lines().into_iter().find(|l| l.starts_with("responses")).unwrap();
    assert_eq!(first, "responses: 3 failed (prompt_too_long 2, empty_prompt 1)");
    let one =
        serde_json::json!({ "step": "responses", "iteration": 0, "kind": "failed", "code": "empty_prompt", "rows": 1 });
    assert!(left_out.json().as_array().unwrap().contains(&one), "{}", left_out.json());
}

#[test]
fn an_iteration_without_a_pair_ends_with_advice() {
    let temp = tempfile::tempdir().unwrap();
    let text = small_loop(temp.path()).replace("op = \"select\"", "op = \"select\"\nmin_margin = 100.0");
    let dir = temp.path().join("run");
    let e = run(&text, &dir, &RunOptions::default()).0.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::User);
    assert!(e.to_string().contains("iteration 1 yielded no pair") && e.help_text().unwrap().contains("judge"), "{e}");
    assert!(outcome(&dir).keys().any(|n| n.starts_with("data/scores/iteration=1")), "what was committed is intact");
}

#[test]
fn a_failing_step_stops_the_run_on_all_workers() {
    let temp = tempfile::tempdir().unwrap();
    // The template asks for a part that a text does not have: it fails at the first row, inside a compute thread.
    let rubric = temp.path().join("broken.jinja");
    std::fs::write(&rubric, "judge {{ response }} {{ prompt.nothing.at_all }}").unwrap();
    let text = bad_prompts(temp.path())
        .replace("\"pipelines/listworld/judge.jinja\"", &format!("{:?}", rubric.display().to_string()));
    for workers in [1, 2] {
        let e =
            run(&text, &temp.path().join(format!("run{workers}")), &RunOptions { workers, ..RunOptions::default() })
                .0
                .unwrap_err();
        assert!(e.to_string().contains("step `scores`") && e.to_string().contains("broken.jinja"), "{e}");
    }
}
