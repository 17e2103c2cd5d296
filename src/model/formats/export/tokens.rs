//! Writes the tokenizer and the chat template as metadata.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value as Json};

use super::gguf::{MetadataTable, WrittenValue};
use crate::error::{Error, Result};
use crate::model::config::Config;
use crate::model::formats::gguf_tokenizer::{BYTE, CONTROL, LLAMA3, NORMAL, QWEN2, UNKNOWN, UNUSED, USER_DEFINED};
use crate::model::text::added_tokens::token_text;
use crate::model::text::tokenizer::Tokenizer;

/// Builds `tokenizer.*`. Adds a note for each difference between llama.cpp and the model's own tokenizer.
pub(super) fn of(tokenizer: &Tokenizer, config: &Config, notes: &mut Vec<String>) -> Result<MetadataTable> {
    let files = tokenizer.files();
    let broken = |e: serde_json::Error| Error::user(format!("tokenizer.json: {e}"));
    let json: Json = serde_json::from_str(&files.tokenizer).map_err(broken)?;
    let model = Bpe::read(&json)?;
    let (tokens, types) = vocabulary(tokenizer, &json, &model, config.vocab_size)?;

    let mut all = MetadataTable::new();
    let mut put = |key: &str, value: WrittenValue| all.push((format!("tokenizer.{key}"), value));
    if model.byte_fallback {
        let prefix = space_prefix(&json, notes)?;
        put("ggml.model", WrittenValue::Text("llama".into()));
        put("ggml.pre", WrittenValue::Text("default".into()));
        put("ggml.scores", WrittenValue::F32s(scores(&tokens, &types, &model.merges)?));
        put("ggml.add_space_prefix", WrittenValue::Bool(prefix));
    } else {
        put("ggml.add_space_prefix", WrittenValue::Bool(false));
        put("ggml.model", WrittenValue::Text("gpt2".into()));
        put("ggml.pre", WrittenValue::Text(words(&json, model.whole_words, notes)?.into()));
        if let Some((a, b)) = model.merges.iter().find(|(a, b)| a.contains(' ') || b.contains(' ')) {
            return Err(cannot(&format!("it merges `{a}` and `{b}`, and one of them contains a space")));
        }
        put("ggml.merges", WrittenValue::Texts(model.merges.iter().map(|(a, b)| format!("{a} {b}")).collect()));
    }
    put("ggml.tokens", WrittenValue::Texts(tokens));
    put("ggml.token_type", WrittenValue::I32s(types));

    let named = |key: &str| tokenizer.token_id(&token_text(files.config.get(key)?)?);
    let bos = tokenizer.bos_id().or(config.bos_token_id);
    let ends = ends(tokenizer, named("eos_token"), config)?;
    for (key, id) in
        [("bos", bos), ("unknown", named("unk_token").or(model.unknown(tokenizer))), ("padding", named("pad_token"))]
            .into_iter()
            .chain(["eos", "eot", "eom"].into_iter().zip(ends.into_iter().map(Some)))
    {
        if let Some(id) = id {
            put(&format!("ggml.{key}_token_id"), WrittenValue::U32(id));
        }
    }
    let add_bos = match files.config.get("add_bos_token") {
        Some(Json::Bool(add)) => *add,
        _ => bos.and_then(|id| tokenizer.token(id)).is_some_and(|bos| begins_with(&json["post_processor"], &bos)),
    };
    put("ggml.add_bos_token", WrittenValue::Bool(add_bos && bos.is_some()));
    if let Some(template) = tokenizer.chat_template() {
        put("chat_template", WrittenValue::Text(template.into()));
    }
    Ok(all)
}

fn cannot(why: &str) -> Error {
    Error::user(format!("the tokenizer cannot be expressed in GGUF: {why}"))
        .help("byte-level BPE that cuts words as GPT-2, SmolLM, Llama 3 or Qwen 2 do, and SentencePiece BPE, can be")
}

/// The `model` of tokenizer.json.
struct Bpe<'a> {
    vocab: &'a Map<String, Json>,
    merges: Vec<(String, String)>,
    /// SentencePiece: text outside the vocabulary is spelled in bytes.
    byte_fallback: bool,
    /// A word that is itself a token is used as it is, without merges.
    whole_words: bool,
    unknown: Option<&'a str>,
}

impl<'a> Bpe<'a> {
    fn read(json: &'a Json) -> Result<Self> {
        let model = &json["model"];
        let kind = model["type"].as_str().unwrap_or("BPE");
        let (Some(vocab), Some(merges), "BPE") = (model["vocab"].as_object(), model["merges"].as_array(), kind) else {
            return Err(cannot(&format!("it is of kind {kind}, not BPE")));
        };
        for key in ["continuing_subword_prefix", "end_of_word_suffix"] {
            if model[key].as_str().is_some_and(|s| !s.is_empty()) {
                return Err(cannot(&format!("it has a {key}")));
            }
        }
        let merge = |m: &Json| match m {
            Json::String(both) => both.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())),
            _ => Some((m[0].as_str()?.to_owned(), m[1].as_str()?.to_owned())),
        };
        let merges = merges.iter().map(|m| merge(m).ok_or_else(|| cannot(&format!("{m} is not a merge"))));
        Ok(Self {
            vocab,
            merges: merges.collect::<Result<_>>()?,
            byte_fallback: model["byte_fallback"] == true,
            whole_words: model["ignore_merges"] == true,
            unknown: model["unk_token"].as_str(),
        })
    }

    fn unknown(&self, tokenizer: &Tokenizer) -> Option<u32> {
        tokenizer.token_id(self.unknown?)
    }
}

/// Returns the spelling and type of every row of the embedding. Rows without a token get the names of
/// llama.cpp's converter.
fn vocabulary(tokenizer: &Tokenizer, json: &Json, model: &Bpe<'_>, rows: usize) -> Result<(Vec<String>, Vec<i32>)> {
    let mut tokens: Vec<String> = (0..rows).map(|i| format!("[PAD{i}]")).collect();
    let mut types = vec![UNUSED; rows];
    let place = |id: Option<u64>, token: &str| {
        let place = id.and_then(|id| usize::try_from(id).ok()).filter(|id| *id < rows);
        place.ok_or_else(|| Error::user(format!("the tokenizer's `{token}` has no row in the embedding")))
    };
    for (token, id) in model.vocab {
        let id = place(id.as_u64(), token)?;
        let byte = model.byte_fallback && is_byte(token);
        (tokens[id], types[id]) = (token.clone(), if byte { BYTE } else { NORMAL });
    }
    for added in json["added_tokens"].as_array().into_iter().flatten() {
        let content = added["content"].as_str().unwrap_or_default();
        let id = place(added["id"].as_u64(), content)?;
        if let Some(key) = ["single_word", "lstrip", "rstrip"].iter().find(|k| added[**k] == true) {
            return Err(cannot(&format!("its token `{content}` is {key}")));
        }
        (tokens[id], types[id]) = (content.to_owned(), USER_DEFINED);
    }
    for (id, kind) in types.iter_mut().enumerate() {
        if *kind != UNUSED && tokenizer.is_special(id as u32) {
            *kind = CONTROL;
        }
    }
    if let Some(id) = model.unknown(tokenizer).filter(|_| model.byte_fallback) {
        types[id as usize] = UNKNOWN;
    }
    Ok((tokens, types))
}

/// Whether a token stands for a byte, like `<0x0A>`.
fn is_byte(token: &str) -> bool {
    let digits = token.strip_prefix("<0x").and_then(|t| t.strip_suffix('>'));
    digits.is_some_and(|d| d.len() == 2 && d.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Returns llama.cpp's name for the rule by which a byte-level tokenizer splits text into words.
fn words(json: &Json, whole_words: bool, notes: &mut Vec<String>) -> Result<&'static str> {
    let pre = &json["pre_tokenizer"];
    let steps = if pre["type"] == "Sequence" { pre["pretokenizers"].as_array().cloned() } else { None };
    let steps = steps.unwrap_or_else(|| vec![pre.clone()]);
    let bytes = |step: &Json, regex: bool| {
        step["type"] == "ByteLevel" && step["add_prefix_space"] == false && (step["use_regex"] != false) == regex
    };
    let splits = |step: &Json, regex: &str| {
        let way = step["behavior"] == "Isolated" && step["invert"] != true;
        step["type"] == "Split" && way && step["pattern"]["Regex"] == regex
    };
    let name = match steps.as_slice() {
        [b] if bytes(b, true) => "gpt-2",
        [d, b] if d["type"] == "Digits" && d["individual_digits"] == true && bytes(b, true) => "smollm",
        [s, b] if splits(s, LLAMA3) && bytes(b, false) => "llama-bpe",
        [s, b] if splits(s, QWEN2) && bytes(b, false) => "qwen2",
        _ => return Err(cannot("llama.cpp has no name for its pre_tokenizer")),
    };
    if whole_words != (name == "llama-bpe") {
        return Err(cannot(&format!("ignore_merges is {whole_words}, and llama.cpp uses the opposite for {name}")));
    }
    match &json["normalizer"] {
        Json::Null => {}
        n if n["type"] == "NFC" => notes.push("llama.cpp does not bring text to NFC, as the tokenizer does".into()),
        n => return Err(cannot(&format!("it has a normalizer, {}", n["type"]))),
    }
    Ok(name)
}

/// Whether a SentencePiece tokenizer puts a space before a text.
fn space_prefix(json: &Json, notes: &mut Vec<String>) -> Result<bool> {
    let (normalizer, pre) = (&json["normalizer"], &json["pre_tokenizer"]);
    let steps = if normalizer["type"] == "Sequence" { normalizer["normalizers"].as_array().cloned() } else { None };
    let steps = steps.unwrap_or_else(|| if normalizer.is_null() { Vec::new() } else { vec![normalizer.clone()] });
    let prepends = |s: &Json| s["type"] == "Prepend" && s["prepend"] == "▁";
    let replaces = |s: &Json| s["type"] == "Replace" && s["pattern"]["String"] == " " && s["content"] == "▁";
    match (steps.as_slice(), pre["type"].as_str()) {
        ([p, r], None) if prepends(p) && replaces(r) => Ok(true),
        ([r], None) if replaces(r) => Ok(false),
        ([], Some("Metaspace")) if pre["replacement"] == "▁" && pre["split"] == false => {
            let scheme = pre["prepend_scheme"].as_str().unwrap_or("always");
            if scheme == "never" {
                return Ok(false);
            }
            let other = if scheme == "first" {
                "only at the start of a text, and only if the text has none"
            } else {
                "only if the text has none"
            };
            notes.push(format!(
                "llama.cpp puts a space before every stretch of text between special tokens, the model's own tokenizer {other}"
            ));
            Ok(true)
        }
        _ => Err(cannot("its normalizer and pre_tokenizer are not SentencePiece's")),
    }
}

/// Computes scores that are equivalent to a merge list. SentencePiece merges the neighbours whose whole has
/// the best score; a merge list applies merges in its order. The score of a whole is its place among the
/// wholes. Wholes whose merges interleave share one score.
fn scores(tokens: &[String], types: &[i32], merges: &[(String, String)]) -> Result<Vec<f32>> {
    let plain = |id: usize| matches!(types[id], NORMAL | USER_DEFINED);
    let ids: BTreeMap<&str, usize> = tokens.iter().enumerate().rev().map(|(id, t)| (t.as_str(), id)).collect();
    let listed: BTreeSet<(&str, &str)> = merges.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    for (_, token) in tokens.iter().enumerate().filter(|(id, _)| plain(*id)) {
        let mut halves = token.char_indices().skip(1).map(|(i, _)| token.split_at(i));
        let missing = halves.find(|(a, b)| ids.contains_key(a) && ids.contains_key(b) && !listed.contains(&(*a, *b)));
        if let Some((a, b)) = missing {
            return Err(cannot(&format!("`{a}` and `{b}` do not merge, though `{token}` is a token")));
        }
    }
    // First and last merge of each whole.
    let mut ranges: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
    for (rank, (a, b)) in merges.iter().enumerate() {
        if let Some(&id) = ids.get(format!("{a}{b}").as_str()).filter(|id| plain(**id)) {
            ranges.entry(id).or_insert((rank, rank)).1 = rank;
        }
    }
    let mut order: Vec<((usize, usize), usize)> = ranges.into_iter().map(|(id, range)| (range, id)).collect();
    order.sort_unstable();
    // Tokens that no merge produces come last; their score is never used.
    let lowest = -(order.len() as f32);
    let mut scores: Vec<f32> =
        types.iter().map(|kind| if matches!(*kind, NORMAL | USER_DEFINED) { lowest } else { 0. }).collect();
    let (mut place, mut end) = (0f32, None);
    for (i, ((first, last), id)) in order.into_iter().enumerate() {
        if end.is_none_or(|end| first > end) {
            place = -(i as f32);
        }
        end = end.max(Some(last));
        scores[id] = place;
    }
    Ok(scores)
}

/// Returns up to three tokens that end a text: llama.cpp's end of sequence, of turn and of message.
fn ends(tokenizer: &Tokenizer, eos: Option<u32>, config: &Config) -> Result<Vec<u32>> {
    let of_config = config.eos_token_id.as_ref().map_or(&[][..], |e| e.ids());
    let mut ends = Vec::new();
    for id in eos
        .into_iter()
        .chain(tokenizer.end_of_turn())
        .chain(of_config.iter().copied())
        .chain(tokenizer.eos_ids().iter().copied())
    {
        if !ends.contains(&id) && (id as usize) < tokenizer.vocab_size() {
            ends.push(id);
        }
    }
    match ends.len() {
        0 => Err(cannot("no token ends a text, and llama.cpp would use another token for that")),
        1..=3 => Ok(ends),
        n => Err(cannot(&format!("{n} tokens end a text, and there is room for three"))),
    }
}

/// Whether the post-processor puts this token before a text.
fn begins_with(post: &Json, token: &str) -> bool {
    let inner = post["processors"].as_array().into_iter().flatten().any(|p| begins_with(p, token));
    inner || (post["type"] == "TemplateProcessing" && post["single"][0]["SpecialToken"]["id"] == token)
}
