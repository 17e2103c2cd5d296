//! Broken model files: a clear error each, no panic, no memory beyond the file's size.

use std::fs;
use std::path::Path;

use crate::golden_folders::{copy, golden};
use candle_core::{DType, Device};
use proptest::prelude::*;
use reflux::error::ErrorKind;
use reflux::model::{self, Message, Model, Tokenizer};
use tempfile::TempDir;

fn load(path: &Path) -> Result<Model, String> {
    Model::load(path, &Device::Cpu, DType::F32, false).map_err(|e| {
        assert_eq!(e.kind(), ErrorKind::User, "{e}");
        format!("{e} | {}", e.help_text().unwrap_or(""))
    })
}

/// The message that loading gives; it must hold every one of `words`.
fn refuses(path: &Path, words: &[&str]) {
    let message = load(path).err().unwrap_or_else(|| panic!("{words:?}: it loads"));
    for word in words {
        assert!(message.contains(word), "`{word}` is not in: {message}");
    }
}

fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{from}");
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

/// Changes the JSON header of a safetensors file, keeping its data.
fn edit_header(path: &Path, change: impl Fn(String) -> String) {
    let bytes = fs::read(path).unwrap();
    let n = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = change(String::from_utf8(bytes[8..8 + n].to_vec()).unwrap());
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(&bytes[8 + n..]);
    fs::write(path, out).unwrap();
}

#[test]
fn paths_that_are_no_model() {
    let dir = tempfile::tempdir().unwrap();
    refuses(&dir.path().join("nowhere"), &["no model found at", "nowhere"]);
    refuses(dir.path(), &["config.json not found"]);
    fs::write(dir.path().join("x.bin"), "x").unwrap();
    refuses(&dir.path().join("x.bin"), &["is not a model", ".gguf"]);
    let dir = copy("smollm2");
    fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    refuses(dir.path(), &["no weights"]);
    let dir = copy("smollm2");
    fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    refuses(dir.path(), &["tokenizer.json"]);
}

#[test]
fn configurations_that_cannot_be_run() {
    for (from, to, words) in [
        (r#""model_type": "llama""#, r#""model_type": "gpt_neox""#, &["config.json", "gpt_neox", "llama"][..]),
        (r#""hidden_size": 24"#, r#""hidden_size": 0"#, &["hidden_size is 0"]),
        (r#""hidden_size": 24"#, r#""hidden_size": 99999999999"#, &["hidden_size"]),
        (r#""num_attention_heads": 3"#, r#""num_attention_heads": -1"#, &["config.json"]),
        (r#""num_key_value_heads": 1"#, r#""num_key_value_heads": 2"#, &["3 attention heads", "2 key-value"]),
        (r#""head_dim": 8"#, r#""head_dim": 7"#, &["head_dim is 7"]),
        (r#""attention_bias": false"#, r#""attention_bias": true"#, &["attention_bias"]),
        (r#""hidden_act": "silu""#, r#""hidden_act": "gelu""#, &["gelu"]),
        (r#""rope_type": "default""#, r#""rope_type": "yarn""#, &["yarn"]),
        (r#""vocab_size": "#, r#""vocab_size": 1"#, &["shape", "config.json requires"]),
        ("{", "[", &["config.json"]),
    ] {
        let dir = copy("smollm2");
        edit(&dir.path().join("config.json"), from, to);
        refuses(dir.path(), words);
    }
    // Weights that fit, and a tokenizer with more tokens than the embedding has rows.
    let dir = copy("smollm2");
    let added = r#""added_tokens": ["#;
    let token = r#"{"id": 5000, "content": "<x>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},"#;
    let path = dir.path().join("tokenizer.json");
    edit(&path, added, &format!("{added}{token}"));
    edit(&path, r#""vocab": {"#, r#""vocab": {"<x>": 5000,"#);
    refuses(dir.path(), &["tokenizer", "embedding"]);
}

/// Readers of such a file may take another value each, so none is taken.
#[test]
fn a_key_that_comes_twice_is_refused() {
    for (file, key, value) in [
        ("config.json", "hidden_size", "24"),
        ("config.json", "rope_theta", "7.0"),
        ("tokenizer_config.json", "eos_token", "\"<x>\""),
        ("generation_config.json", "eos_token_id", "1"),
        ("tokenizer.json", "model", "{}"),
    ] {
        let dir = copy("smollm2");
        let path = dir.path().join(file);
        let text = fs::read_to_string(&path).unwrap_or_else(|_| "{}".to_owned());
        let rest = text.trim_start().strip_prefix('{').unwrap();
        let comma = if rest.trim() == "}" { "" } else { "," };
        fs::write(&path, format!("{{\"{key}\": {value}, \"{key}\": {value}{comma}{rest}")).unwrap();
        refuses(dir.path(), &[file, &format!("it has the key `{key}` twice")]);
    }
}

#[test]
fn broken_safetensors() {
    let file = |dir: &TempDir| dir.path().join("model.safetensors");
    let cut = |n: usize, words: &[&str]| {
        let dir = copy("smollm2");
        let bytes = fs::read(file(&dir)).unwrap();
        fs::write(file(&dir), &bytes[..n.min(bytes.len() - 1)]).unwrap();
        refuses(dir.path(), words);
    };
    cut(3, &["cut off"]);
    cut(100, &["header claims"]);
    cut(usize::MAX, &["bytes", "cut off"]);
    let header = |change: &dyn Fn(String) -> String, words: &[&str]| {
        let dir = copy("smollm2");
        edit_header(&file(&dir), change);
        refuses(dir.path(), words);
    };
    let norm = "\"model.norm.weight\"";
    header(&|h| h.replace(norm, "\"model.norm.bias\""), &["model.norm.bias", "not part of a Llama"]);
    header(
        &|h| h.replace(norm, "\"model.layers.0.input_layernorm.weight\""),
        &["header is broken", "`model.layers.0.input_layernorm.weight` twice"],
    );
    header(&|h| h.replacen("\"dtype\":\"F32\"", "\"dtype\":\"F32\",\"dtype\":\"F16\"", 1), &["the key `dtype` twice"]);
    header(&|h| h.replacen("\"F32\"", "\"I8\"", 1), &["type I8"]);
    header(&|h| h.replacen("[24]", "[25]", 1), &["shape [25]", "cannot have"]);
    header(&|h| h.replacen("[24]", "[18446744073709551615,18446744073709551615]", 1), &["cannot have"]);
    header(&|h| h.replacen("[24]", "[-1]", 1), &["shape"]);
    header(&|h| h.replacen("\"data_offsets\":[", "\"data_offsets\":[9", 1), &["bytes"]);
    header(&|h| h.replace('}', ""), &["header is broken"]);
    // Two tensors over the same bytes.
    header(
        &|h| {
            let offsets = |name: &str| {
                let at = h.find(name).unwrap();
                let from = at + h[at..].find("\"data_offsets\"").unwrap();
                h[from..from + h[from..].find('}').unwrap()].to_string()
            };
            h.replace(&offsets("layers.1.input_layernorm"), &offsets("layers.0.input_layernorm"))
        },
        &["overlap"],
    );
    // Types that the format has and models do not, places beyond the data and backwards, and what is no description.
    for kind in ["I64", "I32", "BOOL", "U8", "F8_E4M3", "f32", ""] {
        header(&|h| h.replacen("\"F32\"", &format!("\"{kind}\""), 1), &["tensor", "has type", "F32, F16 and BF16"]);
    }
    header(&|h| h.replacen("\"dtype\":\"F32\"", "\"dtype\":\"F16\"", 1), &["cannot have"]);
    header(&|h| h.replacen("\"dtype\":\"F32\",", "", 1), &["has no dtype"]);
    header(
        &|h| h.replacen("\"data_offsets\":[0,", "\"data_offsets\":[18446744073709551615,", 1),
        &["cut off or broken"],
    );
    header(&|h| h.replacen("\"data_offsets\":[0,", "\"data_offsets\":[0,0,", 1), &["not a pair"]);
    header(&|h| h.replacen("\"data_offsets\":[0,", "\"data_offsets\":[-1,", 1), &["whole numbers"]);
    header(&|h| h.replacen("\"data_offsets\":[0,", "\"data_offsets\":[4,", 1), &["cannot have"]);
    header(&|h| h.replacen("\"shape\":[", "\"shape\":[0,", 1), &["cannot have"]);
    header(&|h| h.replacen("\"shape\":[", "\"shape\":[1,", 1), &["has shape [1, ", "config.json requires"]);
    header(&|_| format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000)), &["header is broken"]);
    header(&|_| format!(r#"{{"a":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000)), &["header is broken"]);
    header(&|_| "{}".into(), &["is missing", "more"]);
    let dir = copy("smollm2");
    let mut bytes = fs::read(file(&dir)).unwrap();
    bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    fs::write(file(&dir), bytes).unwrap();
    refuses(dir.path(), &["header claims 18446744073709551615 bytes"]);
}

#[test]
fn broken_shards() {
    let index = |dir: &TempDir| dir.path().join("model.safetensors.index.json");
    let dir = copy("llama2");
    fs::remove_file(dir.path().join("model-00002-of-00002.safetensors")).unwrap();
    refuses(dir.path(), &["model-00002-of-00002.safetensors"]);
    let dir = copy("llama2");
    let text = fs::read_to_string(index(&dir)).unwrap();
    fs::write(index(&dir), text.replace("model-00002-of-00002", "model-00001-of-00002")).unwrap();
    refuses(dir.path(), &["is missing"]);
    let dir = copy("llama2");
    edit(&index(&dir), "model-00002-of-00002", "../../etc/model");
    refuses(dir.path(), &["is not a file name"]);
}

#[test]
fn a_model_without_a_chat_template_says_so() {
    let dir = copy("smollm2");
    fs::remove_file(dir.path().join("chat_template.jinja")).unwrap();
    let model = load(dir.path()).unwrap();
    assert!(!model.tokenizer.has_chat_template());
    let e = model.tokenizer.encode_chat(&[Message::new("user", "x")], true).unwrap_err();
    assert!(e.to_string().contains("no chat template") && e.help_text().is_some(), "{e}");
    assert!(!model.tokenizer.encode_text("plain text").unwrap().is_empty());
}

#[test]
fn devices_have_names() {
    assert!(model::device("cpu").unwrap().is_cpu());
    model::device("auto").unwrap();
    for bad in ["gpu", "", "cuda:x"] {
        assert_eq!(model::device(bad).unwrap_err().kind(), ErrorKind::User, "{bad}");
    }
}

#[test]
fn broken_tokenizers() {
    let refuses = |from: &str, to: &str, words: &[&str]| {
        let dir = copy("smollm2");
        edit(&dir.path().join("tokenizer.json"), from, to);
        refuses(dir.path(), words);
    };
    let normalizer = |to: &str, words: &[&str]| {
        refuses("\"normalizer\": null", &format!("\"normalizer\": {to}"), &[&["tokenizer.json"], words].concat());
    };
    refuses("{", "[", &["tokenizer.json"]);
    refuses("\"BPE\"", "\"CPE\"", &["tokenizer.json"]);
    refuses("\"ByteLevel\"", "\"BiteLevel\"", &["tokenizer.json"]);
    refuses("\"merges\": [", "\"merges\": [[\"a\", \"no such token\"],", &["tokenizer.json", "no such token"]);
    // The library panics where it reads these.
    normalizer(r#"{"type": "Precompiled", "precompiled_charsmap": "AAAAAP//"}"#, &["cannot be used"]);
    refuses("\"decoder\": {", "\"decoder\": 7, \"x\": {", &["tokenizer.json"]);
    // Memory beyond the file's size: a table that claims 4 GiB, replacements that double a text sixty times.
    normalizer(r#"{"type": "Precompiled", "precompiled_charsmap": "////////"}"#, &["precompiled_charsmap"]);
    let double = r#"{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}"#;
    let doubles = vec![double; 60].join(",");
    normalizer(&format!(r#"{{"type": "Sequence", "normalizers": [{doubles}]}}"#), &["times as long"]);
}

fn gguf() -> Vec<u8> {
    fs::read(golden("llama3/model.golden-gguf")).unwrap()
}

fn load_gguf(bytes: &[u8]) -> Result<Model, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.gguf");
    fs::write(&path, bytes).unwrap();
    load(&path)
}

fn place(bytes: &[u8], what: &[u8]) -> usize {
    bytes.windows(what.len()).position(|w| w == what).unwrap()
}

#[test]
fn broken_gguf() {
    let refuses = |bytes: &[u8], word: &str| {
        let message = load_gguf(bytes).err().unwrap_or_else(|| panic!("{word}: it loads"));
        assert!(message.contains(word) && message.contains("x.gguf"), "`{word}` is not in: {message}");
    };
    let good = gguf();
    refuses(b"", "bytes left");
    refuses(b"GGUL", "not a GGUF file");
    refuses(&good[..good.len() - 1], "cut off");
    refuses(&good[..good.len() / 2], "cut off");
    refuses(&good[..1000], "left");
    let with = |at: usize, new: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + new.len()].copy_from_slice(new);
        bytes
    };
    refuses(&with(4, &9u32.to_le_bytes()), "version 9");
    refuses(&with(8, &u64::MAX.to_le_bytes()), "tensors");
    refuses(&with(16, &u64::MAX.to_le_bytes()), "metadata entries");
    let at = place(&good, b"general.architecture") + 20 + 4 + 8;
    refuses(&with(at, b"mamba"), "`mamba`");
    // The embedding's first dimension, its type, and its offset.
    let at = place(&good, b"token_embd.weight") + 17;
    refuses(&with(at + 4, &u64::MAX.to_le_bytes()), "token_embd.weight");
    refuses(&with(at + 4 + 16, &77u32.to_le_bytes()), "ggml type 77");
    refuses(&with(at + 4 + 16 + 4, &(u64::MAX - 7).to_le_bytes()), "token_embd.weight");
    refuses(&with(at, &u32::MAX.to_le_bytes()), "dimensions");
    refuses(&with(place(&good, b"blk.0.attn_q.weight"), b"blk.0.attn_z.weight"), "attn_");
    let at = place(&good, b"tokenizer.ggml.tokens") + 21 + 4 + 4;
    refuses(&with(at, &(u64::MAX / 2).to_le_bytes()), "array elements");
    refuses(&with(place(&good, b"llama-bpe"), b"unheard-x"), "unheard-x");
}

#[test]
fn absurd_gguf() {
    let refuses = |bytes: &[u8], word: &str| {
        let message = load_gguf(bytes).err().unwrap_or_else(|| panic!("{word}: it loads"));
        assert!(message.contains(word) && message.contains("x.gguf"), "`{word}` is not in: {message}");
    };
    let good = gguf();
    let with = |changes: &[(usize, &[u8])]| {
        let mut bytes = good.clone();
        for (at, new) in changes {
            bytes[*at..*at + new.len()].copy_from_slice(new);
        }
        bytes
    };
    // A tensor's description is its name, the number of dimensions, these innermost first, the type and the offset.
    let embedding = place(&good, b"token_embd.weight") + 17 + 4;
    let output = place(&good, b"\x0d\0\0\0\0\0\0\0output.weight") + 8 + 13 + 4;
    let huge = (1u64 << 62).to_le_bytes();
    refuses(&with(&[(embedding, &huge)]), "token_embd.weight");
    refuses(&with(&[(embedding + 8, &huge)]), "vocab_size is 4611686018427387904");
    refuses(&with(&[(output, &huge), (output + 8, &huge)]), "output.weight");
    let rows = u64::from_le_bytes(good[embedding + 8..embedding + 16].try_into().unwrap());
    refuses(&with(&[(embedding + 8, &(rows - 1).to_le_bytes())]), "output.weight");
    // One row less in both: the file is sound, and its tokenizer has a token more than the embedding has rows.
    let fewer = (rows - 1).to_le_bytes();
    refuses(&with(&[(embedding + 8, &fewer), (output + 8, &fewer)]), "the tokenizer has");
    // Types that ggml has and reflux does not, and one whose blocks the rows cannot be made of.
    for kind in [4u32, 9, 15, 16, 24, 28, 29, 31, 34, u32::MAX] {
        refuses(&with(&[(embedding + 16, &kind.to_le_bytes())]), &format!("ggml type {kind}"));
    }
    refuses(&with(&[(embedding + 16, &14u32.to_le_bytes())]), "rows of 32 values cannot be");
    // Two tensors over the same bytes.
    let offset = good[embedding + 20..embedding + 28].to_vec();
    refuses(&with(&[(output + 20, &offset)]), "overlap");
    // Texts and arrays that are longer than any file.
    let key = place(&good, b"general.architecture");
    refuses(&with(&[(key - 8, &u64::MAX.to_le_bytes())]), "bytes of text");
    refuses(&with(&[(key + 20 + 4, &(1u64 << 40).to_le_bytes())]), "general.architecture");
    let array = place(&good, b"tokenizer.ggml.tokens") + 21 + 4;
    refuses(&with(&[(array, &9u32.to_le_bytes())]), "array of arrays");
    refuses(&with(&[(array, &99u32.to_le_bytes())]), "element type 99");
    refuses(&with(&[(array, &10u32.to_le_bytes())]), "bytes left");
    refuses(&with(&[(key, b"\xff")]), "not UTF-8");
    // Cut off anywhere at all.
    for n in (0..good.len()).step_by(499) {
        let message = load_gguf(&good[..n]).err().unwrap_or_else(|| panic!("{n} bytes of {} load", good.len()));
        assert!(message.contains("x.gguf"), "{message}");
    }
}

/// A tokenizer of the golden model with another chat template.
fn with_template(template: &str) -> Tokenizer {
    let dir = copy("smollm2");
    fs::write(dir.path().join("chat_template.jinja"), template).unwrap();
    load(dir.path()).unwrap().tokenizer
}

#[test]
fn endless_templates() {
    let range = "{% for a in range(99999) %}".repeat(4) + "x" + &"{% endfor %}".repeat(4);
    let doubling = "{% set ns = namespace(x='abcdefgh') %}{% for i in range(90) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}";
    for template in [
        range.as_str(),
        doubling,
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ range(1000000000000) | list }}",
        "{% for i in range(1000000000000) %}{{ i }}{% endfor %}",
        "{{ 'x' * 100000000000 }}",
        "{{ [0] * 100000000000 }}",
        "{{ '%99999999999d' | format(1) }}",
        "{{ '%3658553d' | format(1) }}",
        "{{ '<' * 2000000 }}",
        "{{ 'x' | center(99999999999) }}",
        "{{ 'x' | indent(99999999999, true) }}",
        "{{ ('x' * 9999) | replace('x', 'y' * 9999) | replace('y', 'z' * 9999) }}",
        "{{ ('x,' * 99999).split(',') | join('y' * 99999) }}",
        "{% for m in messages %}{% for n in m.content * 99999 %}{% for o in range(99999) %}{{ n }}{% endfor %}{% endfor %}{% endfor %}",
    ] {
        let tokenizer = with_template(template);
        for result in [
            tokenizer.render(&[Message::new("user", "hello")], true).map(|text| text.len()),
            tokenizer.encode_chat(&[Message::new("user", "hello")], true).map(|ids| ids.len()),
        ] {
            let e = result.err().unwrap_or_else(|| panic!("{template} ends"));
            assert_eq!(e.kind(), ErrorKind::User, "{template}: {e}");
            assert!(e.to_string().contains("chat template failed") && e.help_text().is_some(), "{template}: {e}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]
    /// Whatever bytes are changed, loading ends with a model or an error of the user's kind.
    #[test]
    fn damaged_files_never_panic(
        cut in 0usize..140_000, changes in prop::collection::vec((0usize..12_000, any::<u8>()), 0..6), other in any::<bool>(),
    ) {
        let damage = |mut bytes: Vec<u8>| {
            let n = bytes.len();
            for (at, value) in &changes {
                bytes[at % n] = *value;
            }
            bytes.truncate(if changes.is_empty() { cut } else { n });
            bytes
        };
        if other {
            let _ = load_gguf(&damage(gguf()));
        } else {
            let dir = copy("smollm2");
            let path = dir.path().join("model.safetensors");
            fs::write(&path, damage(fs::read(&path).unwrap())).unwrap();
            let _ = load(dir.path());
        }
    }
}
