//! `reflux cost` against sums done by hand, and what it says where it does not know enough.

use std::path::Path;

use crate::common::program::reflux;
use serde_json::Value;

/// D = 8, F = 16, L = 2, A = 8, K = 4, V = 10: 576 weights in a layer's matrices, 80 in the output matrix, and
/// 2 x 576 + 2 x 80 + 5 x 8 = 1352 in all.
const SHAPE: &str = r#"{ "vocab_size": 10, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1 }"#;
const PIPELINE: &str = r#"
[pipeline]
name = "c"
iterations = 2
[model.m0]
path = "no/such/model"
config = "SHAPE"
[step.ift]
op = "read"
dataset = "no/such/data"
limit = 32
[step.m1]
op = "sft"
from = "ift"
model = "m0"
[loop]
policy = "m1"
next = "dpo"
[step.prompts]
op = "synthesize"
from = "ift"
model = "m0"
per_iteration = 10
shots = { seed = 2, generated = 0 }
sampling = { max_tokens = 20 }
[step.responses]
op = "generate"
from = "prompts"
model = "policy"
samples = 4
sampling = { max_tokens = 100 }
[step.scores]
op = "judge"
from = "responses"
model = "policy"
sampling = { max_tokens = 100 }
[step.pairs]
op = "select"
from = "scores"
[step.dpo]
op = "dpo"
from = "pairs"
model = "policy"
"#;
/// A million FLOPs a second at most; training and reading reach half of it, sampling a quarter.
const FLAGS: [&str; 21] = [
    "--json",
    "--devices",
    "2",
    "--peak-tflops",
    "0.0000005",
    "--memory-gb",
    "1",
    "--mfu",
    "0.5",
    "--sampling-mfu",
    "0.25",
    "--prompt-tokens",
    "10",
    "--answer-tokens",
    "20",
    "--rubric-tokens",
    "30",
    "--fill",
    "0.5",
    "--pair-yield",
    "0.5",
];

fn write(dir: &Path) -> String {
    let (shape, file) = (dir.join("config.json"), dir.join("p.toml"));
    std::fs::write(&shape, SHAPE).unwrap();
    std::fs::write(&file, PIPELINE.replace("SHAPE", shape.to_str().unwrap())).unwrap();
    file.to_str().unwrap().to_owned()
}

fn cost(file: &str, more: &[&str]) -> Value {
    let (code, out, err) = reflux(&[&["cost", file], &FLAGS[..], more].concat());
    assert_eq!(code, Some(0), "{err}");
    serde_json::from_str(&out).unwrap()
}

fn step<'a>(cost: &'a Value, name: &str, iteration: u64) -> &'a Value {
    let all = cost["steps"].as_array().unwrap();
    all.iter().find(|s| s["step"] == name && s["iteration"] == iteration).unwrap()
}

#[track_caller]
fn assert_figures(step: &Value, expected: &[(&str, f64)]) {
    for (key, value) in expected {
        let found = step[*key].as_f64().unwrap();
        assert!((found - value).abs() <= 1e-9 * value.abs(), "{key} of {}: {found}, by hand {value}", step["step"]);
    }
}

#[test]
fn every_step_needs_what_a_sum_by_hand_says() {
    let temp = tempfile::tempdir().unwrap();
    let cost = cost(&write(temp.path()), &[]);
    // A token takes 2 x 1152 FLOPs, 2 x 80 more where there are logits, and 4 L A = 64 for each token attended to.
    // 32 rows of 30 tokens, which attend to 15 on average; 3 forwards; 2 batches of 16.
    let m1 = 3. * 960. * (2464. + 64. * 15.);
    assert_figures(step(&cost, "m1", 0), &[("trained_tokens", 960.), ("flops", m1), ("optimizer_steps", 2.)]);
    // 10 prompts after 2 examples of 10 tokens; half of 20 tokens are written.
    let written = 200. * (2304. + 64. * 10.) + 100. * (2464. + 64. * 25.);
    let prompts = [("rows", 10.), ("read_tokens", 200.), ("sampled_tokens", 100.), ("flops", written)];
    assert_figures(step(&cost, "prompts", 1), &prompts);
    // A prompt of 10 tokens once, then 4 answers of 50.
    let (read, sampled) = (100. * (2304. + 64. * 5.), 2000. * (2464. + 64. * 35.));
    let responses = [
        ("rows", 40.),
        ("flops", read + sampled),
        ("hours", (read / 0.5e6 + sampled / 0.25e6) / 3600.),
        ("weight_bytes", 4. * 1352.),
        ("optimizer_bytes", 0.),
        // 40 sequences of 110 tokens at most; 2 L K = 16 numbers of 4 bytes each.
        ("activation_or_kv_bytes", 40. * 110. * 16. * 4.),
    ];
    assert_figures(step(&cost, "responses", 2), &responses);
    // The rubric once, 40 answers with their prompts after it, and 3 judgements of 50 tokens of each.
    let read = 30. * (2304. + 64. * 15.) + 2400. * (2304. + 64. * 60.);
    let scores = [("read_tokens", 2430.), ("sampled_tokens", 6000.), ("flops", read + 6000. * (2464. + 64. * 115.))];
    assert_figures(step(&cost, "scores", 1), &scores);
    // Half of the prompts give a pair: its prompt once, two answers of 50 tokens. The policy recorded its log-probabilities.
    let pairs = 5. * (10. * (2464. + 64. * 5.) + 100. * (2464. + 64. * 35.));
    let dpo = [
        ("trained_tokens", 550.),
        ("scored_tokens", 0.),
        ("flops", 3. * pairs),
        ("hours", 3. * pairs / 0.5e6 / 3600.),
        ("weight_bytes", 4. * 1352.),
        ("optimizer_bytes", 12. * 1352.),
        // 16 pairs of 110 tokens; 2 (4 x 8 + 2 x 8 + 2 x 4 + 3 x 16) = 208 numbers a token.
        ("activation_or_kv_bytes", 4. * 1760. * 208.),
    ];
    assert_figures(step(&cost, "dpo", 2), &dpo);
    let all = cost["steps"].as_array().unwrap();
    assert_eq!(all.len(), 9, "one training at the start, four steps in two iterations");
    for key in ["flops", "hours"] {
        assert_figures(&cost, &[(key, all.iter().map(|s| s[key].as_f64().unwrap()).sum())]);
    }
    assert_figures(&cost, &[("most_bytes", 16. * 1352. + 4. * 1760. * 208.)]);
    assert_figures(&cost, &[("most_bytes_per_device", 8. * 1352. + 2. * 1760. * 208.)]);
}

#[test]
fn settings_change_what_is_needed() {
    let temp = tempfile::tempdir().unwrap();
    let file = write(temp.path());
    let plain = cost(&file, &[]);
    let flops = |cost: &Value, name, iteration| step(cost, name, iteration)["flops"].as_f64().unwrap();
    let trained = flops(&plain, "dpo", 1);
    let of = |set: &[&str]| cost(&file, &set.iter().flat_map(|s| ["--set", s]).collect::<Vec<_>>());

    let again = of(&["step.dpo.checkpoint_activations=true"]);
    assert_eq!(flops(&again, "dpo", 1), trained / 3. * 4.);
    // Of a layer only its input: 2 x 8 numbers.
    assert_figures(step(&again, "dpo", 1), &[("activation_or_kv_bytes", 4. * 1760. * 16.)]);
    // Rank 2 on q_proj alone: 2 layers x 2 (8 + 8) numbers, with gradient, moments and master.
    let adapter = of(&["step.dpo.lora={ rank = 2, targets = [\"q_proj\"] }"]);
    assert_eq!(flops(&adapter, "dpo", 1), trained / 3. * 2.);
    assert_figures(step(&adapter, "dpo", 1), &[("weight_bytes", 4. * 1352.), ("optimizer_bytes", 16. * 64.)]);
    // 16-bit weights have masters.
    let halves = of(&["model.m0.dtype=bf16"]);
    assert_figures(step(&halves, "dpo", 1), &[("weight_bytes", 2. * 1352.), ("optimizer_bytes", 16. * 1352.)]);
    // Another reference did not write the answers: one forward more.
    let held = of(&["step.dpo.reference=m1"]);
    assert_figures(step(&held, "dpo", 2), &[("scored_tokens", 550.), ("flops", trained / 3. * 4.)]);
    // Scores by probability: nothing is sampled, so that `sampling` would have no effect.
    let text = std::fs::read_to_string(&file).unwrap();
    let silent = text.replace("sampling = { max_tokens = 100 }\n[step.pairs]", "mode = \"expected\"\n[step.pairs]");
    assert_ne!(text, silent);
    let expected = temp.path().join("expected.toml");
    std::fs::write(&expected, silent).unwrap();
    assert_figures(
        step(&cost(expected.to_str().unwrap(), &[]), "scores", 1),
        &[("sampled_tokens", 0.), ("read_tokens", 2430.)],
    );
    // All pairs of 4 answers, 2 orders each, read whole: prompt and both answers.
    let pairwise = of(&["step.scores.mode=pairwise"]);
    let scores = [("read_tokens", 30. + 10. * 6. * 2. * 110.), ("sampled_tokens", 10. * 6. * 2. * 50.)];
    assert_figures(step(&pairwise, "scores", 1), &scores);
    let given = cost(&file, &["--rows", "pairs=16,32"]);
    assert_figures(step(&given, "dpo", 1), &[("trained_tokens", 16. * 110.), ("optimizer_steps", 1.)]);
    assert_figures(step(&given, "dpo", 2), &[("trained_tokens", 32. * 110.), ("optimizer_steps", 2.)]);
}

#[test]
fn what_is_not_known_is_asked_for() {
    let temp = tempfile::tempdir().unwrap();
    let file = write(temp.path());
    let shape = temp.path().join("config.json");
    let says = |args: &[&str], words: &[&str]| {
        let (code, out, err) = reflux(&[&["cost", &file], args].concat());
        assert_eq!(code, Some(2), "{args:?}\n{out}\n{err}");
        assert!(words.iter().all(|w| err.contains(w)), "{args:?}: {err}");
    };
    says(&["--hardware", "8xTPU"], &["8xTPU", "8xH100"]);
    says(&["--rows", "pears=3"], &["`pears`", "not found"]);
    says(&["--rows", "pairs=many"], &["--rows pairs=many"]);
    says(&["--shape", "m9=x"], &["`m9`"]);
    says(&["--shape", "m0"], &["NAME=VALUE"]);
    says(&["--shape", "m0=no/such.json"], &["no/such.json"]);
    says(&["--mfu", "40"], &["--mfu", "above 0"]);
    says(&["--devices", "0"], &["--devices"]);
    says(&["--fill", "NaN"], &["--fill"]);
    says(&["--set", "step.dpo.bita=0.2"], &["E0102"]);
    std::fs::write(&shape, SHAPE.replace("\"num_attention_heads\": 2", "\"num_attention_heads\": 0")).unwrap();
    says(&[], &["config.json", "heads"]);
    std::fs::write(&shape, "{").unwrap();
    says(&[], &["config.json"]);
    std::fs::write(&file, std::fs::read_to_string(&file).unwrap().replace("limit = 32", "")).unwrap();
    std::fs::write(&shape, SHAPE).unwrap();
    says(&[], &["`ift`", "--rows ift=N"]);
    // The same with the number given.
    assert_eq!(reflux(&["cost", &file, "--rows", "ift=32"]).0, Some(0));
    let text = std::fs::read_to_string(&file).unwrap();
    let without: Vec<&str> = text.lines().filter(|l| !l.starts_with("config")).collect();
    std::fs::write(&file, without.join("\n")).unwrap();
    says(&["--rows", "ift=32"], &["`m0`", "--shape m0=PATH"]);
}

/// Tokens on servers are counted and priced; how long they take is not known.
#[test]
fn servers_ask_for_a_price() {
    let temp = tempfile::tempdir().unwrap();
    let file = temp.path().join("served.toml");
    let text = |price: &str| {
        format!(
            "[pipeline]\nname = \"served\"\n[model.away]\nserver = [\"http://127.0.0.1:9/v1\"]\nname = \"m\"\n{price}\n\
             [step.prompts]\nop = \"listworld\"\ndata = \"requests\"\nrows = 32\n[step.answers]\nop = \"generate\"\n\
             from = \"prompts\"\nmodel = \"away\"\nsamples = 2\nsampling = {{ max_tokens = 20 }}\n"
        )
    };
    std::fs::write(&file, text("price = { input = 1000.0, output = 5000.0 }")).unwrap();
    let file = file.to_str().unwrap();
    let (code, out, err) = reflux(&["cost", file, "--json"]);
    assert_eq!(code, Some(0), "{err}");
    let cost: Value = serde_json::from_str(&out).unwrap();
    let step = &cost["steps"][0];
    let (read, sampled) = (step["read_tokens"].as_f64().unwrap(), step["sampled_tokens"].as_f64().unwrap());
    assert!(read > 0. && sampled > 0. && step["served"] == true && step["flops"] == 0.);
    let price = cost["price"].as_f64().unwrap();
    assert!((price - (read * 1e-3 + sampled * 5e-3)).abs() < 1e-9, "{cost}");
    let (_, out, _) = reflux(&["cost", file]);
    assert!(out.contains("`answers` asks servers") && out.contains(&format!("servers ask for {price:.4}")), "{out}");
    std::fs::write(file, text("")).unwrap();
    let (code, out, _) = reflux(&["cost", file]);
    assert!(code == Some(0) && out.contains("`answers` asks servers") && !out.contains("servers ask for"), "{out}");
}

#[test]
fn every_ready_pipeline_has_a_table() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines");
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "toml"));
    assert!(files.len() >= 7);
    for file in files {
        let (code, out, err) = reflux(&["cost", file.to_str().unwrap()]);
        assert_eq!(code, Some(0), "{}: {err}", file.display());
        assert!(err.is_empty(), "{err}");
        let (head, all) = (out.lines().next().unwrap(), out.lines().find(|l| l.starts_with("all")).unwrap());
        assert_eq!(head.len(), all.len(), "the columns are aligned:\n{out}");
    }
}
