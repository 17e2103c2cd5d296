//! The loop on a real model: `REFLUX_SMOLLM2` names the GGUF that `pipelines/get-smollm2.sh` fetches.

use std::process::Command;

use reflux::data::Columns;
use reflux::store::{Run, read_parquet};

#[test]
#[ignore = "needs REFLUX_SMOLLM2, the path of SmolLM2-135M-Instruct.Q4_1.gguf (pipelines/get-smollm2.sh)"]
fn a_small_iteration_of_smollm2() {
    let gguf = std::env::var("REFLUX_SMOLLM2").expect("REFLUX_SMOLLM2 names the model's file");
    let temp = tempfile::tempdir().unwrap();
    let path = format!("model.m0.path={gguf:?}");
    let sizes = [
        "step.ift.limit=8",
        "step.eft.limit=8",
        "step.prompts.per_iteration=4",
        "step.responses.samples=2",
        "step.scores.samples=2",
        "step.prompts.sampling.max_tokens=48",
        "step.responses.sampling.max_tokens=24",
        "step.scores.sampling.max_tokens=64",
        "step.prompts.reject.rouge_l=1.0",
        "step.prompts.reject.min_words=1",
    ];
    // Too little training for a judge whose format holds: an untrained one may yield no pair, which is an end of its own.
    let mut command = Command::new(env!("CARGO_BIN_EXE_reflux"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args([
        "run",
        "pipelines/smollm2.toml",
        "--runs",
        temp.path().to_str().unwrap(),
    ]);
    command.args(["--set", &path]).args(sizes.iter().flat_map(|s| ["--set", s]));
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{out}\n{err}");
    let finished = output.status.success();
    assert!(finished || err.contains("yielded no pair"), "{err}");
    let run = Run::open(&temp.path().join("smollm2")).unwrap();
    let rows = |step: &str| run.read_step(step, Some(1)).unwrap().unwrap();
    let (prompts, responses, scores) = (rows("prompts"), rows("responses"), rows("scores"));
    assert!(
        prompts.num_rows() >= 1
            && responses.num_rows() == 2 * prompts.num_rows()
            && scores.num_rows() == responses.num_rows()
    );
    let logprobs = Columns(&responses).floats("logprobs").unwrap();
    assert!((0..responses.num_rows()).all(|i| logprobs.row(i).iter().all(|l| l.is_finite() && *l <= 0.)));
    let texts = Columns(&responses).text("response").unwrap();
    assert!(texts.iter().flatten().all(|t| t.chars().any(char::is_alphabetic)), "a real model writes words");
    let metrics = run.metrics();
    let sft = read_parquet(&run.dir().join(&metrics[0].path)).unwrap();
    assert!(Columns(&sft).double("loss").unwrap().iter().flatten().all(|l| l > 0. && l < 5.));
    if finished {
        assert!(run.dir().join("models/M2/model.safetensors").exists());
    }
}
