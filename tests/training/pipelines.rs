//! Ways of training in a pipeline file: `lora = { .. }`, whose models come out whole with the adapter beside them; dropout,
//! checkpointed activations, weights in bf16. Each is the same whatever the workers.

use std::path::Path;
use std::process::{Command, Output};

use crate::common;
use crate::common::program::run_program;
use candle_core::{DType, Device, Tensor};
use reflux::model::Model;

/// The quickstart at small size with these further settings.
fn run(runs: &Path, workers: &str, more: &[&str]) -> Output {
    run_with(runs, workers, more, &[])
}

/// The same with these variables of the environment.
fn run_with(runs: &Path, workers: &str, more: &[&str], variables: &[(&str, &str)]) -> Output {
    let script = format!("model.script.script={:?}", common::script(runs, 0));
    let small = ["pipeline.iterations=2", "model.script.dtype=f32", script.as_str()];
    let mut args = vec!["run", "pipelines/quickstart.toml", "--device", "cpu", "-w", workers, "--runs"];
    args.push(runs.to_str().unwrap());
    args.extend(common::SMALL_LISTWORLD.iter().chain(&small).chain(more).flat_map(|s| ["--set", s]));
    let mut command = Command::new(env!("CARGO_BIN_EXE_reflux"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env("NO_COLOR", "1").args(args);
    command.envs(variables.iter().copied()).output().unwrap()
}

#[test]
fn adapters_lie_beside_merged_models() {
    let lora = [
        "step.m1.lora.rank=4",
        "step.m1.lora.alpha=8",
        "step.m1.lora.dropout=0.1",
        "step.dpo.lora.rank=2",
        "step.dpo.lora.targets=[\"q_proj\", \"v_proj\"]",
        "step.dpo.learning_rate=1e-3",
    ];
    let load = |path: &Path| Model::load(path, &Device::Cpu, DType::F32, false).unwrap();
    let mut hashes = Vec::new();
    for workers in ["1", "2"] {
        let temp = tempfile::tempdir().unwrap();
        let output = run(temp.path(), workers, &lora);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let models = temp.path().join("quickstart/models");
        let m0 = load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/listworld/m0"));
        let mut all = vec![m0.hash.clone()];
        for name in ["M1", "M2", "M3"] {
            let whole = load(&models.join(name));
            assert!(!all.contains(&whole.hash), "{name} was trained");
            all.push(whole.hash.clone());
            // An adapter is its base model, named by where it lies, and the change.
            let merged = load(&models.join(name).join("adapter"));
            assert_eq!(merged.hash, whole.hash, "{name}");
        }
        // Only what has an adapter has changed.
        let (m1, m2) = (load(&models.join("M1")), load(&models.join("M2")));
        for (name, w) in m1.llama.weights() {
            let moved = (w - &m2.llama.weights()[name]).unwrap().abs().unwrap().sum_all().unwrap();
            let moved = moved.to_scalar::<f32>().unwrap() > 0.;
            assert_eq!(moved, name.contains("q_proj") || name.contains("v_proj"), "{name}");
        }
        hashes.push(all);
    }
    assert_eq!(hashes[0], hashes[1], "one worker and two");
}

/// A base in bf16 stays so in memory; what is saved is f32, and the run goes on with it.
#[test]
fn a_base_in_bf16_is_trained() {
    let temp = tempfile::tempdir().unwrap();
    let set = ["pipeline.iterations=1", "model.m0.dtype=bf16", "step.m1.lora.rank=4", "step.dpo.lora.rank=4"];
    let output = run(temp.path(), "1", &set);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let models = temp.path().join("quickstart/models");
    let load = |name: &str| Model::load(&models.join(name), &Device::Cpu, DType::F32, false).unwrap();
    let (m1, m2) = (load("M1"), load("M2"));
    assert_eq!(load("M2/adapter").hash, m2.hash);
    let m0 = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/listworld/m0");
    let m0 = Model::load(&m0, &Device::Cpu, DType::BF16, false).unwrap();
    for (name, w) in m0.llama.weights() {
        let moved = (w.to_dtype(DType::F32).unwrap() - &m1.llama.weights()[name]).unwrap().abs().unwrap();
        let moved = moved.sum_all().unwrap().to_scalar::<f32>().unwrap() > 0.;
        assert_eq!(moved, name.contains("_proj"), "{name}");
    }
}

/// While a training goes on its metrics so far can be read. A run that dies and goes on leaves the files of one that did
/// not.
#[test]
fn metrics_can_be_read_while_a_training_goes_on() {
    let metrics = "quickstart/metrics/m1/iteration=0/metrics.parquet";
    let once = ["pipeline.iterations=1", "step.m1.checkpoint_every=2"];
    let (died, undisturbed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let output = run_with(died.path(), "1", &once, &[("REFLUX_FAULT", "checkpoint-before-rename")]);
    assert!(!output.status.success(), "the process dies as it keeps the state after two steps");
    let show = |dir: &Path| {
        let what = dir.join("quickstart/metrics/m1");
        let output = run_program(&["show", what.to_str().unwrap(), "--format", "json"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect::<Vec<serde_json::Value>>()
    };
    let running = died.path().join("quickstart/metrics/m1/iteration=0/metrics.running.parquet");
    assert!(running.exists() && !died.path().join(metrics).exists());
    let so_far = show(died.path());
    assert!(!so_far.is_empty() && so_far[0]["step"] == 1 && so_far[0]["iteration"] == 0, "{so_far:?}");

    for dir in [died.path(), undisturbed.path()] {
        let output = run(dir, "1", &once);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(!running.exists(), "the whole metrics have taken its place");
    let whole = show(died.path());
    assert!(whole.len() > so_far.len());
    for (before, after) in so_far.iter().zip(&whole) {
        assert_eq!(before["loss"], after["loss"]);
    }
    let bytes = |dir: &Path| std::fs::read(dir.join(metrics)).unwrap();
    assert_eq!(bytes(died.path()), bytes(undisturbed.path()));
    let listed = |dir: &Path| std::fs::read_dir(dir.join("quickstart/metrics/m1/iteration=0")).unwrap().count();
    assert_eq!((listed(died.path()), listed(undisturbed.path())), (1, 1));
}

/// A step that leaves a weight beyond f32 makes no model: here decay alone, on an embedding that no row uses.
#[test]
fn a_model_that_is_not_finite_is_not_committed() {
    let temp = tempfile::tempdir().unwrap();
    let m0 = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/listworld/m0");
    let model = Model::load(&m0, &Device::Cpu, DType::F32, false).unwrap();
    // One more row than the tokenizer has tokens, in an embedding that is not the output matrix.
    let (mut config, mut weights) = (model.llama.config().clone(), model.llama.weights().clone());
    let embedding = &weights["model.embed_tokens.weight"];
    let head = Tensor::cat(&[embedding, &embedding.narrow(0, 0, 1).unwrap()], 0).unwrap();
    let unused = Tensor::full(1e37f32, (1, config.hidden_size), &Device::Cpu).unwrap();
    let embedding = Tensor::cat(&[embedding, &unused], 0).unwrap();
    (config.vocab_size, config.tie_word_embeddings) = (config.vocab_size + 1, false);
    weights.extend([("model.embed_tokens.weight".to_owned(), embedding), ("lm_head.weight".to_owned(), head)]);
    let large = Model::from_weights("m0", &config, weights, model.tokenizer.clone(), false).unwrap();
    let start = temp.path().join("large");
    large.save(&start).unwrap();
    let path = format!("model.m0.path={:?}", start.to_str().unwrap());
    // One step, at the full rate.
    let one_step = [
        "step.m1.batch_tokens=1000000",
        "step.m1.warmup=0",
        "step.m1.learning_rate=10",
        "step.m1.weight_decay=10",
        path.as_str(),
    ];
    let output = run(temp.path(), "1", &one_step);
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    let why = "the model is not saved: weight `model.embed_tokens.weight` holds 128 of 19328 numbers";
    assert!(error.contains(why) && error.contains("lower its learning_rate"), "{error}");
    assert!(!temp.path().join("quickstart/models/M1").exists());
    let manifest = std::fs::read_to_string(temp.path().join("quickstart/manifest.jsonl")).unwrap();
    assert!(!manifest.contains("models/M1"), "{manifest}");
}

#[test]
fn a_beta_of_one_is_refused_before_anything_runs() {
    for betas in ["[1.0, 0.999]", "[0.9, 1.0]", "[0.9, 1]", "[-0.1, 0.9]"] {
        let output = run_program(&["check", "pipelines/quickstart.toml", "--set", &format!("step.dpo.betas={betas}")]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{betas}: {error}");
        assert!(error.contains("a number of at least 0.0 and less than 1.0 is wanted"), "{error}");
    }
    let output = run_program(&["check", "pipelines/quickstart.toml", "--set", "step.dpo.betas=[0.0, 0.0]"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn explain_says_so_and_wrong_targets_are_told() {
    let explain = |set: &str| {
        let output = run_program(&["explain", "pipelines/quickstart.toml", "--set", set]);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, plan, _) = explain("step.dpo.lora.alpha=8");
    assert!(code == Some(0) && plan.contains("LoRA of rank 16 and alpha 8 on all-linear"), "{plan}");
    assert!(!explain("step.dpo.beta=0.2").1.contains("LoRA"));
    let (code, out, err) = explain("step.dpo.lora.targets=[\"q_proj\", \"lm_head\"]");
    assert!(code == Some(2) && format!("{out}{err}").contains("no matrix `lm_head`"), "{out}{err}");
    let (code, out, err) = explain("step.dpo.lora.rang=8");
    assert!(code == Some(2) && format!("{out}{err}").contains("rank"), "{out}{err}");
}

#[test]
fn weights_in_bf16_stay_so_from_model_to_model() {
    let more = [
        "model.m0.dtype=bf16",
        "step.m1.dropout=0.1",
        "step.dpo.dropout=0.1",
        "step.dpo.checkpoint_activations=true",
        "step.dpo.learning_rate=1e-3",
    ];
    let mut hashes = Vec::new();
    for workers in ["1", "2"] {
        let temp = tempfile::tempdir().unwrap();
        let output = run(temp.path(), workers, &more);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let models = ["M1", "M2", "M3"].map(|name| temp.path().join("quickstart/models").join(name));
        let of = |dir: &std::path::PathBuf| {
            assert_eq!(reflux::model::saved_dtype(dir).unwrap(), DType::BF16);
            Model::load(dir, &Device::Cpu, DType::BF16, false).unwrap().hash
        };
        let all = models.each_ref().map(of);
        assert!(all[0] != all[1] && all[1] != all[2], "each was trained");
        hashes.push(all);
    }
    assert_eq!(hashes[0], hashes[1]);
}
