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
fn settings_with_a_key_twice_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    adapter(dir.path());
    let path = dir.path().join("adapter_config.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen('{', "{\"lora_alpha\": 1,", 1)).unwrap();
    let error = load(dir.path()).err().expect("it loads").to_string();
    assert!(error.contains("adapter_config.json") && error.contains("the key `lora_alpha` twice"), "{error}");
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

#[test]
fn a_copy_of_an_adapter_names_its_base_so_that_peft_finds_it() {
    // As a run lays them: the model that was trained beside the one that came of it, which has the adapter.
    let dir = tempfile::tempdir().unwrap();
    let (m1, made) = (dir.path().join("run/models/M1"), dir.path().join("run/models/M2/adapter"));
    fs::create_dir_all(&m1).unwrap();
    fs::create_dir_all(&made).unwrap();
    for file in fs::read_dir(base()).unwrap() {
        let file = file.unwrap();
        if file.file_type().unwrap().is_file() {
            fs::copy(file.path(), m1.join(file.file_name())).unwrap();
        }
    }
    let hash = adapter(&made);
    edit(&made, "base_model_name_or_path", json!("../../M1"));
    let out = dir.path().join("mine");
    let export = |more: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_reflux"));
        let output = command.arg("export").arg(&made).arg(&out).args(more).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(export(&[]).0, Some(0));
    let config: Value = serde_json::from_str(&fs::read_to_string(out.join("adapter_config.json")).unwrap()).unwrap();
    // What AutoPeftModel hands to from_pretrained, wherever it is called.
    let named = Path::new(config["base_model_name_or_path"].as_str().unwrap());
    assert!(named.is_absolute() && named.join("config.json").is_file(), "{named:?}");
    assert_eq!(fs::canonicalize(named).unwrap(), fs::canonicalize(&m1).unwrap());
    assert_eq!(config["peft_type"], "LORA");
    assert_eq!(load(&out).unwrap().hash, hash);
    let (code, error) = export(&[]);
    assert!(code == Some(2) && error.contains("already exists"), "{error}");
    // A name on the hub stays a name.
    edit(&made, "base_model_name_or_path", json!("org/name"));
    assert_eq!(export(&["--force"]).0, Some(0));
    assert!(fs::read_to_string(out.join("adapter_config.json")).unwrap().contains("\"org/name\""));
    // PEFT loads no GGUF file.
    fs::write(dir.path().join("m.gguf"), "GGUF").unwrap();
    edit(&made, "base_model_name_or_path", json!(dir.path().join("m.gguf")));
    let (code, error) = export(&["--force"]);
    assert!(code == Some(2) && error.contains("GGUF file, which PEFT does not load"), "{error}");
}
