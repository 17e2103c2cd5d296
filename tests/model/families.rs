//! Models that are run but not trained: against transformers, behind the engine trait, and refused where they would come
//! out wrong. The goldens and the script that made them are in tests/goldens/families.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::common::{RunOptions, run};
use candle_core::{DType, Device};
use reflux::cancel::CancelFlag;
use reflux::data::RngKey;
use reflux::engine::{Answer, Engine, EngineConfig, Message, Request, Sampling, open};
use reflux::error::{Error, ErrorKind};
use reflux::model::Model;
use reflux::model::families::InferenceModel;
use reflux::model::family::Family;
use serde::Deserialize;
use serde_json::{Value as Json, json};

const FAMILIES: [&str; 3] = ["qwen2", "qwen3", "gemma3"];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/families").join(name)
}

fn load(dir: &Path) -> reflux::error::Result<InferenceModel> {
    InferenceModel::load(dir, &Device::Cpu, DType::F32)
}

fn engine(name: &str, config: EngineConfig) -> Arc<dyn Engine> {
    open(&folder(name), &Device::Cpu, DType::F32, config).unwrap()
}

fn small() -> EngineConfig {
    EngineConfig { kv_memory: 64 << 20, ..EngineConfig::default() }.with_threads(Some(1)).unwrap()
}

#[derive(Deserialize)]
struct Prompt {
    ids: Vec<u32>,
    logits: Vec<f32>,
    greedy: Vec<u32>,
    last_logits: Vec<f32>,
}

#[derive(Deserialize)]
struct Chat {
    messages: Vec<Message>,
    add_generation_prompt: bool,
    ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Golden {
    prompts: Vec<Prompt>,
    chats: Vec<Chat>,
}

fn golden(name: &str) -> Golden {
    serde_json::from_str(&std::fs::read_to_string(folder(name).join("golden.json")).unwrap()).unwrap()
}

fn difference(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    got.iter().zip(want).fold(0., |m, (g, w)| m.max((g - w).abs()))
}

fn likeliest(logits: &[f32]) -> u32 {
    let top = logits.iter().copied().fold(f32::MIN, f32::max);
    logits.iter().position(|&l| l == top).unwrap() as u32
}

#[test]
fn logits_and_greedy_tokens_are_those_of_transformers() {
    for name in FAMILIES {
        let (model, golden) = (load(&folder(name)).unwrap(), golden(name));
        let mut most = 0f32;
        for p in &golden.prompts {
            let mut network = model.network(p.ids.len() + p.greedy.len()).unwrap();
            let mut logits = network.push(&p.ids, |_| Ok(())).unwrap();
            most = most.max(difference(&logits, &p.logits));
            for (i, &want) in p.greedy.iter().enumerate() {
                assert_eq!(likeliest(&logits), want, "{name}: token {i} after {} of prompt", p.ids.len());
                if i + 1 < p.greedy.len() {
                    logits = network.push(&[want], |_| Ok(())).unwrap();
                }
            }
            most = most.max(difference(&logits, &p.last_logits));
            // The whole in as few passes as there can be.
            let whole = [&p.ids[..], &p.greedy[..p.greedy.len() - 1]].concat();
            network.clear();
            most = most.max(difference(&network.push(&whole, |_| Ok(())).unwrap(), &p.last_logits));
        }
        println!("{name}: greatest difference {most:e}");
        assert!(most < 1e-4, "{name}: {most}");
        for c in &golden.chats {
            let ids = model.tokenizer.encode_chat(&c.messages, c.add_generation_prompt).unwrap();
            assert_eq!(ids, c.ids, "{name}");
        }
    }
}

#[test]
fn passes_may_be_cut_anywhere() {
    // Longer than the largest pass.
    for name in FAMILIES {
        let model = load(&folder(name)).unwrap();
        let ids: Vec<u32> = (0..400u32).map(|i| i * 7919 % 300).collect();
        let mut whole = model.network(400).unwrap();
        let want = whole.push(&ids, |_| Ok(())).unwrap();
        let mut parts = model.network(400).unwrap();
        let mut got = Vec::new();
        for part in ids.chunks(37) {
            got = parts.push(part, |_| Ok(())).unwrap();
        }
        let d = difference(&got, &want);
        assert!(d < 1e-4, "{name}: {d}");
        assert_eq!(parts.push(&[1], |_| Ok(())).unwrap_err().kind(), ErrorKind::Bug, "there is no more room");
    }
}

#[test]
fn branches_leave_what_they_branch_from_alone() {
    for name in FAMILIES {
        let model = load(&folder(name)).unwrap();
        let fresh = |ids: &[u32]| model.network(ids.len()).unwrap().push(ids, |_| Ok(())).unwrap();
        // Up to the end of Gemma's window of 8, several times.
        let prompt = [5, 6, 7];
        let mut network = model.network(40).unwrap();
        network.push(&prompt, |_| Ok(())).unwrap();
        for (first, n) in [(20u32, 5usize), (40, 3), (60, 5)] {
            let tail: Vec<u32> = (first..).take(n).collect();
            let mut branch = network.fork(n).unwrap();
            let mut logits = Vec::new();
            for &id in &tail {
                logits = branch.push(&[id], |_| Ok(())).unwrap();
            }
            assert!(branch.push(&[1], |_| Ok(())).is_err(), "{name}: a branch has room for what was asked");
            let d = difference(&logits, &fresh(&[&prompt[..], &tail].concat()));
            assert!(d < 1e-4, "{name}: {d}");
        }
        assert_eq!(network.fork(6).is_none(), name == "gemma3", "beyond the window the ring would come round");
        let d = difference(&network.push(&[9], |_| Ok(())).unwrap(), &fresh(&[5, 6, 7, 9]));
        assert!(d < 1e-4, "{name}: {d}");
    }
}

fn request(text: &str, key: u32, sampling: Sampling) -> Request {
    Request { messages: vec![Message::new("user", text)], sampling, key: RngKey::new(1, "t", 0, "", key) }
}

fn ask(engine: &dyn Engine, requests: Vec<Request>) -> Vec<Answer> {
    engine.generate(requests, &CancelFlag::new()).unwrap()
}

#[test]
fn an_answer_depends_on_its_request_only() {
    for name in FAMILIES {
        // Prompts within and beyond Gemma's window of 8, and of answers that pass it.
        let texts = ["a", "the cat sat", &"the cat sat on the mat ".repeat(3)];
        let sampling = |i: u32| Sampling {
            temperature: [0., 0.8, 1.3][i as usize % 3],
            top_p: 0.95,
            max_tokens: [1, 4, 9, 30][i as usize % 4],
            min_tokens: i as usize % 2,
            repetition_penalty: if i.is_multiple_of(5) { 1.2 } else { 1. },
            ..Sampling::default()
        };
        let requests: Vec<Request> =
            (0..12u32).map(|i| request(texts[i as usize % texts.len()], i, sampling(i / 3))).collect();
        let alone: Vec<Answer> =
            requests.iter().map(|r| ask(&*engine(name, small()), vec![r.clone()]).remove(0)).collect();
        assert!(alone.iter().all(Result::is_ok));
        let different: std::collections::BTreeSet<_> =
            alone.iter().map(|a| a.as_ref().unwrap().tokens.clone()).collect();
        assert!(different.len() > 6, "{name}: {different:?}");
        for threads in [1, 2] {
            let together = engine(name, small().with_threads(Some(threads)).unwrap());
            assert_eq!(ask(&*together, requests.clone()), alone, "{name}");
            let mut backwards = ask(&*together, requests.iter().rev().cloned().collect());
            backwards.reverse();
            assert_eq!(backwards, alone, "{name}");
            let callers: Vec<Vec<Answer>> = std::thread::scope(|scope| {
                let ask_all = || ask(&*together, requests.clone());
                let calls: Vec<_> = (0..2).map(|_| scope.spawn(ask_all)).collect();
                calls.into_iter().map(|c| c.join().unwrap()).collect()
            });
            assert!(callers.iter().all(|c| *c == alone), "{name}");
            let stats = together.stats();
            assert_eq!(stats.requests, 4 * 12);
            let tokens: usize = alone.iter().map(|a| a.as_ref().unwrap().tokens.len()).sum();
            assert_eq!(stats.generated_tokens, 4 * tokens as u64);
            assert!(name == "gemma3" || stats.hit_rate() > 0.7, "{name}: {}", stats.hit_rate());
        }
    }
}

#[test]
fn log_probabilities_are_those_of_one_pass() {
    for name in FAMILIES {
        let model = load(&folder(name)).unwrap();
        let s = Sampling { temperature: 0.7, top_k: 30, max_tokens: 20, min_tokens: 20, ..Sampling::default() };
        let c = ask(&*engine(name, small()), vec![request("the cat", 3, s)]).remove(0).unwrap();
        assert_eq!((c.tokens.len(), c.logprobs.len()), (20, 20));
        for (i, (&t, &got)) in c.tokens.iter().zip(&c.logprobs).enumerate() {
            let ids = [&c.prompt_tokens[..], &c.tokens[..i]].concat();
            let logits = model.network(ids.len()).unwrap().push(&ids, |_| Ok(())).unwrap();
            let total: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
            let want = f64::from(logits[t as usize]) - total.ln();
            assert!((f64::from(got) - want).abs() < 1e-4, "{name}: {got}, not {want}");
        }
    }
}

#[test]
fn requests_that_cannot_be_answered_have_codes() {
    for name in FAMILIES {
        let s = Sampling { max_tokens: 5, min_tokens: 5, ..Sampling::default() };
        let requests = || {
            vec![
                request("fine", 0, s.clone()),
                request("  ", 1, s.clone()),
                request(&"1 ".repeat(300), 2, s.clone()),
                request("fine", 3, Sampling { top_p: 1.5, ..s.clone() }),
                request("fine", 4, Sampling { max_tokens: 0, ..s.clone() }),
            ]
        };
        let codes = |config: EngineConfig| -> Vec<&str> {
            let answers = ask(&*engine(name, config), requests());
            answers.iter().map(|a| a.as_ref().map_or_else(|e| e.code, |c| c.finish.as_str())).collect()
        };
        assert_eq!(codes(small()), ["length", "empty_prompt", "prompt_too_long", "bad_sampling", "length"], "{name}");
        let tight = EngineConfig { kv_memory: 2000, ..small() };
        assert_eq!(codes(tight), codes(small()), "{name}: the budget decides no row");
        // The context's end cuts the answer.
        let e = engine(name, small());
        let long = Sampling { max_tokens: 1000, min_tokens: 1000, ..s.clone() };
        let c = ask(&*e, vec![request(&"the cat sat ".repeat(30), 0, long)]).remove(0).unwrap();
        assert_eq!(c.prompt_tokens.len() + c.tokens.len(), 256, "{name}");
    }
}

#[test]
fn answers_end_at_a_stop_string_or_when_cancelled() {
    let e = engine("qwen3", small());
    let s = Sampling { max_tokens: 60, temperature: 1.5, ..Sampling::default() };
    let answers = ask(&*e, (0..8).map(|i| request("hello", i, s.clone())).collect());
    let (key, full) =
        answers.iter().map(|a| a.as_ref().unwrap()).enumerate().find(|(_, c)| c.tokens.len() > 40).unwrap();
    let at = full.text.char_indices().filter(|(i, c)| *i > 9 && c.is_ascii_alphanumeric()).nth(2).unwrap().0;
    let stop = full.text[at..=at].to_string();
    let with_stop = Sampling { stop: vec!["not in it at all".into(), stop.clone()], ..s.clone() };
    let cut = ask(&*e, vec![request("hello", key as u32, with_stop)]).remove(0).unwrap();
    assert_eq!(cut.text, full.text[..full.text.find(&stop).unwrap()]);
    assert_eq!(cut.finish.as_str(), "stop");
    let cancel = CancelFlag::new();
    cancel.set();
    let error = e.generate(vec![request("hello", 0, s)], &cancel).unwrap_err();
    assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Cancelled, "stopped"));
}

#[test]
fn they_cannot_be_trained_and_say_so() {
    for (name, family) in [("qwen2", "qwen2"), ("qwen3", "qwen3"), ("gemma3", "gemma3_text")] {
        for trainable in [false, true] {
            let e = Model::load(&folder(name), &Device::Cpu, DType::F32, trainable).err().unwrap();
            assert_eq!(e.kind(), ErrorKind::User);
            let text = e.to_string();
            assert!(
                text.contains("config.json")
                    && text.contains(&format!("family {family}, which reflux runs but does not train")),
                "{text}"
            );
            assert!(e.help_text().unwrap().contains("Llama"), "{e:?}");
        }
        assert_eq!(Family::of(&folder(name)).unwrap().unwrap().name(), family);
        let e = InferenceModel::load(&folder(name), &Device::Cpu, DType::BF16).err().unwrap();
        assert!(e.to_string().contains("bf16") && e.help_text().unwrap().contains("f32"), "{e}");
    }
    let llama = folder("../model/smollm2");
    assert_eq!(Family::of(&llama).unwrap(), None);
    assert_eq!(load(&llama).err().unwrap().kind(), ErrorKind::User);
    open(&llama, &Device::Cpu, DType::F32, small()).unwrap();
    assert_eq!(open(&folder("none"), &Device::Cpu, DType::F32, small()).err().unwrap().kind(), ErrorKind::User);
}

/// A copy of a model with some keys of its config.json changed; null takes a key away.
fn changed(name: &str, changes: &Json, dir: &Path) {
    for file in std::fs::read_dir(folder(name)).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), dir.join(file.file_name())).unwrap();
    }
    let path = dir.join("config.json");
    let mut config: Json = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        if value.is_null() {
            config.as_object_mut().unwrap().remove(key);
        } else {
            config[key] = value.clone();
        }
    }
    std::fs::write(&path, config.to_string()).unwrap();
}

fn refused(name: &str, changes: &Json) -> Error {
    let temp = tempfile::tempdir().unwrap();
    changed(name, changes, temp.path());
    let error = load(temp.path()).err().unwrap_or_else(|| panic!("{name} with {changes} was taken"));
    assert_eq!(error.kind(), ErrorKind::User, "{name} with {changes}: {error}");
    error
}

#[test]
fn configurations_that_would_come_out_wrong_are_refused() {
    let sliding = json!(["full_attention", "sliding_attention"]);
    let yarn = json!({"rope_theta": 1e6, "rope_type": "yarn", "factor": 4.0});
    let local = json!({"rope_theta": 1e4, "rope_type": "default"});
    let linear = json!({"full_attention": {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0}, "sliding_attention": local});
    let cases = [
        (
            "qwen2",
            json!({"use_sliding_window": true, "sliding_window": 16, "layer_types": sliding}),
            "use_sliding_window",
        ),
        (
            "qwen2",
            json!({"use_sliding_window": true, "sliding_window": 16, "max_window_layers": 1, "layer_types": null}),
            "use_sliding_window",
        ),
        (
            "qwen3",
            json!({"use_sliding_window": true, "sliding_window": 16, "layer_types": sliding}),
            "use_sliding_window",
        ),
        ("qwen2", json!({"head_dim": 4}), "head_dim"),
        ("qwen2", json!({"hidden_act": "gelu"}), "hidden_act"),
        ("qwen3", json!({"rope_parameters": yarn}), "yarn"),
        ("qwen3", json!({"rope_scaling": {"type": "yarn", "factor": 4.0}}), "yarn"),
        ("qwen3", json!({"rope_scaling": {"factor": 4.0}}), "rope scaling"),
        ("gemma3", json!({"rope_parameters": linear}), "linear"),
        ("gemma3", json!({"rope_parameters": {"sliding_attention": {}}}), "full_attention"),
        ("gemma3", json!({"query_pre_attn_scalar": 16}), "query_pre_attn_scalar"),
        ("gemma3", json!({"layer_types": ["full_attention", "sliding_attention", "sliding_attention"]}), "layer_types"),
        ("gemma3", json!({"layer_types": ["sliding_attention"]}), "layer_types"),
        ("gemma3", json!({"layer_types": ["sliding_attention", 3, "other"]}), "layer_types"),
        ("gemma3", json!({"layer_types": null, "sliding_window_pattern": 0}), "sliding_window_pattern"),
        ("gemma3", json!({"sliding_window": 0}), "sliding_window"),
        ("gemma3", json!({"sliding_window": -1}), "sliding_window"),
        ("gemma3", json!({"tie_word_embeddings": false}), "tie_word_embeddings"),
        ("gemma3", json!({"use_bidirectional_attention": true}), "use_bidirectional_attention"),
        ("gemma3", json!({"final_logit_softcapping": 0.0}), "final_logit_softcapping"),
        ("gemma3", json!({"hidden_activation": "gelu"}), "hidden_activation"),
        ("qwen3", json!({"num_attention_heads": 0}), "num_attention_heads"),
        ("qwen3", json!({"num_key_value_heads": 0}), "num_key_value_heads"),
        ("qwen3", json!({"num_key_value_heads": 3}), "share"),
        ("qwen2", json!({"num_attention_heads": 6}), "multiple"),
        ("qwen3", json!({"head_dim": 7}), "head_dim"),
        ("qwen3", json!({"head_dim": null}), "head_dim"),
        ("qwen3", json!({"hidden_size": "many"}), "invalid type"),
        ("qwen3", json!({"rms_norm_eps": null}), "rms_norm_eps"),
        ("qwen3", json!({"rms_norm_eps": 0.0}), "rms_norm_eps"),
        ("qwen3", json!({"max_position_embeddings": 1u64 << 40}), "max_position_embeddings"),
        ("qwen3", json!({"num_hidden_layers": 1u64 << 60}), "num_hidden_layers"),
        ("qwen3", json!({"eos_token_id": "x"}), "eos_token_id"),
        ("qwen3", json!({"model_type": "gemma3"}), "none of these families"),
    ];
    for (name, changes, word) in cases {
        let text = refused(name, &changes).to_string();
        assert!(text.contains("config.json") && text.contains(word), "{name} with {changes}: {text}");
    }
    // What the weights belie.
    for (name, changes, word) in [
        ("qwen3", json!({"num_hidden_layers": 4000}), "is missing"),
        ("qwen3", json!({"num_hidden_layers": 1}), "is not part of a qwen3 model"),
        ("qwen3", json!({"intermediate_size": 48}), "has shape"),
        ("qwen3", json!({"attention_bias": true}), "bias` is missing"),
        ("qwen2", json!({"vocab_size": 400}), "has shape"),
        ("qwen2", json!({"vocab_size": 300}), "the tokenizer has 307 tokens"),
        ("qwen3", json!({"model_type": "qwen2", "head_dim": null}), "is not part of a qwen2 model"),
        ("gemma3", json!({"num_key_value_heads": 2}), "has shape"),
    ] {
        let text = refused(name, &changes).to_string();
        assert!(text.contains(word), "{name} with {changes}: {text}");
    }
    let temp = tempfile::tempdir().unwrap();
    changed("gemma3", &json!({}), temp.path());
    let weights = temp.path().join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() - 100]).unwrap();
    let text = load(temp.path()).err().unwrap().to_string();
    assert!(text.contains("model.safetensors"), "{text}");
}

#[test]
fn spellings_of_older_files_mean_the_same() {
    for (name, changes) in [
        (
            "qwen2",
            json!({"rope_parameters": null, "rope_theta": 1e6, "layer_types": null, "use_sliding_window": false, "sliding_window": 4}),
        ),
        // A window that no layer has, or that is as long as the context.
        ("qwen2", json!({"layer_types": null, "use_sliding_window": true, "sliding_window": 4})),
        (
            "qwen2",
            json!({"layer_types": null, "use_sliding_window": true, "max_window_layers": 0, "sliding_window": 256}),
        ),
        ("qwen3", json!({"rope_parameters": null, "rope_theta": 1000000, "rope_scaling": {"type": "default"}})),
        (
            "gemma3",
            json!({"rope_parameters": null, "rope_theta": 1e6, "rope_local_base_freq": 1e4, "layer_types": null, "sliding_window_pattern": 3}),
        ),
    ] {
        let temp = tempfile::tempdir().unwrap();
        changed(name, &changes, temp.path());
        let model = load(temp.path()).unwrap();
        let p = &golden(name).prompts[3];
        let logits = model.network(p.ids.len()).unwrap().push(&p.ids, |_| Ok(())).unwrap();
        assert!(difference(&logits, &p.logits) < 1e-4, "{name} with {changes}");
        assert_eq!(model.hash, load(&folder(name)).unwrap().hash);
    }
}

fn pipeline(dir: &Path, judge: &str, trainer: &str) -> String {
    let prompts = dir.join("prompts.jsonl");
    let rows = ["the cat", "What is the capital of France?"];
    let lines: Vec<String> = rows.iter().map(|p| json!({ "prompt": p, "response": "the mat" }).to_string()).collect();
    std::fs::write(&prompts, lines.join("\n")).unwrap();
    let (policy, judge, trainer) = (folder("../model/smollm2"), folder(judge), folder(trainer));
    format!(
        r#"
[pipeline]
name = "judged"
seed = 1
[model.policy0]
path = {policy:?}
[model.judge]
path = {judge:?}
[model.learner]
path = {trainer:?}
[step.prompts]
op = "read"
dataset = {prompts:?}
schema = "ift"
[step.responses]
op = "generate"
from = "prompts"
model = "policy0"
samples = 2
sampling = {{ max_tokens = 6 }}
[step.scores]
op = "judge"
from = "responses"
model = "judge"
samples = 2
rubric = "pipelines/listworld/judge.jinja"
sampling = {{ max_tokens = 4 }}
[step.taught]
op = "sft"
from = "prompts"
model = "learner"
"#
    )
}

#[test]
fn a_pipeline_judges_with_one_and_refuses_to_train_it() {
    for judge in FAMILIES {
        let temp = tempfile::tempdir().unwrap();
        let (result, watch) =
            run(&pipeline(temp.path(), judge, "../model/smollm2"), &temp.path().join("run"), &RunOptions::default());
        result.unwrap();
        assert_eq!(watch.tally.counts()[&("scores".to_string(), 0)].rows, 4, "{:?}", watch.tally.counts());
    }
    let temp = tempfile::tempdir().unwrap();
    let (result, _) = run(&pipeline(temp.path(), "qwen3", "qwen3"), &temp.path().join("run"), &RunOptions::default());
    let error = result.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("model `learner`") && text.contains("runs but does not train"), "{text}");
    assert_eq!(error.kind(), ErrorKind::User);
}
