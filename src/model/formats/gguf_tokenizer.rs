//! Converts a GGUF file's tokenizer to Hugging Face's tokenizer.json and tokenizer_config.json.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use super::gguf::{GgufValue, Metadata};
use crate::error::{Error, Result};
use crate::model::text::tokenizer::TokenizerFiles;

/// ggml's token types.
pub(in crate::model) const NORMAL: i32 = 1;
pub(in crate::model) const UNKNOWN: i32 = 2;
pub(in crate::model) const CONTROL: i32 = 3;
pub(in crate::model) const USER_DEFINED: i32 = 4;
pub(in crate::model) const UNUSED: i32 = 5;
pub(in crate::model) const BYTE: i32 = 6;
/// Maximum length of a SentencePiece token in bytes; every way to split it in two is tried.
const MAX_PIECE_BYTES: usize = 1024;
/// Maximum merges of a SentencePiece vocabulary per token. Llama 2 has 1.9, Gemma 2.0.
const MAX_MERGES_PER_TOKEN: usize = 4;
/// Maximum bytes of all merges per byte of the tokens.
const MAX_MERGED_BYTES_PER_BYTE: usize = 16;

pub(crate) fn files(metadata: &BTreeMap<String, GgufValue>) -> Result<TokenizerFiles> {
    let m = Metadata(metadata);
    let missing = |key: &str| Error::user(format!("metadata `{key}` is missing or not a list of the right type"));
    let Some(GgufValue::Texts(tokens)) = metadata.get("tokenizer.ggml.tokens") else {
        return Err(missing("tokenizer.ggml.tokens"));
    };
    let types = match metadata.get("tokenizer.ggml.token_type") {
        Some(GgufValue::Ints(types)) if types.len() == tokens.len() => types.clone(),
        None => vec![NORMAL; tokens.len()],
        Some(_) => return Err(missing("tokenizer.ggml.token_type")),
    };
    let unknown = special(&m, tokens, "unknown")?;
    let parts = match m.text("tokenizer.ggml.model")? {
        Some("gpt2") => {
            let Some(GgufValue::Texts(merges)) = metadata.get("tokenizer.ggml.merges") else {
                return Err(missing("tokenizer.ggml.merges"));
            };
            byte_level(tokens, merges, m.text("tokenizer.ggml.pre")?.unwrap_or("default"))?
        }
        Some("llama") => {
            let Some(GgufValue::Floats(scores)) = metadata.get("tokenizer.ggml.scores") else {
                return Err(missing("tokenizer.ggml.scores"));
            };
            if scores.len() != tokens.len() {
                return Err(missing("tokenizer.ggml.scores"));
            }
            if m.flag("tokenizer.ggml.remove_extra_whitespaces")? == Some(true) {
                return Err(Error::user("its tokenizer drops repeated spaces, which no Llama's does")
                    .help("use the model's Hugging Face directory"));
            }
            if let Some(id) = tokens.iter().position(|t| t.len() > MAX_PIECE_BYTES) {
                return Err(Error::user(format!("token {id} has {} bytes", tokens[id].len())));
            }
            // Files without the key still have the token.
            let by_type = || types.iter().position(|kind| *kind == UNKNOWN).map(|id| tokens[id].clone());
            let prefix = m.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
            sentencepiece(tokens, scores, &types, unknown.or_else(by_type), prefix)?
        }
        other => {
            return Err(Error::user(format!("its tokenizer is of kind `{}`", other.unwrap_or("none"))).help(
                "reflux reads `gpt2` (byte-level BPE) and `llama` (SentencePiece); or use the Hugging Face directory",
            ));
        }
    };
    let added: Vec<Json> = tokens
        .iter()
        .zip(&types)
        .enumerate()
        .filter(|(_, (t, kind))| matches!(**kind, CONTROL | USER_DEFINED | UNKNOWN) && !t.is_empty())
        .map(|(id, (content, kind))| {
            let special = *kind != USER_DEFINED;
            json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": special})
        })
        .collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": parts.normalizer,
        "pre_tokenizer": parts.pre_tokenizer, "post_processor": null, "decoder": parts.decoder, "model": parts.model,
    });

    let mut config = Map::new();
    config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
    config.insert("clean_up_tokenization_spaces".into(), false.into());
    config.insert("model_max_length".into(), m.size("llama.context_length")?.unwrap_or(2048).into());
    for (key, of) in [("bos_token", "bos"), ("eos_token", "eos"), ("pad_token", "padding"), ("unk_token", "unknown")] {
        if let Some(token) = special(&m, tokens, of)? {
            config.insert(key.into(), token.into());
        }
    }
    if let Some(template) = m.text("tokenizer.chat_template")? {
        config.insert("chat_template".into(), template.into());
    }
    if let Some(add) = m.flag("tokenizer.ggml.add_bos_token")? {
        config.insert("add_bos_token".into(), add.into());
    }
    let eos = ["eos", "eot", "eom"].iter().map(|k| m.size(&format!("tokenizer.ggml.{k}_token_id")));
    let eos = eos.collect::<Result<Vec<_>>>()?.into_iter().flatten().filter_map(|id| u32::try_from(id).ok()).collect();
    Ok(TokenizerFiles { tokenizer: tokenizer.to_string(), config, eos })
}

fn special(m: &Metadata, tokens: &[String], which: &str) -> Result<Option<String>> {
    let key = format!("tokenizer.ggml.{which}_token_id");
    m.size(&key)?
        .map(|id| {
            let outside =
                || Error::user(format!("metadata `{key}` is {id}, but the vocabulary has {} tokens", tokens.len()));
            tokens.get(id).cloned().ok_or_else(outside)
        })
        .transpose()
}

/// The parts of tokenizer.json that depend on the kind of tokenizer.
struct Parts {
    normalizer: Json,
    pre_tokenizer: Json,
    decoder: Json,
    model: Json,
}

fn vocab(tokens: &[String]) -> Json {
    // Of equal spellings, the first keeps its id.
    let mut map = Map::new();
    for (id, token) in tokens.iter().enumerate() {
        map.entry(token.clone()).or_insert_with(|| id.into());
    }
    Json::Object(map)
}

/// Regular expression of Llama 3's words.
pub(in crate::model) const LLAMA3: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
/// Regular expression of Qwen 2's words.
pub(in crate::model) const QWEN2: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/// Byte-level BPE. `pre` is llama.cpp's name for the rule that splits text into words.
fn byte_level(tokens: &[String], merges: &[String], pre: &str) -> Result<Parts> {
    let bytes =
        |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let split = |pattern: &str| {
        let split = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        json!({"type": "Sequence", "pretokenizers": [split, bytes(false)]})
    };
    let (pre_tokenizer, normalizer, whole_words) = match pre {
        "default" | "gpt-2" => (bytes(true), Json::Null, false),
        "smollm" | "starcoder" | "refact" | "command-r" => {
            let digits = json!({"type": "Digits", "individual_digits": true});
            (json!({"type": "Sequence", "pretokenizers": [digits, bytes(true)]}), Json::Null, false)
        }
        "llama-bpe" | "llama3" | "llama-v3" => (split(LLAMA3), Json::Null, true),
        "qwen2" => (split(QWEN2), json!({"type": "NFC"}), false),
        other => {
            return Err(Error::user(format!("its pre-tokenizer `{other}` is not known"))
                .help("reflux knows gpt-2, smollm, llama-bpe and qwen2; or use the Hugging Face directory"));
        }
    };
    let decoder = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    let model = json!({
        "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
        "fuse_unk": false, "byte_fallback": false, "ignore_merges": whole_words, "vocab": vocab(tokens), "merges": merges,
    });
    Ok(Parts { normalizer, pre_tokenizer, decoder, model })
}

/// SentencePiece BPE, as in the released tokenizer.json of Llama 2. It puts a space before every stretch
/// between special tokens, whereas sentencepiece puts one only at the start of the text. It has a merge for
/// every way to split a piece into two others, in descending order of the whole's score and then in order
/// of the parts' ids. SentencePiece merges by score; a merge list in this order is equivalent.
fn sentencepiece(
    tokens: &[String],
    scores: &[f32],
    types: &[i32],
    unknown: Option<String>,
    prefix: bool,
) -> Result<Parts> {
    let ids: BTreeMap<&str, usize> = tokens.iter().enumerate().rev().map(|(id, t)| (t.as_str(), id)).collect();
    let most_bytes =
        MAX_MERGED_BYTES_PER_BYTE.saturating_mul(tokens.iter().map(String::len).sum()).saturating_add(1 << 20);
    let (most, mut bytes) = (MAX_MERGES_PER_TOKEN * tokens.len() + 10_000, 0usize);
    let mut merges: Vec<(f32, usize, usize)> = Vec::new();
    for (id, token) in tokens.iter().enumerate() {
        // These tokens do not represent their spelling, so text must not merge into them.
        if matches!(types[id], CONTROL | UNKNOWN | BYTE) {
            continue;
        }
        let splits = token
            .char_indices()
            .skip(1)
            .filter_map(|(i, _)| Some((scores[id], *ids.get(&token[..i])?, *ids.get(&token[i..])?)));
        let before = merges.len();
        merges.extend(splits);
        bytes = bytes.saturating_add((merges.len() - before) * token.len());
        if merges.len() > most || bytes > most_bytes {
            return Err(Error::user(format!("its {} tokens are merged in more than {most} ways", tokens.len()))
                .help("no trained vocabulary is like this: the file is broken, or made to exhaust memory"));
        }
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let merges: Vec<Json> = merges.into_iter().map(|(_, a, b)| json!([tokens[a], tokens[b]])).collect();

    let mut normalizers = vec![json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"})];
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    Ok(Parts {
        normalizer: json!({"type": "Sequence", "normalizers": normalizers}),
        pre_tokenizer: Json::Null,
        decoder: json!({"type": "Sequence", "decoders": decoders}),
        model: json!({
            "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab(tokens), "merges": merges,
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vocabulary_that_is_merged_in_too_many_ways_is_refused() {
        let merged = |longest: usize| {
            let tokens: Vec<String> = (1..=longest).map(|n| "a".repeat(n)).collect();
            sentencepiece(&tokens, &vec![0.; longest], &vec![NORMAL; longest], None, true).map(drop)
        };
        assert!(merged(50).is_ok());
        assert!(merged(1024).unwrap_err().to_string().contains("merged in more than"));
    }
}
