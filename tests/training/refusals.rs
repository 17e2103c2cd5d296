//! What a pipeline run makes of pairs that cannot be trained on, and of numbers that run away.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use crate::common::files;
use arrow::array::{Array, ArrayRef, Float32Array, RecordBatch, StringArray};
use candle_core::{DType, Device};
use reflux::data::{Columns, List, named};
use reflux::model::Model;
use reflux::store::{Run, read_parquet, write_parquet};

/// A pair by its name: prompt, chosen, rejected, margin.
type Row<'a> = (&'a str, Vec<u32>, Vec<u32>, Vec<u32>, f32);

/// A stored dataset of pairs that some other model has sampled.
fn pairs(rows: &[Row<'_>], model: &str) -> RecordBatch {
    let text =
        |of: &dyn Fn(&Row<'_>) -> String| -> ArrayRef { Arc::new(StringArray::from_iter_values(rows.iter().map(of))) };
    let said = |role: &str| {
        List::of_messages(&rows.iter().map(|_| vec![(role.to_owned(), "?".to_owned())]).collect::<Vec<_>>())
    };
    let number =
        |of: &dyn Fn(&Row<'_>) -> f32| -> ArrayRef { Arc::new(Float32Array::from_iter_values(rows.iter().map(of))) };
    let tokens = |of: &dyn Fn(&Row<'_>) -> Vec<u32>| List::of_tokens(&rows.iter().map(of).collect::<Vec<_>>());
    let logprobs =
        |of: &dyn Fn(&Row<'_>) -> usize| List::of_floats(&rows.iter().map(|r| vec![-1f32; of(r)]).collect::<Vec<_>>());
    named::PAIRS
        .batch(vec![
            text(&|r| r.0.into()),
            said("user"),
            said("assistant"),
            said("assistant"),
            text(&|r| format!("{}-w", r.0)),
            text(&|r| format!("{}-l", r.0)),
            number(&|r| r.4),
            number(&|_| 0.),
            number(&|r| r.4),
            tokens(&|r| r.1.clone()),
            tokens(&|r| r.2.clone()),
            tokens(&|r| r.3.clone()),
            logprobs(&|r| r.2.len()),
            logprobs(&|r| r.3.len()),
            text(&|_| model.into()),
            Arc::new(Float32Array::from(vec![None::<f32>; rows.len()])),
        ])
        .unwrap()
}

/// Runs DPO on stored pairs in a folder of its own.
fn dpo(dir: &Path, rows: &[Row<'_>], keys: &str) -> Output {
    // Token ids of a script are made up, and need not spell the texts.
    dpo_on(dir, &pairs(rows, "script:somebody"), keys)
}
fn dpo_on(dir: &Path, rows: &RecordBatch, keys: &str) -> Output {
    write_parquet(&dir.join("pairs/part.parquet"), rows).unwrap();
    let text = format!(
        "[pipeline]\nname = \"refusals\"\n[model.m0]\ninit = \"pipelines/listworld/model\"\n\
         [step.pairs]\nop = \"read\"\ndataset = {:?}\nschema = \"pairs\"\n\
         [step.dpo]\nop = \"dpo\"\nfrom = \"pairs\"\nmodel = \"m0\"\nshuffle = false\nbatch_size = 2\n{keys}\n",
        dir.join("pairs")
    );
    std::fs::write(dir.join("refusals.toml"), text).unwrap();
    again(dir)
}
fn again(dir: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reflux"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env("NO_COLOR", "1").arg("run").arg(dir.join("refusals.toml"));
    command.args(["--device", "cpu", "--runs"]).arg(dir.join("runs")).output().unwrap()
}
fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn pairs_that_cannot_be_trained_on_are_error_rows_and_the_others_are_learnt() {
    let temp = tempfile::tempdir().unwrap();
    let config = std::fs::read_to_string("pipelines/listworld/model/config.json").unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    let context = config["max_position_embeddings"].as_u64().unwrap() as usize;
    let vocabulary = config["vocab_size"].as_u64().unwrap() as u32;
    let rows: Vec<Row<'_>> = vec![
        ("good", vec![5, 6], vec![7, 8], vec![9], 1.),
        ("no-prompt", vec![], vec![7], vec![9], 1.),
        ("no-chosen", vec![5], vec![], vec![9], 1.),
        ("no-rejected", vec![5], vec![7], vec![], 1.),
        ("same", vec![5], vec![7, 8], vec![7, 8], 1.),
        ("long", vec![5; 10], vec![7; context], vec![9], 1.),
        ("strange", vec![5], vec![vocabulary], vec![9], 1.),
        ("margin", vec![5], vec![7], vec![9], f32::INFINITY),
        ("fine", vec![6], vec![7, 9], vec![9, 8], 1.),
    ];
    let output = dpo(temp.path(), &rows, "");
    let (code, out, err) = said(&output);
    assert_eq!(code, Some(0), "{err}");
    let dir = temp.path().join("runs/refusals");
    assert!(out.contains("7 rows were left out") && out.contains("`reflux show "), "{out}");
    let errors = read_parquet(&dir.join("data/errors/dpo/iteration-0/microbatch-00000.parquet")).unwrap();
    let text = |name: &str| {
        let column = Columns(&errors).text(name).unwrap();
        (0..column.len()).map(|i| column.value(i).to_owned()).collect::<Vec<_>>()
    };
    let got: Vec<_> = text("row").into_iter().zip(text("code")).collect();
    let want = [
        ("no-prompt", "empty_prompt"),
        ("no-chosen", "empty_completion"),
        ("no-rejected", "empty_completion"),
        ("same", "equal_completions"),
        ("long", "too_long"),
        ("strange", "unknown_token"),
        ("margin", "bad_margin"),
    ];
    let want: Vec<_> = want.iter().map(|(id, code)| (format!("{id}-w>{id}-l"), (*code).to_owned())).collect();
    assert_eq!(got, want);
    assert!(text("message").iter().any(|m| m.contains(&format!("at most {context} fit"))), "{:?}", text("message"));
    let run = Run::open(&dir).unwrap();
    assert!(run.finished() && run.model("dpo").is_some());
    // Only what was learnt has a reference.
    let reference = run.read_step("dpo.reference", Some(0)).unwrap().unwrap();
    let ids = Columns(&reference).text("prompt_id").unwrap();
    let ids: Vec<&str> = ids.iter().flatten().collect();
    assert!(ids.contains(&"good") && ids.contains(&"fine") && !ids.contains(&"long"), "{ids:?}");
}

#[test]
fn a_record_that_cannot_be_true_is_named_with_both_figures() {
    let temp = tempfile::tempdir().unwrap();
    // The pairs say that the policy itself gave every token -1.
    let directory = Path::new("pipelines/listworld/model");
    let policy = Model::init(directory, 0.05, 0, &Device::Cpu, DType::F32, false).unwrap().hash;
    let rows: Vec<Row<'_>> = vec![("a", vec![5, 6], vec![7, 8], vec![9], 1.), ("b", vec![6], vec![7], vec![9, 8], 1.)];
    let (code, out, err) = said(&dpo_on(temp.path(), &pairs(&rows, &policy), "audit_threshold = 0.25"));
    assert_eq!(code, Some(0), "{err}");
    assert!(
        err.contains("step `dpo`, iteration 0, microbatch 0: the log-probabilities recorded while sampling differ"),
        "{err}"
    );
    assert!(
        err.contains("nats a token, more than audit_threshold = 2.500e-1; all of its 2 pairs are computed"),
        "{err}"
    );
    assert!(out.contains("of 0 pairs as recorded while sampling, of 2 computed; 1 audited"), "{out}");
    assert!(out.contains("1 microbatch failed the audit and was computed"), "{out}");
    let summary = std::fs::read(temp.path().join("runs/refusals/summary.json")).unwrap();
    let summary: serde_json::Value = serde_json::from_slice(&summary).unwrap();
    let used = &summary["references"][0];
    assert_eq!((used["hash"].as_str(), used["audits_failed"].as_u64()), (Some(policy.as_str()), Some(1)));
    assert!(used["audit_difference"].as_f64().unwrap() > 0.25);
}

#[test]
fn no_usable_pair_stops_the_run_and_names_the_first() {
    let temp = tempfile::tempdir().unwrap();
    let rows: Vec<Row<'_>> = vec![("a", vec![5], vec![7], vec![7], 1.), ("b", vec![5], vec![], vec![7], 1.)];
    let (code, _, err) = said(&dpo(temp.path(), &rows, ""));
    assert_eq!(code, Some(2), "{err}");
    let message = "none of the 2 pairs can be trained on; the first, a-w>a-l: equal_completions";
    assert!(err.contains(message), "{err}");
    assert!(!temp.path().join("runs/refusals/models").exists());

    let temp = tempfile::tempdir().unwrap();
    let (code, _, err) = said(&dpo(temp.path(), &[], ""));
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("yielded no pair") || err.contains("no rows"), "{err}");
}

#[test]
fn a_gradient_that_runs_away_stops_the_run_names_the_pair_and_leaves_the_checkpoint() {
    let temp = tempfile::tempdir().unwrap();
    let good = |id| (id, vec![5, 6], vec![7, 8], vec![9], 1.);
    // In f64 the loss of the third pair is finite; its gradient leaves the range of f32.
    let rows = [good("a"), good("b"), ("huge", vec![5], vec![7], vec![9], 3e38), good("c")];
    let output = dpo(
        temp.path(),
        &rows,
        "loss = \"rpo_sq\"\nmargin_scale = 1e6\nbeta = 1e3\nlearning_rate = 1e-5\ncheckpoint_every = 1",
    );
    let (code, _, err) = said(&output);
    assert_eq!(code, Some(2), "{err}");
    assert!(
        err.contains("at training step 2, from `huge-w>huge-l`") && err.contains("the weights are as before it"),
        "{err}"
    );
    assert!(err.contains("lower learning_rate") && err.contains("step `dpo`"), "{err}");
    let dir = temp.path().join("runs/refusals");
    let run = Run::open(&dir).unwrap();
    assert!(!run.finished() && run.model("dpo").is_none());
    let checkpoints = run.checkpoints("dpo", 0);
    assert_eq!(checkpoints.iter().map(|c| c.0).collect::<Vec<_>>(), [1]);
    Run::verify_checkpoint(&checkpoints[0].1).unwrap();
    // Going on ends there again, and takes nothing away.
    let before = files(&checkpoints[0].1);
    let (code, _, err) = said(&again(temp.path()));
    assert_eq!(code, Some(2));
    assert!(err.contains("at training step 2, from `huge-w>huge-l`"), "{err}");
    assert_eq!(files(&checkpoints[0].1), before);
}
