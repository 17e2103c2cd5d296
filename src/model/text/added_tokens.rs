//! Adds the tokens that tokenizer_config.json names and tokenizer.json lacks. transformers adds them when
//! it loads the tokenizer. Without them, a chat template that writes such a token would produce its letters
//! instead.

use std::collections::BTreeSet;

use serde_json::{Map, Value as Json, json};

use crate::error::{Error, Result};

/// Keys of tokenizer_config.json that name one special token each.
const NAMED: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
/// Keys that list more special tokens.
const LISTS: [&str; 2] = ["additional_special_tokens", "extra_special_tokens"];

/// A token to add.
struct AddedToken {
    content: String,
    /// The id that the file assigns, if any.
    id: Option<u64>,
    /// The entry for tokenizer.json, without `id`.
    entry: Json,
}

/// Adds missing tokens to `added_tokens`. Returns whether any were missing.
///
/// # Errors
/// A new token would not get the id that `added_tokens_decoder` gives it.
pub(crate) fn complete(tokenizer: &mut Json, config: &Map<String, Json>) -> Result<bool> {
    let listed = tokenizer["added_tokens"].as_array().cloned().unwrap_or_default();
    let mut known: BTreeSet<String> = listed.iter().filter_map(|t| Some(t["content"].as_str()?.to_string())).collect();
    let mut next = next_id(tokenizer, &listed);
    let mut added = Vec::new();
    for token in wanted(config) {
        if token.content.is_empty() || !known.insert(token.content.clone()) {
            continue;
        }
        let id = match in_vocabulary(tokenizer, &token.content) {
            Some(id) => id,
            None => {
                next += 1;
                next - 1
            }
        };
        if let Some(stated) = token.id.filter(|stated| *stated != id) {
            return Err(Error::user(format!(
                "added_tokens_decoder gives the token {:?} the id {stated}; after tokenizer.json it is {id}",
                token.content
            ))
            .help("one of the two files belongs to another model, or tokens before it are missing"));
        }
        let mut entry = token.entry;
        entry["id"] = id.into();
        added.push(entry);
    }
    if added.is_empty() {
        return Ok(false);
    }
    let mut all = listed;
    all.extend(added);
    match tokenizer.as_object_mut() {
        Some(object) => drop(object.insert("added_tokens".into(), Json::Array(all))),
        None => return Ok(false),
    }
    Ok(true)
}

/// Returns the tokens that the file names, in the order in which transformers adds them.
fn wanted(config: &Map<String, Json>) -> Vec<AddedToken> {
    let mut tokens = Vec::new();
    if let Some(Json::Object(decoder)) = config.get("added_tokens_decoder") {
        let by_id = decoder.iter().filter_map(|(id, token)| Some((id.parse::<u64>().ok()?, token)));
        tokens.extend(by_id.filter_map(|(id, token)| one(token, Some(id), false)));
        tokens.sort_by_key(|t| t.id);
    }
    tokens.extend(NAMED.iter().filter_map(|key| one(config.get(*key)?, None, true)));
    for key in LISTS {
        match config.get(key) {
            Some(Json::Array(list)) => tokens.extend(list.iter().filter_map(|token| one(token, None, true))),
            Some(Json::Object(named)) => tokens.extend(named.values().filter_map(|token| one(token, None, true))),
            _ => {}
        }
    }
    tokens
}

/// Parses a token given as text or as an object. `special` applies if the object does not specify it.
fn one(token: &Json, id: Option<u64>, special: bool) -> Option<AddedToken> {
    let content = token_text(token)?;
    let flag = |key: &str, default: bool| token.get(key).and_then(Json::as_bool).unwrap_or(default);
    // A token in one of the lists is special, whatever its object specifies.
    let special = special || flag("special", false);
    let entry = json!({
        "id": 0, "content": content, "single_word": flag("single_word", false), "lstrip": flag("lstrip", false),
        "rstrip": flag("rstrip", false), "normalized": flag("normalized", !special), "special": special,
    });
    Some(AddedToken { content, id, entry })
}

/// Returns the id that the tokenizer library will assign to the next token.
fn next_id(tokenizer: &Json, listed: &[Json]) -> u64 {
    let vocabulary = match &tokenizer["model"]["vocab"] {
        Json::Object(vocabulary) => vocabulary.len() as u64,
        Json::Array(vocabulary) => vocabulary.len() as u64,
        _ => 0,
    };
    let last = listed.iter().filter_map(|t| t["id"].as_u64()).max();
    last.map_or(vocabulary, |last| vocabulary.max(last.saturating_add(1)))
}

fn in_vocabulary(tokenizer: &Json, content: &str) -> Option<u64> {
    match &tokenizer["model"]["vocab"] {
        Json::Object(vocabulary) => vocabulary.get(content)?.as_u64(),
        Json::Array(pieces) => {
            let at = pieces.iter().position(|piece| piece[0].as_str() == Some(content));
            at.map(|at| at as u64)
        }
        _ => None,
    }
}

/// Returns the text of a token in tokenizer_config.json: a string, or an object with `content`.
pub(crate) fn token_text(value: &Json) -> Option<String> {
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_string)
}
