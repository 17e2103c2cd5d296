//! The configurations of released Llama-family models, with every key that their config.json has and with the keys that
//! newer transformers write, against transformers at positions near and far. See tests/goldens/model/make_families.py.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use reflux::error::ErrorKind;
use reflux::model::ops::{Packed, Segment, frequencies};
use reflux::model::{Config, Model};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tempfile::TempDir;

#[derive(Deserialize)]
struct Golden {
    ids: Vec<u32>,
    families: BTreeMap<String, Family>,
}

#[derive(Deserialize)]
struct Family {
    /// As the released model has it.
    config: Json,
    /// As transformers 5 writes it.
    newer: Json,
    frequencies: Vec<f32>,
    logits: BTreeMap<String, Logits>,
}

/// Rows of logits at the middle and the last position.
#[derive(Deserialize)]
struct Logits {
    positions: Vec<u32>,
    rows: [Vec<f32>; 2],
}

fn golden() -> Golden {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/model/families.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// The weights that make_families.py draws: FNV-1a of the name, murmur3's finaliser over it and the place.
fn draw(name: &str, shape: &[usize]) -> Tensor {
    let seed = name.bytes().fold(0x811C_9DC5u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    let uniform = |i: u32| {
        let mut x = seed.wrapping_add(i.wrapping_mul(0x9E37_79B9));
        x = (x ^ (x >> 16)).wrapping_mul(0x85EB_CA6B);
        x = (x ^ (x >> 13)).wrapping_mul(0xC2B2_AE35);
        x ^= x >> 16;
        (x >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    let scale = |fan_in: usize| (5. / (fan_in as f64).sqrt()).log2().round().exp2() as f32;
    let value = |i: u32| match shape {
        [_] => uniform(i) + 1.,
        _ => uniform(i) * scale(shape[1]),
    };
    let n: usize = shape.iter().product();
    Tensor::from_vec((0..n as u32).map(value).collect(), shape, &Device::Cpu).unwrap()
}

/// A directory with this config.json, the weights that it asks for and a tokenizer.
fn write(config: &Json, sizes: &Json) -> TempDir {
    let mut sizes = sizes.clone();
    sizes.as_object_mut().unwrap().retain(|key, _| !key.starts_with("rope_"));
    let sizes: Config = serde_json::from_value(sizes).unwrap();
    let weights: HashMap<String, Tensor> =
        sizes.weights().into_iter().map(|(n, s)| (n.clone(), draw(&n, &s))).collect();
    let dir = tempfile::tempdir().unwrap();
    candle_core::safetensors::save(&weights, dir.path().join("model.safetensors")).unwrap();
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let tokenizer = json!({"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"}, "model": {
        "type": "WordLevel", "vocab": {"<unk>": 0, "a": 1, "b": 2, "c": 3}, "unk_token": "<unk>"}});
    fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    dir
}

fn load(dir: &TempDir) -> Result<Model, String> {
    Model::load(dir.path(), &Device::Cpu, DType::F32, false).map_err(|e| {
        assert_eq!(e.kind(), ErrorKind::User, "{e}");
        e.to_string()
    })
}

#[test]
fn released_configurations_agree_with_transformers() {
    let golden = golden();
    assert_eq!(golden.families.len(), 12);
    for (name, family) in &golden.families {
        let mut configs = Vec::new();
        for config in [&family.config, &family.newer] {
            let model = load(&write(config, &family.config)).unwrap_or_else(|e| panic!("{name}: {e}"));
            let got = frequencies(model.llama.config()).unwrap();
            assert_eq!(got.len(), family.frequencies.len(), "{name}");
            let off = got.iter().zip(&family.frequencies).map(|(g, w)| (g / w - 1.).abs()).fold(0f32, f32::max);
            let mut worst = 0f32;
            for (which, want) in &family.logits {
                let mut rows = Packed::new(vec![Segment::plain(0..golden.ids.len())]);
                let hidden = model.llama.forward(&golden.ids, &want.positions, &mut rows).unwrap();
                let got = model.llama.logits(&hidden).unwrap().to_vec2::<f32>().unwrap();
                let got = [&got[golden.ids.len() / 2], &got[golden.ids.len() - 1]];
                for (got, want) in got.into_iter().zip(&want.rows) {
                    assert_eq!(got.len(), want.len());
                    let differ = got.iter().zip(want).fold(0f32, |m, (g, w)| m.max((g - w).abs()));
                    assert!(differ < 2e-3, "{name}, {which}: {differ}");
                    worst = worst.max(differ);
                }
            }
            println!("{name}: greatest difference of a logit {worst:e}, relative of a frequency {off:e}");
            assert!(off < 3e-7, "{name}: {off}");
            configs.push(model.llama.config().clone());
        }
        // The newer file spells out what the older leaves to defaults.
        let (a, b) = (&configs[0], &configs[1]);
        assert_eq!(
            (a.kv_heads(), a.head_dim(), a.rms_norm_eps),
            (b.kv_heads(), b.head_dim(), b.rms_norm_eps),
            "{name}"
        );
        assert_eq!((&a.rope_scaling, a.rope_theta), (&b.rope_scaling, b.rope_theta), "{name}");
    }
}

#[test]
fn scaling_reaches_the_logits() {
    // The test above could not fail on scaling if scaling made no difference at these positions.
    let golden = golden();
    for name in ["Llama-3.1-8B-Instruct", "Llama-3.2-1B-Instruct", "linear, older key", "linear, both keys"] {
        let family = &golden.families[name];
        let mut plain = family.config.clone();
        plain["rope_scaling"] = Json::Null;
        let model = load(&write(&plain, &family.config)).unwrap();
        let want = &family.logits["spread"];
        let mut rows = Packed::new(vec![Segment::plain(0..golden.ids.len())]);
        let hidden = model.llama.forward(&golden.ids, &want.positions, &mut rows).unwrap();
        let got = model.llama.logits(&hidden).unwrap().to_vec2::<f32>().unwrap();
        let differ = got[golden.ids.len() - 1].iter().zip(&want.rows[1]).fold(0f32, |m, (g, w)| m.max((g - w).abs()));
        assert!(differ > 0.05, "{name}: {differ}");
    }
}

#[test]
fn what_would_compute_something_else_is_refused() {
    let golden = golden();
    let older = &golden.families["Llama-3.1-8B-Instruct"].config;
    let newer = &golden.families["Llama-3.1-8B-Instruct"].newer;
    let refuses = |base: &Json, change: &dyn Fn(&mut Json), words: &[&str]| {
        let mut config = base.clone();
        change(&mut config);
        let message = load(&write(&config, older)).err().unwrap_or_else(|| panic!("{words:?}: it loads"));
        for word in words.iter().chain(&["config.json"]) {
            assert!(message.contains(word), "`{word}` is not in: {message}");
        }
    };
    for kind in ["yarn", "dynamic", "longrope", "su", "mrope", "proportional"] {
        refuses(older, &|c| c["rope_scaling"]["rope_type"] = kind.into(), &[kind, "rope_type", "llama3"]);
        refuses(older, &|c| c["rope_scaling"] = json!({"type": kind, "factor": 2.}), &[kind, "rope_type"]);
        refuses(newer, &|c| c["rope_parameters"]["rope_type"] = kind.into(), &[kind, "rope_type"]);
    }
    for base in [older, newer] {
        refuses(base, &|c| c["attention_bias"] = true.into(), &["attention_bias = true"]);
        refuses(base, &|c| c["mlp_bias"] = true.into(), &["mlp_bias = true"]);
        refuses(base, &|c| c["hidden_act"] = "gelu_pytorch_tanh".into(), &["hidden_act", "gelu_pytorch_tanh"]);
        refuses(base, &|c| c["hidden_act"] = json!(["silu"]), &["hidden_act"]);
        refuses(base, &|c| c["model_type"] = "mistral".into(), &["mistral"]);
        refuses(base, &|c| c["partial_rotary_factor"] = 0.5.into(), &["partial_rotary_factor"]);
    }
    refuses(newer, &|c| c["rope_parameters"]["partial_rotary_factor"] = 0.5.into(), &["partial_rotary_factor"]);
    refuses(newer, &|c| c["rope_parameters"] = json!({"full_attention": {"rope_theta": 1e4}}), &["full_attention"]);
    refuses(newer, &|c| c["rope_parameters"] = "linear".into(), &["must be an object"]);
    refuses(newer, &|c| c["rope_parameters"]["rope_theta"] = (-1.).into(), &["rope_theta"]);
    refuses(older, &|c| c["rope_scaling"]["factor"] = 0.into(), &["factor"]);
    refuses(older, &|c| c["rope_scaling"]["factor"] = "8".into(), &["8"]);
    refuses(older, &|c| c["rope_scaling"]["high_freq_factor"] = 1.into(), &["high_freq_factor"]);
    refuses(older, &|c| c["rope_scaling"]["original_max_position_embeddings"] = 0.into(), &["original_max_position"]);
}
