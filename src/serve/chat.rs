//! `/v1/chat/completions`.
//!
//! The text of a message never becomes a special token, so no message can end its turn or begin another one.

use std::sync::PoisonError;

use serde_json::{Map, Value, json};

use super::api_error::ApiError;
use super::completions::{answer_tokens, reply_id, usage, wanted};
use super::fields::RequestFields;
use super::job::{EncodedPrompt, Interface, JobOutcome, ServeJob};
use super::logprobs::{TokenNames, value};
use super::options::{CompletionOptions, MAX_TOP, check_model};
use super::state::{ReadBody, ServerState};
use crate::engine::Message;

type Result<T> = std::result::Result<T, ApiError>;

/// Reads a request.
pub(super) fn job(state: &ServerState, body: ReadBody) -> Result<ServeJob> {
    let (id, messages, options) = parse(state, body)?;
    let ids = encode(state, &messages)?;
    let prompts = vec![EncodedPrompt { ids: ids.into(), text: None }];
    let job = ServeJob { interface: Interface::Chat, id, prompts, echo: false, options };
    job.check(state)?;
    Ok(job)
}

/// The token ids of a conversation, up to the beginning of the answer.
pub(super) fn encode(state: &ServerState, messages: &[Message]) -> Result<Vec<u32>> {
    state.engine.codec().encode(messages).map_err(|e| {
        let help = e.help_text().map(|help| format!("; {help}")).unwrap_or_default();
        ApiError::field("messages", format!("{e}{help}")).code("template")
    })
}

fn parse(state: &ServerState, body: ReadBody) -> Result<(String, Vec<Message>, CompletionOptions)> {
    let _one = state.parsing.lock().unwrap_or_else(PoisonError::into_inner);
    let mut fields = RequestFields::parse(&body.bytes)?;
    check_model(&mut fields, state)?;
    let messages = match fields.take("messages") {
        Some(list) => messages(list)?,
        None => return Err(ApiError::field("messages", "`messages` is missing")),
    };
    let newer = fields.count("max_completion_tokens", 0..=u64::MAX)?;
    let older = fields.count("max_tokens", 0..=u64::MAX)?;
    if let (Some(newer), Some(older)) = (newer, older)
        && newer != older
    {
        let message = "`max_tokens` and `max_completion_tokens` differ; leave one of them out";
        return Err(ApiError::field("max_tokens", message));
    }
    // An answer ends with the context at the latest.
    let max_tokens = newer.or(older).unwrap_or(state.size.context);
    let listed = fields.count("top_logprobs", 0..=MAX_TOP)?;
    let logprobs = match (fields.flag("logprobs", false)?, listed) {
        (true, listed) => Some(listed.unwrap_or(0)),
        (false, None | Some(0)) => None,
        (false, Some(_)) => {
            return Err(ApiError::field("top_logprobs", "`top_logprobs` has no effect without `logprobs: true`"));
        }
    };
    let options = CompletionOptions::read(&mut fields, state, 1, logprobs, max_tokens)?;
    turns_only(&mut fields)?;
    let leave_out = "leave it out";
    fields.neutral("echo", &[json!(false)], "use /v1/completions")?;
    fields.neutral("response_format", &[json!({ "type": "text" })], leave_out)?;
    fields.neutral("tools", &[json!([])], leave_out)?;
    fields.neutral("tool_choice", &[json!("none"), json!("auto")], leave_out)?;
    fields.neutral("store", &[json!(false)], leave_out)?;
    fields.finish()?;
    Ok((reply_id("chatcmpl", state, &body.bytes), messages, options))
}

/// Refuses other ways to end the prompt than with the beginning of an answer.
pub(super) fn turns_only(fields: &mut RequestFields) -> Result<()> {
    let ids = "send token ids to /v1/completions";
    fields.neutral("add_generation_prompt", &[json!(true)], ids)?;
    fields.neutral("continue_final_message", &[json!(false)], ids)?;
    // The chat template writes them.
    fields.neutral("add_special_tokens", &[json!(false)], ids)
}

/// Reads a list of messages.
pub(super) fn messages(list: Value) -> Result<Vec<Message>> {
    let Value::Array(list) = list else {
        return Err(ApiError::field("messages", "`messages` must be a list of messages"));
    };
    if list.is_empty() {
        return Err(ApiError::field("messages", "`messages` is empty; add a message of the user"));
    }
    list.into_iter().enumerate().map(|(i, turn)| message(i, turn)).collect()
}

fn message(index: usize, turn: Value) -> Result<Message> {
    let bad = |what: &str| ApiError::field(format!("messages[{index}]"), format!("messages[{index}] {what}"));
    let Value::Object(turn) = turn else { return Err(bad("must be an object with `role` and `content`")) };
    let role = turn.get("role").and_then(Value::as_str).ok_or_else(|| bad("must have a `role`, a text"))?.to_owned();
    let content = turn.get("content").and_then(text);
    let content = content.ok_or_else(|| bad("must have `content`: a text, or a list of parts of type `text`"))?;
    // The chat template sees further keys. It sees the content as a text.
    let further = |(key, value): &(&String, &Value)| *key != "role" && *key != "content" && !value.is_null();
    let keys = turn.iter().any(|pair| further(&pair)).then(|| {
        let shown = turn.iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| match key.as_str() {
            "content" => (key.clone(), json!(content)),
            _ => (key.clone(), value.clone()),
        });
        shown.collect::<Map<String, Value>>()
    });
    Ok(Message { role, content, keys })
}

/// The text of a content.
fn text(content: &Value) -> Option<String> {
    let part = |part: &Value| match part.get("type").and_then(Value::as_str) {
        Some("text") => part.get("text")?.as_str().map(str::to_owned),
        _ => None,
    };
    match content {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => parts.iter().map(part).collect(),
        _ => None,
    }
}

/// The reply to a job.
pub(super) fn reply(state: &ServerState, job: &ServeJob, outcome: &JobOutcome) -> Value {
    let options = &job.options;
    let names = TokenNames { codec: state.engine.codec(), ids: options.names_are_ids };
    let wanted = wanted(job, outcome, 0);
    let choice = |(index, answer): (usize, &crate::engine::Completion)| {
        let logprobs = options.logprobs.map(|_| names.chat(&answer_tokens(outcome, &wanted, index, answer)));
        let mut choice = json!({
            "index": index,
            "message": { "role": "assistant", "content": answer.text, "refusal": null },
            "logprobs": logprobs,
            "finish_reason": answer.finish.as_str(),
        });
        if options.token_ids {
            choice["token_ids"] = json!(answer.tokens);
        }
        if let Some(logprobs) = outcome.wanted.first() {
            choice["logprob_token_ids"] = logprobs.iter().map(|&logprob| value(logprob)).collect();
        }
        choice
    };
    let choices: Vec<Value> = outcome.answers.iter().enumerate().map(choice).collect();
    let mut reply = json!({
        "id": job.id,
        "object": "chat.completion",
        "created": state.started,
        "model": state.name,
        "system_fingerprint": state.fingerprint(),
        "choices": choices,
        "usage": usage(job, &outcome.answers),
    });
    if options.token_ids {
        reply["prompt_token_ids"] = json!(job.prompts[0].ids[..]);
    }
    reply
}
