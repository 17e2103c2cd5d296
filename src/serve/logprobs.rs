//! Log-probabilities in replies.
//!
//! They are f32 and are written as the f64 of the same value, so that they are read back exactly.

use serde_json::{Map, Value, json};

use crate::engine::Codec;

/// A token of a reply with what is known of it.
pub(super) struct ScoredToken<'a> {
    pub id: u32,
    /// None for the first token of a prompt, which follows nothing.
    pub logprob: Option<f32>,
    /// Tokens that are listed beside it.
    pub listed: Vec<&'a (u32, f32)>,
}

/// Writes tokens.
pub(super) struct TokenNames<'a> {
    pub codec: &'a dyn Codec,
    /// Every token is `token_id:N`.
    pub ids: bool,
}

impl TokenNames<'_> {
    /// The text of a token, and whether it is the token's own text. A part of a character has no text of its own.
    fn name(&self, id: u32) -> (String, bool) {
        let text = if self.ids { String::new() } else { self.codec.piece(id) };
        if text.is_empty() || text.contains('\u{fffd}') { (format!("token_id:{id}"), false) } else { (text, true) }
    }

    /// In the form of `/v1/completions`, and the number of characters up to the end. The tokens come after `offset`
    /// characters.
    pub fn completion(&self, tokens: &[ScoredToken<'_>], mut offset: usize) -> (Value, usize) {
        let (mut names, mut logprobs, mut tops, mut offsets) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for token in tokens {
            let name = self.name(token.id).0;
            offsets.push(offset);
            offset += self.codec.piece(token.id).chars().count();
            logprobs.push(token.logprob.map_or(Value::Null, value));
            tops.push(token.logprob.map_or(Value::Null, |own| {
                let mut top = Map::new();
                for &&(id, logprob) in &token.listed {
                    let mut key = self.name(id).0;
                    // Two tokens may have the same text.
                    if top.contains_key(&key) || (key == name && id != token.id) {
                        key = format!("token_id:{id}");
                    }
                    top.insert(key, value(logprob));
                }
                top.entry(name.clone()).or_insert_with(|| value(own));
                Value::Object(top)
            }));
            names.push(name);
        }
        let value =
            json!({ "tokens": names, "token_logprobs": logprobs, "top_logprobs": tops, "text_offset": offsets });
        (value, offset)
    }

    /// In the form of `/v1/chat/completions`.
    pub fn chat(&self, tokens: &[ScoredToken<'_>]) -> Value {
        let entry = |id: u32, logprob: f32| {
            let (name, is_text) = self.name(id);
            let bytes = is_text.then(|| name.as_bytes().to_vec());
            json!({ "token": name, "logprob": value(logprob), "bytes": bytes })
        };
        let content = tokens.iter().map(|token| {
            let mut own = entry(token.id, token.logprob.unwrap_or_default());
            own["top_logprobs"] = token.listed.iter().map(|&&(id, logprob)| entry(id, logprob)).collect();
            own
        });
        json!({ "content": content.collect::<Vec<Value>>() })
    }
}

/// A log-probability as JSON.
pub(super) fn value(logprob: f32) -> Value {
    json!(f64::from(logprob))
}
