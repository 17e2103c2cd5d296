//! Every ready pipeline file runs, at small size.

use std::path::{Path, PathBuf};

use crate::common;
use crate::common::program::run_program;
use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use reflux::store::Run;

fn run(file: &str, runs: &Path, set: &[String]) -> String {
    let mut args = vec!["run", file, "--runs", runs.to_str().unwrap(), "--device", "cpu"];
    args.extend(set.iter().flat_map(|s| ["--set", s]));
    let output = run_program(&args);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{file}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}

/// The overrides that make a pipeline file small, by its name.
fn small(name: &str, temp: &Path) -> Option<Vec<String>> {
    let script = || format!("model.script.script={:?}", common::script(temp, 0));
    let keys: Vec<String> = match name {
        "listworld-study" => small("quickstart", temp)?
            .into_iter()
            .chain([
                "study.seeds=[3, 4]".into(),
                "step.ranked.rows=12".into(),
                "study.variants={ recipe = \"\", bare = \"step.dpo.replay_weight = 0\\nstep.dpo.nll_weight = 0\" }"
                    .into(),
            ])
            .collect(),
        "quickstart" => common::SMALL_LISTWORLD
            .iter()
            .chain(&["step.m1.learning_rate=1e-4", "model.script.dtype=f32"])
            .map(ToString::to_string)
            .chain([script()])
            .collect(),
        "sft-on-positives" => common::SMALL_LISTWORLD
            .iter()
            .chain(&["step.m1.learning_rate=1e-4", "step.positives.score_min=2.0"])
            .map(ToString::to_string)
            .chain([script()])
            .collect(),
        "meta-judge" => [
            "pipeline.iterations=1",
            "step.pairs.length_control=0.0",
            "step.pairs.max_chosen_length=2500",
            "step.judge_pairs.max_chosen_length=1100",
            "model.m0.init=pipelines/listworld/model",
            "step.ift.limit=12",
            "step.eft.limit=4",
            "step.m1.max_length=250",
            "step.m1.epochs=1",
            "step.prompts.per_iteration=8",
            "step.prompts.model=script",
            "step.prompts.reject.rouge_l=1.0",
            "step.responses.samples=2",
            "step.responses.sampling.max_tokens=6",
            "step.scores.model=script",
            "step.judgements.model=script",
            "step.both.max_share=1.0",
            "step.dpo.epochs=1",
        ]
        .iter()
        .map(ToString::to_string)
        .chain([script()])
        .collect(),
        // A random model of the small world's shape stands for 70 billion parameters, and the shipped data for the paper's.
        "paper-llama2-70b" => [
            "pipeline.microbatch=8",
            "model.m0.init=pipelines/listworld/model",
            "model.m0.dtype=f32",
            "step.ift.limit=12",
            "step.ift.min_rows=12",
            "step.eft.limit=4",
            "step.eft.min_rows=4",
            "step.m1.max_length=250",
            "step.baseline.max_length=250",
            "step.prompts.per_iteration=12",
            "step.prompts.model=script",
            "step.prompts.reject.rouge_l=1.0",
            "step.responses.sampling.max_tokens=6",
            "step.scores.model=script",
            "step.dpo.limit=[2, 3]",
            "step.validation_prompts.limit=12",
            "step.validation_prompts.min_rows=12",
            "step.validation_responses.sampling.max_tokens=6",
            "step.validation_scores.model=script",
            "step.test_prompts.limit=3",
            "step.test_prompts.min_rows=3",
            "step.answers.sampling.max_tokens=6",
            "step.baseline_answers.sampling.max_tokens=6",
            "step.against_baseline.model=script",
            "step.ranked.limit=8",
            "step.ranked.min_rows=8",
            "step.ranked_scores.model=script",
            "step.measures.resamples=50",
        ]
        .iter()
        .map(ToString::to_string)
        .chain([script()])
        .collect(),
        "build-eft" => {
            vec!["step.ift.rows=32".into(), "step.ranked.rows=90".into(), "step.baseline.batch_tokens=256".into()]
        }
        "dpo-on-preferences" => vec!["model.m0.init=pipelines/listworld/model".into()],
        "smollm2-measured" => [
            "model.m0.init=pipelines/listworld/model",
            "step.instructions.limit=24",
            "step.m1.max_length=250",
            "step.prompts.per_iteration=8",
            "step.prompts.model=script",
            "step.prompts.reject.rouge_l=1.0",
            "step.responses.sampling.max_tokens=6",
            "step.scores.model=script",
            "step.scores.mode=sampled",
            "step.answers.sampling.max_tokens=6",
            "step.answers_m1.sampling.max_tokens=6",
            "step.by_reading.sampling.max_tokens=24",
            "step.judged_reasons.sampling.max_tokens=24",
            "step.judged_reasons_m0.sampling.max_tokens=24",
            "step.judging.resamples=50",
            "step.judging_m0.resamples=50",
            "step.answering.resamples=50",
        ]
        .iter()
        .map(ToString::to_string)
        .chain([script()])
        .collect(),
        "listworld-pretrain" => vec!["step.corpus.rows=400".into()],
        // A random model of the small world's shape stands for SmolLM2: it knows no word of the data, but runs.
        "smollm2" => [
            "model.m0.init=pipelines/listworld/model",
            "step.ift.limit=12",
            "step.eft.limit=4",
            "step.prompts.per_iteration=8",
            "step.prompts.model=script",
            "step.scores.model=script",
            "step.responses.sampling.max_tokens=6",
            "step.prompts.reject.rouge_l=1.0",
            "step.m1.max_length=250",
        ]
        .iter()
        .map(ToString::to_string)
        .chain([script()])
        .collect(),
        // The random model as it is stands for a trained one.
        "trl" => small("smollm2", temp)?
            .into_iter()
            .chain(["step.dpo.command=[\"sh\", \"-c\", \"cp {model}/*.* {output} && ls {pairs} {reference}\"]".into()])
            .collect(),
        // `reflux serve` stands for vLLM.
        "vllm-trl" => {
            let serve = [env!("CARGO_BIN_EXE_reflux"), "serve", "{model}", "--port", "{port}", "--name", "{name}"];
            [
                "model.m0.init=pipelines/listworld/model".into(),
                "model.m0.dtype=f32".into(),
                format!("server.vllm.command={serve:?}"),
                "step.ift.limit=12".into(),
                "step.m1.command=[\"sh\", \"-c\", \"cp {model}/*.* {output} && ls {pairs}\"]".into(),
                "step.prompts.per_iteration=8".into(),
                "step.prompts.model=script".into(),
                "step.prompts.reject.rouge_l=1.0".into(),
                "step.responses.sampling.max_tokens=6".into(),
                "step.dpo.command=[\"sh\", \"-c\", \"cp {model}/*.* {output} && ls {pairs} {reference}\"]".into(),
                "step.scores.model=script".into(),
                "step.scores.mode=sampled".into(),
                script(),
            ]
            .into()
        }
        _ => return None,
    };
    Some(keys)
}

fn pipeline_files() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines");
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "toml"));
    files.sort();
    files
}

#[test]
fn every_pipeline_runs() {
    let files = pipeline_files();
    assert!(files.len() >= 3);
    for file in files {
        let name = file.file_stem().unwrap().to_str().unwrap();
        let temp = tempfile::tempdir().unwrap();
        let set = small(name, temp.path()).unwrap_or_else(|| panic!("{name}.toml has no small size in this test"));
        run(file.to_str().unwrap(), temp.path(), &set);
        let mut dir = temp.path().join(name);
        if name.ends_with("-study") {
            dir = dir.join("recipe/seed=3");
        }
        let opened = Run::open(&dir).unwrap();
        assert!(opened.finished() && dir.join("summary.json").exists());
        // Every committed file is whole, and the Parquet crate's own reader reads each step's as one table.
        for step in opened.steps() {
            let mut table: Vec<RecordBatch> = Vec::new();
            let mut rows = 0;
            for entry in opened.files(&step) {
                opened.verify(&entry).unwrap();
                rows += entry.rows as usize;
                let file = std::fs::File::open(dir.join(&entry.path)).unwrap();
                let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
                let empty = RecordBatch::new_empty(reader.schema().clone());
                table.push(empty);
                table.extend(reader.build().unwrap().map(Result::unwrap));
            }
            let table = concat_batches(&table[0].schema(), &table).unwrap_or_else(|e| panic!("{name}/{step}: {e}"));
            assert_eq!(table.num_rows(), rows);
        }
    }
}

#[test]
fn a_study_runs_every_variant_with_every_seed_once() {
    let temp = tempfile::tempdir().unwrap();
    let set = small("listworld-study", temp.path()).unwrap();
    let out = run("pipelines/listworld-study.toml", temp.path(), &set);
    let dir = temp.path().join("listworld-study");
    let rows = reflux::store::read_parquet(&dir.join("study.parquet")).unwrap();
    let columns = reflux::data::Columns(&rows);
    let (variants, measures) = (columns.text("variant").unwrap(), columns.text("measure").unwrap());
    let (seeds, iterations) = (columns.uint("seed").unwrap(), columns.uint("iteration").unwrap());
    let mut seen: Vec<_> = (0..rows.num_rows())
        .filter(|&i| measures.value(i) == "truth mean")
        .map(|i| (variants.value(i), seeds.value(i), iterations.value(i)))
        .collect();
    seen.sort_unstable();
    let all = ["bare", "recipe"].into_iter().flat_map(|v| (3..=4).flat_map(move |s| (1..=3).map(move |i| (v, s, i))));
    assert_eq!(seen, all.collect::<Vec<_>>());
    assert!(["truth mean", "truth_greedy mean", "M1 to M3", "±"].iter().all(|w| out.contains(w)), "{out}");
    // The variants are what they say, and the seed is the run's own.
    let config = |run: &str| std::fs::read_to_string(dir.join(run).join("pipeline.toml")).unwrap();
    assert!(config("bare/seed=4").contains("nll_weight = 0") && config("recipe/seed=4").contains("nll_weight = 1.0"));
    assert!(config("recipe/seed=4").contains("seed = 4") && !config("recipe/seed=4").contains("[study]"));
    // Nothing is run again; what was lost is.
    let committed = |run: &str| std::fs::metadata(dir.join(run).join("manifest.jsonl")).unwrap().modified().unwrap();
    let before = [committed("bare/seed=3"), committed("recipe/seed=4")];
    std::fs::remove_dir_all(dir.join("bare/seed=4")).unwrap();
    assert_eq!(run("pipelines/listworld-study.toml", temp.path(), &set), out);
    assert_eq!([committed("bare/seed=3"), committed("recipe/seed=4")], before);
}

#[test]
fn a_variant_that_is_wrong_is_found_before_anything_runs() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("s.toml");
    let text =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/listworld-study.toml")).unwrap();
    std::fs::write(&file, text.replacen("step.dpo.nll_weight", "step.dpo.nnl_weight", 1)).unwrap();
    for command in ["check", "run"] {
        let output = run_program(&[command, file.to_str().unwrap()]);
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{err}");
        assert!(err.contains("nnl_weight") && err.contains("did you mean `nll_weight`"), "{err}");
    }
}

#[test]
fn the_quickstart_ends_with_a_table_and_says_when_it_is_finished() {
    let temp = tempfile::tempdir().unwrap();
    let set = small("quickstart", temp.path()).unwrap();
    let out = run("pipelines/quickstart.toml", temp.path(), &set);
    for head in [
        "iteration",
        "policy",
        "prompts",
        "responses",
        "scores mean",
        "pairs",
        "mean margin",
        "dpo loss",
        "dpo accuracy",
        "truth mean",
    ] {
        assert!(out.contains(head), "no `{head}` in\n{out}");
    }
    assert!(["M1", "M2", "M3"].iter().all(|m| out.contains(m)), "{out}");
    let again = run("pipelines/quickstart.toml", temp.path(), &set);
    assert!(again.contains("is finished"), "{again}");
    // A changed file is refused, with the difference.
    let mut changed = set.clone();
    changed.push("step.dpo.beta=0.2".into());
    let mut args = vec!["run", "pipelines/quickstart.toml", "--runs", temp.path().to_str().unwrap()];
    args.extend(changed.iter().flat_map(|s| ["--set", s]));
    let output = run_program(&args);
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{err}");
    assert!(err.contains(" beta = 0.1\n  +") && err.contains(" beta = 0.2") && err.contains("--fresh"), "{err}");
}

const PAPER: &str = "pipelines/paper-llama2-70b.toml";

/// What the paper's run is told as, without its data and models.
fn tell(command: &[&str]) -> String {
    let output = run_program(command);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && err.is_empty(), "{command:?}: {out}\n{err}");
    out.into_owned()
}

#[test]
fn the_papers_run_is_checked_explained_and_costed() {
    assert!(tell(&["check", PAPER]).contains("no errors"));
    let plan = tell(&["explain", PAPER]);
    for words in [
        "2 iterations of the loop",
        "ahead of the loop",
        "policy: m1 in iteration 1, then the model that dpo made one iteration before",
        "4 answers a prompt, temperature 0.7, top_p 0.9",
        "mean of 3 judgements",
        "6 seed and 2 generated examples, temperature 0.6, top_p 0.9",
        "beta 0.1, batches of 16 pairs, learning rate 1e-6, at most [3964, 6942] pairs, validated every 200 steps",
        "reference policy-start",
    ] {
        assert!(plan.contains(words), "no `{words}` in\n{plan}");
    }
    let cost: serde_json::Value = serde_json::from_str(&tell(&["cost", PAPER, "--json"])).unwrap();
    let of = |step: &str, iteration: u64, key: &str| {
        let steps = cost["steps"].as_array().unwrap();
        steps.iter().find(|s| s["step"] == step && s["iteration"] == iteration).unwrap()[key].as_f64().unwrap()
    };
    // 3,200 + 1,630 rows and 3,964 and 6,942 pairs in batches of 16.
    assert_eq!((of("m1", 0, "optimizer_steps"), of("dpo", 1, "optimizer_steps")), (302., 248.));
    assert_eq!(of("dpo", 2, "optimizer_steps"), 434.);
    // 8,700 prompts have 4 answers each; the weights of the policy in 16 bits.
    assert_eq!((of("responses", 1, "rows"), of("responses", 2, "weight_bytes")), (34_800., 2. * 68_976_648_192.));
    // A training of all weights has 18 bytes for each, and its activations.
    let trained = of("dpo", 1, "weight_bytes") + of("dpo", 1, "optimizer_bytes");
    assert_eq!(trained, 18. * 68_976_648_192.);
    // To within a few percent, 6 FLOPs for each weight and token, 8 with activations computed again.
    let per_token = of("m1", 0, "flops") / of("m1", 0, "trained_tokens");
    assert!((per_token / (8. * 68_976_648_192.) - 1.).abs() < 0.02, "{per_token:e}");
}

/// The overrides that the file's head gives: for the paper's variant without pairs, and for the engines of others.
fn variants() -> [Vec<String>; 2] {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(PAPER)).unwrap();
    let set = text.lines().filter_map(|l| l.strip_prefix("#   --set '")?.strip_suffix('\''));
    let set: Vec<String> = set.map(str::to_owned).collect();
    assert_eq!(set.len(), 6);
    [set[..2].to_vec(), set[2..].to_vec()]
}

#[test]
fn the_papers_run_with_the_engines_of_others_is_a_matter_of_overrides() {
    let [_, set] = variants();
    let mut args = vec!["explain", PAPER];
    args.extend(set.iter().flat_map(|s| ["--set", s]));
    let output = run_program(&args);
    let plan = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(plan.contains("trained by an external command"), "{plan}");
    args[0] = "cost";
    let output = run_program(&args);
    let cost = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && cost.contains("`dpo` is trained by an external command"), "{cost}");
}

#[test]
fn the_papers_variant_without_pairs_is_a_matter_of_two_overrides() {
    let [set, _] = variants();
    let args = ["explain", PAPER, "--set", &set[0], "--set", &set[1]];
    let output = run_program(&args);
    let plan = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(plan.contains("from positives (`ift`, whole") && plan.contains("answers from 5 points"), "{plan}");
    assert!(plan.contains("then the model that dpo made one iteration before"), "{plan}");
    let temp = tempfile::tempdir().unwrap();
    let mut small = small("paper-llama2-70b", temp.path()).unwrap();
    small.retain(|s| !s.starts_with("step.dpo."));
    small.extend([set[0].replace("5.0", "2.0"), set[1].replace("dropout", "max_length = 250, dropout")]);
    run(PAPER, temp.path(), &small);
    assert!(temp.path().join("paper-llama2-70b/models/M3/model.safetensors").exists());
}

#[test]
fn the_papers_run_takes_its_pairs_and_no_other_data() {
    let temp = tempfile::tempdir().unwrap();
    let set = small("paper-llama2-70b", temp.path()).unwrap();
    run(PAPER, temp.path(), &set);
    for (model, iteration, pairs) in [("M2", 1, 2), ("M3", 2, 3)] {
        let path = temp.path().join("paper-llama2-70b/models").join(model).join("reflux.json");
        let origin: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert_eq!(origin["data"], serde_json::json!([{ "iteration": iteration, "pairs": pairs }]), "{model}");
        assert_eq!(origin["measure"], "eval_rewards/accuracies");
    }
    // The shipped data are fewer rows than the paper's.
    let runs = temp.path().join("refused");
    let mut args = vec!["run", PAPER, "--runs", runs.to_str().unwrap()];
    let set: Vec<&String> = set.iter().filter(|s| !s.starts_with("step.ift.")).collect();
    args.extend(set.iter().flat_map(|s| ["--set", s]));
    let output = run_program(&args);
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{err}");
    assert!(
        err.contains("datasets/ift has 246 rows, but `min_rows` asks for 3200") && err.contains("`dataset`"),
        "{err}"
    );
}
