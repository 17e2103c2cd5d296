//! The trainers of `trainers/` with the real TRL: their losses are those of `dpo` and `sft`, step by step. They need
//! a python with trl and pyarrow, named by REFLUX_TRL_PYTHON.

use std::path::{Path, PathBuf};
use std::process::Command;

use reflux::data::Columns;
use reflux::store::Run;

use crate::common;
use crate::support::{printed, root};

fn python() -> PathBuf {
    let named = std::env::var_os("REFLUX_TRL_PYTHON").expect("REFLUX_TRL_PYTHON names a python with trl and pyarrow");
    let python = PathBuf::from(named);
    assert!(python.is_file(), "REFLUX_TRL_PYTHON: {} not found", python.display());
    python
}

/// Runs a pipeline with the steps `ours` and `trl`.
fn run(text: &str, temp: &Path) -> Run {
    let file = temp.join("compared.toml");
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_reflux"));
    command.current_dir(root()).env("NO_COLOR", "1").env("HF_HUB_OFFLINE", "1").arg("run").arg(file);
    let out = printed(command.args(["--device", "cpu", "-w", "1", "--runs"]).arg(temp));
    assert_eq!(out.code, Some(0), "{}", out.text);
    assert!(!out.text.contains("were trained on"), "{}", out.text);
    Run::open(&temp.join("compared")).unwrap()
}

/// The column of a step's metrics.
fn column(run: &Run, step: &str, name: &str) -> Vec<f64> {
    let all = run.metrics();
    let entry = all.iter().find(|metrics| metrics.step == step).unwrap();
    Columns(&run.load_metrics(entry).unwrap()).double(name).unwrap().iter().map(|value| value.unwrap_or(0.)).collect()
}

/// Compares the metrics of both trainings, of which there is one row for each of `steps`.
fn assert_same(run: &Run, names: &[&str], steps: usize) {
    for name in names {
        let (ours, theirs) = (column(run, "ours", name), column(run, "trl", name));
        assert_eq!((ours.len(), theirs.len()), (steps, steps), "{name}");
        for (step, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            assert!((ours - theirs).abs() < 1e-3, "{name}, step {}: {ours} and {theirs}", step + 1);
        }
    }
}

/// Arguments of a script that are the same for both.
fn command(script: &str, more: &str) -> String {
    format!(
        "command = [{:?}, \"trainers/{script}\", \"--model\", \"{{model}}\", \"--output\", \"{{output}}\", \"--metrics\", \
         \"{{metrics}}\", \"--seed\", \"{{seed}}\", \"--set\", \"learning_rate=1e-4\", \"--set\", \
         \"lr_scheduler_type=constant\", \"--set\", \"train_sampling_strategy=sequential\", {more}]",
        python()
    )
}

fn dpo(temp: &Path, reference: &str) -> String {
    let command = command("trl_dpo.py", &format!("\"--pairs\", \"{{pairs}}\"{reference}"));
    let script = common::script(temp, 0);
    format!(
        r#"
[pipeline]
name = "compared"
seed = 3
microbatch = 8
[model.m0]
path = "pipelines/listworld/m0"
[model.script]
script = {script:?}
[step.requests]
op = "listworld"
data = "requests"
rows = 24
[step.responses]
op = "generate"
from = "requests"
model = "m0"
samples = 4
sampling = {{ temperature = 1.0, top_p = 1.0, max_tokens = 12 }}
[step.scores]
op = "judge"
from = "responses"
model = "script"
rubric = "additive-5"
pattern = "Score: ([0-5])"
samples = 3
[step.pairs]
op = "select"
from = "scores"
[step.ours]
op = "dpo"
from = "pairs"
model = "m0"
batch_size = 2
learning_rate = 1e-4
schedule = "constant"
shuffle = false
[step.trl]
op = "train"
from = "pairs"
model = "m0"
{command}
"#
    )
}

#[test]
#[ignore = "needs REFLUX_TRL_PYTHON"]
fn dpo_by_trl_has_the_losses_of_dpo() {
    for reference in [", \"--reference\", \"{reference}\"", ""] {
        let temp = tempfile::tempdir().unwrap();
        let run = run(&dpo(temp.path(), reference), temp.path());
        let pairs: u64 = run.files("pairs").iter().map(|file| file.rows).sum();
        let names = ["loss", "rewards/chosen", "rewards/margins", "learning_rate", "num_tokens"];
        assert_same(&run, &names, pairs.div_ceil(2) as usize);
    }
}

/// A trainer that is killed between two checkpoints, and started again, takes the same steps and uses all pairs.
#[test]
#[ignore = "needs REFLUX_TRL_PYTHON"]
fn trl_goes_on_from_its_checkpoint() {
    let temp = tempfile::tempdir().unwrap();
    let text = dpo(temp.path(), ", \"--set\", \"save_steps=4\"");
    // The first start is killed after its sixth step.
    let killed = "python=$1; shift; \"$python\" \"$@\" & child=$!; if [ ! -e {output}/killed ]; then touch {output}/killed; \
                  until [ -s {metrics} ] && [ $(wc -l < {metrics}) -ge 6 ]; do sleep 0.1; done; kill -KILL $child; \
                  exit 137; fi; wait $child";
    let text = text.replacen("command = [", &format!("command = [\"sh\", \"-c\", {killed:?}, \"sh\", "), 1);
    let run = run(&text, temp.path());
    let log = std::fs::read_to_string(run.dir().join("logs/trl/iteration=0.log")).unwrap();
    assert!(log.contains("start 2 of at most 2"), "{log}");
    let pairs: u64 = run.files("pairs").iter().map(|file| file.rows).sum();
    assert_same(&run, &["loss", "rewards/chosen", "rewards/margins"], pairs.div_ceil(2) as usize);
}

#[test]
#[ignore = "needs REFLUX_TRL_PYTHON"]
fn sft_by_trl_has_the_losses_of_sft() {
    let temp = tempfile::tempdir().unwrap();
    let command = command("trl_sft.py", "\"--rows\", \"{pairs}\", \"--set\", \"per_device_train_batch_size=4\"");
    let text = format!(
        r#"
[pipeline]
name = "compared"
seed = 3
microbatch = 8
[model.m0]
path = "pipelines/listworld/m0"
[step.ift]
op = "listworld"
data = "ift"
rows = 24
[step.ours]
op = "sft"
from = "ift"
model = "m0"
batch_size = 4
learning_rate = 1e-4
schedule = "constant"
shuffle = false
[step.trl]
op = "train"
from = "ift"
model = "m0"
{command}
"#
    );
    let run = run(&text, temp.path());
    assert_same(&run, &["loss", "learning_rate", "num_tokens"], 6);
}

/// The same on a model that people use: three steps of DPO on answers that SmolLM2 sampled.
#[test]
#[ignore = "needs REFLUX_TRL_PYTHON and REFLUX_SMOLLM2"]
fn dpo_of_smollm2_by_trl_has_the_losses_of_dpo() {
    let model = std::env::var("REFLUX_SMOLLM2").expect("REFLUX_SMOLLM2 names SmolLM2, a GGUF file or a folder");
    let temp = tempfile::tempdir().unwrap();
    let prompts = ["Name a river in Europe.", "What is the capital of France?", "What do bees make?", "Name a colour."];
    let rows: String = prompts.iter().map(|prompt| format!("{{\"prompt\": {prompt:?}}}\n")).collect();
    std::fs::write(temp.path().join("prompts.jsonl"), rows).unwrap();
    let text = dpo(temp.path(), ", \"--reference\", \"{reference}\"");
    let text = text
        .replace("path = \"pipelines/listworld/m0\"", &format!("path = {model:?}\ndtype = \"f32\""))
        .replace(
            "op = \"listworld\"\ndata = \"requests\"\nrows = 24",
            &format!("op = \"read\"\ndataset = {:?}", temp.path().join("prompts.jsonl")),
        )
        // At the rate of the small model, three steps are far from each other.
        .replace("1e-4", "1e-6");
    let run = run(&text, temp.path());
    let pairs: u64 = run.files("pairs").iter().map(|file| file.rows).sum();
    assert!(pairs >= 3, "{pairs} pairs are less than two steps");
    assert_same(&run, &["loss", "rewards/chosen", "rewards/margins", "num_tokens"], pairs.div_ceil(2) as usize);
}
