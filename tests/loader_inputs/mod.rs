//! What the fuzz targets of fuzz/ do with an input, and what tests/loader_corpus.rs does with the inputs that are kept: every
//! loader ends with a model or an error that the user can act on, and what it loaded can be used.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use candle_core::{DType, Device};
use reflux::error::{Error, ErrorKind};
use reflux::model::{Message, Model, Tokenizer};
use tempfile::TempDir;

/// Stands between the files of an input that holds several.
const CUT: &str = "\n-----\n";

/// A model of one block whose safetensors fit into an input.
const CONFIG: &str = r#"{"model_type": "llama", "vocab_size": 6, "hidden_size": 4, "intermediate_size": 2, "num_hidden_layers": 1,
"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": true, "eos_token_id": 2}"#;

/// Its tokenizer.
const TOKENIZER: &str = r#"{"version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
"decoder": null, "pre_tokenizer": {"type": "Whitespace"}, "added_tokens": [
{"id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
{"id": 2, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": true, "normalized": false, "special": true}],
"model": {"type": "WordLevel", "vocab": {"<s>": 0, "<unk>": 1, "</s>": 2, "a": 3, "user": 4, "b": 5}, "unk_token": "<unk>"}}"#;

const TOKENIZER_CONFIG: &str = r#"{"bos_token": "<s>", "eos_token": {"content": "</s>"}, "unk_token": "<unk>"}"#;

fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (name, bytes) in files {
        fs::write(dir.path().join(name), bytes).expect("a file in the temporary directory");
    }
    dir
}

/// A broken file is the user's to mend; a defect of ours, or an error of the machine, is a finding.
fn users(e: Error) {
    assert_eq!(e.kind(), ErrorKind::User, "{e}");
    assert!(!e.to_string().is_empty());
}

fn load(path: &Path) {
    match Model::load(path, &Device::Cpu, DType::F32, false) {
        Ok(model) => {
            let rows = model.llama.config().vocab_size;
            speak(&model.tokenizer, &["Hi 12 \u{f1a70}0\u{f1a71}  世界\n🎉</s>"], rows);
        }
        Err(e) => users(e),
    }
}

/// Uses every way from text to ids and back. `rows` are the embedding's.
fn speak(tokenizer: &Tokenizer, contents: &[&str], rows: usize) {
    let known = |ids: Vec<u32>| {
        assert!(ids.iter().all(|id| (*id as usize) < rows), "{ids:?} are not all below {rows}");
        tokenizer.decode(&ids);
    };
    for text in contents {
        tokenizer.encode_text(text).map_or_else(users, |ids| {
            // The unknown token may be a special one; no other comes of plain text.
            let special: BTreeSet<u32> = ids.iter().copied().filter(|id| tokenizer.is_special(*id)).collect();
            assert!(special.len() <= 1, "{text:?} makes the special tokens {special:?}");
            known(ids);
        });
    }
    let roles = ["system", "user", "assistant", "user"].into_iter().cycle();
    let messages: Vec<_> =
        roles.skip(usize::from(contents.len() < 3)).zip(contents).map(|(r, c)| Message::new(r, *c)).collect();
    for generate in [true, false] {
        tokenizer.render(&messages, generate).map_or_else(users, drop);
        tokenizer.encode_chat(&messages, generate).map_or_else(users, known);
    }
}

/// The bytes of a GGUF file.
pub fn gguf(bytes: &[u8]) {
    let dir = folder(&[("x.gguf", bytes)]);
    load(&dir.path().join("x.gguf"));
}

/// The bytes of model.safetensors beside a fixed configuration and tokenizer.
pub fn safetensors(bytes: &[u8]) {
    let files: [(&str, &[u8]); 3] =
        [("config.json", CONFIG.as_bytes()), ("tokenizer.json", TOKENIZER.as_bytes()), ("model.safetensors", bytes)];
    load(folder(&files).path());
}

/// config.json, tokenizer.json, tokenizer_config.json, generation_config.json and special_tokens_map.json, as many as there are.
pub fn tokenizer(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let names =
        ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "special_tokens_map.json"];
    let files: Vec<(&str, &[u8])> = names.into_iter().zip(text.split(CUT).map(str::as_bytes)).collect();
    match Tokenizer::load(folder(&files).path()) {
        Ok(tokenizer) => speak(&tokenizer, &["Hi 12  世界\n🎉</s>", "<s>", ""], usize::MAX),
        Err(e) => users(e),
    }
}

/// A chat template, and the contents of the messages that it is given.
pub fn chat_template(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut parts = text.split(CUT);
    let template = parts.next().unwrap_or_default().as_bytes();
    let contents: Vec<&str> = parts.take(8).collect();
    let files: [(&str, &[u8]); 4] = [
        ("config.json", CONFIG.as_bytes()),
        ("tokenizer.json", TOKENIZER.as_bytes()),
        ("tokenizer_config.json", TOKENIZER_CONFIG.as_bytes()),
        ("chat_template.jinja", template),
    ];
    match Tokenizer::load(folder(&files).path()) {
        Ok(tokenizer) => speak(&tokenizer, &contents, 6),
        Err(e) => users(e),
    }
}
