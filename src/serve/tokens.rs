//! `/tokenize` and `/detokenize`, as vLLM spells them.

use std::sync::PoisonError;

use serde_json::{Value, json};

use super::api_error::ApiError;
use super::chat;
use super::fields::RequestFields;
use super::options::check_model;
use super::state::{ReadBody, ServerState};
use crate::engine::Message;

type Result<T> = std::result::Result<T, ApiError>;

/// What to convert to token ids.
enum TokenizeInput {
    /// A text, and whether it gets the tokens that the tokenizer puts around every text.
    Text(String, bool),
    Conversation(Vec<Message>),
}

/// Answers `/tokenize`: the token ids of a text or a conversation. Text never becomes a special token.
pub(super) fn tokenize(state: &ServerState, body: ReadBody) -> Result<Value> {
    let (source, spelled) = parse(state, body)?;
    let codec = state.engine.codec();
    let ids = match source {
        TokenizeInput::Text(text, mark) => codec.encode_prompt(&text, mark)?,
        TokenizeInput::Conversation(messages) => chat::encode(state, &messages)?,
    };
    let mut reply = json!({ "count": ids.len(), "max_model_len": state.size.context, "tokens": ids });
    if spelled {
        reply["token_strs"] = ids.iter().map(|&id| codec.piece(id)).collect();
    }
    Ok(reply)
}

fn parse(state: &ServerState, body: ReadBody) -> Result<(TokenizeInput, bool)> {
    let _one = state.parsing.lock().unwrap_or_else(PoisonError::into_inner);
    let mut fields = RequestFields::parse(&body.bytes)?;
    check_model(&mut fields, state)?;
    let spelled = fields.flag("return_token_strs", false)?;
    let source = match (fields.text("prompt")?, fields.take("messages")) {
        (Some(text), None) => TokenizeInput::Text(text, fields.flag("add_special_tokens", true)?),
        (None, Some(messages)) => {
            chat::turns_only(&mut fields)?;
            TokenizeInput::Conversation(chat::messages(messages)?)
        }
        _ => return Err(ApiError::field("prompt", "give either `prompt`, a text, or `messages`")),
    };
    fields.finish()?;
    Ok((source, spelled))
}

/// Answers `/detokenize`: the text of token ids, with special tokens spelled out.
pub(super) fn detokenize(state: &ServerState, body: ReadBody) -> Result<Value> {
    let ids = {
        let _one = state.parsing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut fields = RequestFields::parse(&body.bytes)?;
        check_model(&mut fields, state)?;
        let ids = fields.ids("tokens", state.size.vocab)?;
        fields.finish()?;
        ids.ok_or_else(|| ApiError::field("tokens", "`tokens` is missing"))?
    };
    Ok(json!({ "prompt": state.engine.codec().spell(&ids) }))
}
