//! Adapters as people save them: with a tokenizer and template of their own, beside a config.json, begun from the base
//! model's weights.

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use reflux::model::{LoraConfig, Message, Model};
use serde_json::{Value, json};

fn base() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/model/smollm2")
}
fn load(path: &Path) -> reflux::error::Result<Model> {
    Model::load(path, &Device::Cpu, DType::F32, false)
}

/// An adapter of the base model that changes something, and the hash of the two merged.
fn adapter(dir: &Path) -> String {
    let lora = LoraConfig { rank: 2, ..LoraConfig::default() };
    let model = load(&base()).unwrap().with_lora(&lora, 3).unwrap();
    for (name, var) in model.llama.variables() {
        if name.ends_with("lora_B.weight") {
            var.set(&(Tensor::ones(var.shape(), DType::F32, &Device::Cpu).unwrap() * 0.01).unwrap()).unwrap();
        }
    }
    model.save_lora(base().to_str(), dir).unwrap();
    model.current_hash().unwrap()
}

fn edit(dir: &Path, key: &str, value: Value) {
    let path = dir.join("adapter_config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    config[key] = value;
    fs::write(path, config.to_string()).unwrap();
}

fn ids(model: &Model) -> Vec<u32> {
    model.tokenizer.encode_chat(&[Message::new("user", "the cat")], true).unwrap()
}

#[test]
fn an_initialisation_that_changes_the_base_model_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let hash = adapter(dir.path());
    for harmless in [json!(true), json!(false), json!(null), json!("gaussian"), json!("orthogonal"), json!("eva")] {
        edit(dir.path(), "init_lora_weights", harmless);
        assert_eq!(load(dir.path()).unwrap().hash, hash);
    }
    for changes in ["pissa", "pissa_niter_16", "olora", "OLoRA", "loftq", "corda", "lora_ga", "of_next_year"] {
        edit(dir.path(), "init_lora_weights", json!(changes));
        let error = load(dir.path()).err().expect("it loads");
        assert!(error.to_string().contains(&format!("init_lora_weights is \"{changes}\"")), "{error}");
        assert!(error.help_text().unwrap_or_default().contains("merge"), "{error}");
        assert!(load(&base()).unwrap().load_lora(dir.path()).is_err(), "{changes}");
    }
}

#[test]
fn an_adapters_own_tokenizer_and_template_are_used() {
    let dir = tempfile::tempdir().unwrap();
    let hash = adapter(dir.path());
    let plain = load(&base()).unwrap();
    assert_eq!(ids(&load(dir.path()).unwrap()), ids(&plain), "the base model's where it has none");

    // A template alone, as a file and in tokenizer_config.json.
    let template = "{% for m in messages %}{{ '<|im_start|>' + m.content + '<|im_end|>' }}{% endfor %}";
    let own = dir.path().join("chat_template.jinja");
    fs::write(&own, template).unwrap();
    let with_file = load(dir.path()).unwrap();
    assert_eq!((with_file.tokenizer.chat_template(), &with_file.hash), (Some(template), &hash));
    assert_ne!(ids(&with_file), ids(&plain));
    assert_ne!(with_file.tokenizer.hash(), plain.tokenizer.hash());
    assert_eq!(with_file.tokenizer.vocabulary_hash(), plain.tokenizer.vocabulary_hash());
    fs::remove_file(&own).unwrap();
    let config = json!({ "chat_template": template }).to_string();
    fs::write(dir.path().join("tokenizer_config.json"), config).unwrap();
    assert_eq!(ids(&load(dir.path()).unwrap()), ids(&with_file));

    // A tokenizer of its own, whose ids differ.
    let text = fs::read_to_string(base().join("tokenizer.json")).unwrap();
    let mut tokenizer: Value = serde_json::from_str(&text).unwrap();
    tokenizer["pre_tokenizer"] =
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let own = load(dir.path()).unwrap();
    assert_ne!(own.tokenizer.encode_text("cat").unwrap(), plain.tokenizer.encode_text("cat").unwrap());
    assert_ne!(own.tokenizer.hash(), with_file.tokenizer.hash());
    // What ends an answer by the base model's files still does.
    assert!(plain.tokenizer.eos_ids().iter().all(|id| own.tokenizer.eos_ids().contains(id)));
}

#[test]
fn a_config_beside_an_adapter_does_not_make_it_a_whole_model() {
    let dir = tempfile::tempdir().unwrap();
    let hash = adapter(dir.path());
    fs::copy(base().join("config.json"), dir.path().join("config.json")).unwrap();
    assert_eq!(load(dir.path()).unwrap().hash, hash);
    fs::copy(base().join("model.safetensors"), dir.path().join("model.safetensors")).unwrap();
    let error = load(dir.path()).err().expect("it loads").to_string();
    assert!(error.contains("model.safetensors") && error.contains("adapter_config.json"), "{error}");
}
