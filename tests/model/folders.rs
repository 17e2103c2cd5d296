//! Model folders and files as people have them: what transformers reads is read to the same model, and what cannot be
//! is refused by its cause.

use std::fs;
use std::path::Path;

use crate::golden_folders::{copy, golden};
use candle_core::{DType, Device, Tensor};
use reflux::model::{self, Message, Model, Tokenizer};
use tempfile::TempDir;

fn load(path: &Path) -> Result<Model, String> {
    Model::load(path, &Device::Cpu, DType::F32, false)
        .map_err(|e| format!("{e} | {}", e.help_text().unwrap_or_default()))
}

fn refuses(path: &Path, words: &[&str]) {
    let message = load(path).err().unwrap_or_else(|| panic!("{words:?}: it loads"));
    for word in words {
        assert!(message.contains(word), "`{word}` is not in: {message}");
    }
}

/// Changes a JSON file's keys; `null` takes a key out.
fn edit(dir: &TempDir, file: &str, keys: serde_json::Value) {
    let path = dir.path().join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|_| "{}".into());
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (key, value) in keys.as_object().unwrap() {
        match value.is_null() {
            true => drop(json.as_object_mut().unwrap().shift_remove(key)),
            false => json[key] = value.clone(),
        }
    }
    fs::write(path, json.to_string()).unwrap();
}

/// Writes the folder's weights again, changed.
fn rewrite(dir: &TempDir, change: impl Fn(String, Tensor) -> Vec<(String, Tensor)>) {
    let path = dir.path().join("model.safetensors");
    let weights = model::read_tensors(&path, &Device::Cpu).unwrap();
    let changed = weights.into_iter().flat_map(|(name, w)| change(name, w)).collect();
    model::write_tensors(&changed, &mut fs::File::create(path).unwrap()).unwrap();
}

#[test]
fn a_single_file_goes_before_stale_shards() {
    let dir = copy("smollm2");
    let hash = load(dir.path()).unwrap().hash;
    let index = r#"{"metadata": {}, "weight_map": {"model.norm.weight": "model-00001-of-00001.safetensors"}}"#;
    fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
    fs::write(dir.path().join("model-00001-of-00001.safetensors"), "an earlier save").unwrap();
    assert_eq!(load(dir.path()).unwrap().hash, hash);
}

#[test]
fn an_output_matrix_of_its_own_is_used_though_the_file_ties_it() {
    let dir = copy("smollm2");
    let tied = load(dir.path()).unwrap();
    assert!(tied.llama.config().tie_word_embeddings);
    let with_head = |scale: f64| {
        let dir = copy("smollm2");
        rewrite(&dir, |name, w| {
            let head =
                (name == "model.embed_tokens.weight").then(|| ("lm_head.weight".to_string(), (&w * scale).unwrap()));
            [(name, w)].into_iter().chain(head).collect()
        });
        load(dir.path()).unwrap()
    };
    // A copy of the embedding is no matrix of its own.
    assert_eq!(with_head(1.).hash, tied.hash);
    let other = with_head(2.);
    assert!(!other.llama.config().tie_word_embeddings && other.hash != tied.hash);
}

#[test]
fn weights_by_other_names_and_types() {
    let dir = copy("smollm2");
    let hash = load(dir.path()).unwrap().hash;
    // Saved without the head, whose prefix the names then lack.
    rewrite(&dir, |name, w| vec![(name.trim_start_matches("model.").to_string(), w)]);
    assert_eq!(load(dir.path()).unwrap().hash, hash);
    for (prefix, cause) in [("_orig_mod.", "torch.compile"), ("module.", "DataParallel")] {
        let dir = copy("smollm2");
        rewrite(&dir, |name, w| vec![(format!("{prefix}{name}"), w)]);
        refuses(dir.path(), &[prefix, cause]);
    }
    let dir = copy("smollm2");
    fs::write(dir.path().join("model.safetensors"), "version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
        .unwrap();
    refuses(dir.path(), &["Git LFS", "git lfs pull"]);
    let dir = copy("smollm2");
    edit(&dir, "config.json", serde_json::json!({"quantization_config": {"quant_method": "fp8"}}));
    refuses(dir.path(), &["config.json", "fp8"]);
}

#[test]
fn a_scaling_says_what_it_is() {
    for (scaling, words) in [
        (serde_json::json!({"factor": 4.0}), &["factor (4.0)", "no type"][..]),
        (serde_json::json!({"type": "linear"}), &["linear", "no factor"]),
        (serde_json::json!({"rope_type": "linear", "factor": "4"}), &["factor is \"4\""]),
        (serde_json::json!({"rope_type": "llama3", "factor": 8.0}), &["llama3", "low_freq_factor"]),
    ] {
        for key in ["rope_scaling", "rope_parameters"] {
            let dir = copy("smollm2");
            edit(&dir, "config.json", serde_json::json!({"rope_scaling": null, "rope_parameters": null}));
            edit(&dir, "config.json", serde_json::json!({ key: scaling }));
            refuses(dir.path(), words);
        }
    }
}

#[test]
fn ids_that_end_a_text() {
    for (value, shown) in
        [(serde_json::json!("2"), "\"2\""), (serde_json::json!([2, "3"]), "\"3\""), (serde_json::json!(2.5), "2.5")]
    {
        for file in ["config.json", "generation_config.json"] {
            let dir = copy("smollm2");
            edit(&dir, file, serde_json::json!({"eos_token_id": value}));
            refuses(dir.path(), &[file, "eos_token_id", shown, "whole number"]);
        }
    }
    let dir = copy("smollm2");
    edit(&dir, "config.json", serde_json::json!({"eos_token_id": -1, "bos_token_id": -1}));
    assert!(load(dir.path()).is_ok());
    let dir = copy("smollm2");
    edit(&dir, "config.json", serde_json::json!({"hidden_size": "24"}));
    refuses(dir.path(), &["config.json", "hidden_size"]);
}

#[test]
fn tokens_that_only_the_configuration_names_are_tokens() {
    let flags =
        serde_json::json!({"content": "<|x|>", "special": true, "lstrip": false, "rstrip": false, "normalized": false});
    let next = Tokenizer::load(&golden("smollm2")).unwrap().vocab_size();
    for (file, keys) in [
        ("tokenizer_config.json", serde_json::json!({"added_tokens_decoder": {next.to_string(): flags}})),
        ("tokenizer_config.json", serde_json::json!({"extra_special_tokens": ["<|x|>"]})),
        ("tokenizer_config.json", serde_json::json!({"extra_special_tokens": {"image_token": "<|x|>"}})),
        ("special_tokens_map.json", serde_json::json!({"additional_special_tokens": ["<|x|>"]})),
        ("tokenizer_config.json", serde_json::json!({"pad_token": "<|x|>"})),
    ] {
        let dir = copy("smollm2");
        edit(&dir, file, keys.clone());
        fs::write(dir.path().join("chat_template.jinja"), "<|x|>{{ messages[0].content }}{{ image_token }}").unwrap();
        let tokenizer = Tokenizer::load(dir.path()).unwrap();
        assert_eq!(tokenizer.token_id("<|x|>"), Some(next as u32), "{keys}");
        let ids = tokenizer.encode_chat(&[Message::new("user", "a <|x|>")], false).unwrap();
        let expected = if keys.to_string().contains("image_token") { 2 } else { 1 };
        // What the template writes is the token, what a message spells is letters.
        assert_eq!(ids.iter().filter(|id| **id == next as u32).count(), expected, "{keys}");
    }
    let dir = copy("smollm2");
    edit(&dir, "tokenizer_config.json", serde_json::json!({"added_tokens_decoder": {(next + 5).to_string(): flags}}));
    let e = Tokenizer::load(dir.path()).err().unwrap().to_string();
    assert!(e.contains("added_tokens_decoder") && e.contains(&(next + 5).to_string()), "{e}");
}

#[test]
fn a_model_split_over_files_is_one_model() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole.gguf");
    fs::copy(golden("sentencepiece/model.golden-gguf"), &whole).unwrap();
    let part = |n: usize| dir.path().join(format!("model-{n:05}-of-00003.gguf"));
    for n in 1..=3 {
        fs::copy(golden(&format!("split/model-{n:05}-of-00003.golden-gguf")), part(n)).unwrap();
    }
    let whole = load(&whole).unwrap();
    for n in 1..=3 {
        assert_eq!(load(&part(n)).unwrap().hash, whole.hash, "opened by part {n}");
    }
    fs::remove_file(part(2)).unwrap();
    refuses(&part(1), &["part 2 of 3", "model-00002-of-00003.gguf"]);
    let renamed = dir.path().join("renamed.gguf");
    fs::rename(part(1), &renamed).unwrap();
    refuses(&renamed, &["one of 3 files", "-00001-of-00003.gguf"]);
}

#[test]
fn a_big_endian_file_is_called_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("big.gguf");
    fs::write(&path, [b"GGUF".as_slice(), &3u32.to_be_bytes(), &[0; 64]].concat()).unwrap();
    refuses(&path, &["big-endian", "gguf_convert_endian"]);
}
