//! Replies of servers. Everything in them is untrusted: nothing is taken without a check.

use serde_json::Value;

use super::usage::Usage;
use crate::data::{JsonFault, one_line, parse_json_up_to};
use crate::engine::request::{Finish, RequestError};

/// The answer to a completion request.
pub(super) struct TokenReply {
    /// Token ids of the answer.
    pub tokens: Vec<u32>,
    /// Natural log-probability of each token.
    pub logprobs: Vec<f32>,
    /// Why the server ended it.
    pub finish: Finish,
    /// Token ids of the prompt, if the server returns them.
    pub prompt: Option<Vec<u32>>,
    /// The ids and log-probabilities that the server lists for the first position.
    pub listed: Vec<(u32, f32)>,
    /// The log-probabilities of the tokens that the request names, as `reflux serve` writes them.
    pub named: Option<Vec<f32>>,
}

/// The answer to a chat request.
pub(super) struct ChatReply {
    /// The text.
    pub text: String,
    /// Why the server ended it.
    pub finish: Finish,
}

/// Maximum number of values in a body. An answer of 100,000 tokens with log-probabilities has half of them, and each
/// takes about seventy bytes of memory, whatever its length in the body.
const MAX_VALUES: usize = 4 << 20;
/// Maximum number of tokens that a reply may count. Sums of counts then cannot overflow.
const MAX_COUNT: u64 = u32::MAX as u64;

/// A body as JSON.
pub(super) fn json(body: &[u8]) -> Result<Value, RequestError> {
    parse_json_up_to(MAX_VALUES, body).map_err(|fault| match fault {
        JsonFault::TooManyValues(most) => bad(format!("has more than {most} values")),
        // Two readers of such a reply may take another value each.
        JsonFault::DuplicateKey(key) => bad(format!("has the key `{}` twice in one object", shortened(&key))),
        JsonFault::Json(e) => bad(format!("is not JSON: {e}")),
    })
}

/// The error for a reply that cannot be used, with words that follow "the server's reply".
pub(super) fn bad(what: impl std::fmt::Display) -> RequestError {
    RequestError { code: "bad_reply", message: format!("the server's reply {what}") }
}

/// Reads `usage`; zeros where the server does not count. A count that no reply has is the largest one, so that it spends
/// a budget and does not wrap around.
pub(super) fn usage(reply: &Value) -> Usage {
    let usage = &reply["usage"];
    let count = |value: &Value| value.as_u64().map(|n| n.min(MAX_COUNT));
    // llama.cpp has the second one in every version, and the first one in newer ones.
    let cached =
        count(&usage["prompt_tokens_details"]["cached_tokens"]).or_else(|| count(&reply["timings"]["cache_n"]));
    Usage {
        prompt: count(&usage["prompt_tokens"]).unwrap_or(0),
        cached,
        sampled: count(&usage["completion_tokens"]).unwrap_or(0),
    }
}

/// The only choice of a reply, and why it ended.
fn choice(reply: &Value) -> Result<(&Value, Finish), RequestError> {
    let choices = reply["choices"].as_array().map_or(&[][..], Vec::as_slice);
    let [choice] = choices else {
        return Err(bad(format!("has {} choices, and one was requested", choices.len())));
    };
    match choice["finish_reason"].as_str() {
        Some("stop") => Ok((choice, Finish::Stop)),
        Some("length") => Ok((choice, Finish::Length)),
        Some(other) => Err(bad(format!("ends with {:?}, which is not an answer", shortened(other)))),
        None => Err(bad("has no finish_reason")),
    }
}

/// Reads a chat completion.
pub(super) fn chat(reply: &Value) -> Result<ChatReply, RequestError> {
    let (choice, finish) = choice(reply)?;
    match choice["message"]["content"].as_str() {
        Some(text) => Ok(ChatReply { text: text.to_owned(), finish }),
        None => Err(bad("has no text")),
    }
}

/// Reads a completion with token ids and log-probabilities, as vLLM, `reflux serve` or llama.cpp write it.
pub(super) fn tokens(reply: &Value) -> Result<TokenReply, RequestError> {
    let (choice, finish) = choice(reply)?;
    let prompt = choice["prompt_token_ids"].as_array().map(|ids| ids_of(ids)).transpose()?;
    let logprobs = &choice["logprobs"];
    if let Some(content) = logprobs["content"].as_array() {
        return llama(content, finish, prompt);
    }
    let Some(ids) = choice["token_ids"].as_array() else { return Err(bad("has no token ids")) };
    let tokens = ids_of(ids)?;
    let given = logprobs["token_logprobs"].as_array().map_or(&[][..], Vec::as_slice);
    let logprobs_of = given.iter().map(drawn_logprob).collect::<Result<Vec<f32>, _>>()?;
    if logprobs_of.len() != tokens.len() {
        return Err(bad(format!("has {} log-probabilities for {} tokens", logprobs_of.len(), tokens.len())));
    }
    let listed = logprobs["top_logprobs"][0].as_object().into_iter().flatten();
    let listed = listed.filter_map(|(name, value)| Some((token_id(name)?, value)));
    let listed = listed.map(|(id, value)| Ok((id, logprob(value)?))).collect::<Result<_, _>>()?;
    let named = choice["logprob_token_ids"].as_array();
    let named = named.map(|values| values.iter().map(logprob).collect()).transpose()?;
    Ok(TokenReply { tokens, logprobs: logprobs_of, finish, prompt, listed, named })
}

/// Reads the log-probabilities of llama.cpp, which carry the ids.
fn llama(content: &[Value], finish: Finish, prompt: Option<Vec<u32>>) -> Result<TokenReply, RequestError> {
    let pair = |token: &Value| Ok((id(&token["id"])?, logprob(&token["logprob"])?));
    let drawn = |token: &Value| Ok((id(&token["id"])?, drawn_logprob(&token["logprob"])?));
    let pairs = content.iter().map(drawn).collect::<Result<Vec<(u32, f32)>, RequestError>>()?;
    let listed = content.first().and_then(|first| first["top_logprobs"].as_array()).into_iter().flatten();
    let listed = listed.map(pair).collect::<Result<_, _>>()?;
    let (tokens, logprobs) = pairs.into_iter().unzip();
    Ok(TokenReply { tokens, logprobs, finish, prompt, listed, named: None })
}

fn ids_of(values: &[Value]) -> Result<Vec<u32>, RequestError> {
    values.iter().map(id).collect()
}

fn id(value: &Value) -> Result<u32, RequestError> {
    value.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| bad("has a token id that is not a number"))
}

/// A log-probability. JSON has no infinity, so servers write null or a large negative number for it.
fn logprob(value: &Value) -> Result<f32, RequestError> {
    match value.as_f64() {
        Some(x) if x <= 1e-3 => Ok(x.min(0.) as f32),
        Some(x) => Err(bad(format!("has a log-probability of {x}"))),
        None if value.is_null() => Ok(f32::NEG_INFINITY),
        None => Err(bad("has a log-probability that is not a number")),
    }
}

/// The log-probability of a token that was drawn. It cannot be that of an impossible one: a loss would be infinite.
fn drawn_logprob(value: &Value) -> Result<f32, RequestError> {
    match logprob(value)? {
        x if x.is_finite() => Ok(x),
        _ => Err(bad("has a token that was drawn with probability zero")),
    }
}

/// The id in a name such as `token_id:23`.
fn token_id(name: &str) -> Option<u32> {
    name.strip_prefix("token_id:")?.parse().ok()
}

/// The beginning of a text from a server, on one line and without characters that steer a terminal.
pub(super) fn shortened(text: &str) -> String {
    one_line(&text.chars().take(200).collect::<String>()).into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn completion(choice: Value) -> Value {
        json!({"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})
    }

    #[test]
    fn replies_of_each_server_are_read() {
        let vllm = completion(json!({
            "index": 0, "text": "'N", "finish_reason": "length", "token_ids": [23, 19815], "prompt_token_ids": [1, 9690],
            "logprobs": {"token_logprobs": [-7.5, -6.25], "tokens": ["token_id:23", "token_id:19815"],
                "top_logprobs": [{"token_id:23": -7.5, "token_id:504": -1.75}, {}]}
        }));
        let read = tokens(&vllm).unwrap();
        assert_eq!((read.tokens, read.logprobs), (vec![23, 19815], vec![-7.5, -6.25]));
        assert_eq!((read.prompt, read.listed), (Some(vec![1, 9690]), vec![(23, -7.5), (504, -1.75)]));
        assert_eq!(usage(&vllm).sampled, 2);
        let llama = completion(json!({
            "text": "A", "finish_reason": "stop",
            "logprobs": {"content": [{"id": 49, "logprob": -1.5, "top_logprobs": [{"id": 504, "logprob": -1.0}]}]}
        }));
        let read = tokens(&llama).unwrap();
        assert_eq!((read.tokens, read.logprobs, read.listed), (vec![49], vec![-1.5], vec![(504, -1.)]));
        assert!(read.finish == Finish::Stop && read.prompt.is_none());
    }

    #[test]
    fn a_reply_that_lies_is_refused() {
        let good = json!({"finish_reason": "stop", "token_ids": [1], "logprobs": {"token_logprobs": [-1.0]}});
        assert!(tokens(&completion(good.clone())).is_ok());
        let with = |key: &str, value: Value| {
            let mut choice = good.clone();
            choice[key] = value;
            tokens(&completion(choice)).err().unwrap().message
        };
        assert!(with("token_ids", json!([1, 2])).contains("1 log-probabilities for 2 tokens"));
        assert!(with("token_ids", json!([-1])).contains("not a number"));
        assert!(with("token_ids", json!([1u64 << 40])).contains("not a number"));
        assert!(with("token_ids", Value::Null).contains("no token ids"));
        assert!(with("finish_reason", json!("tool_calls")).contains("tool_calls"));
        assert!(with("finish_reason", Value::Null).contains("finish_reason"));
        assert!(with("logprobs", json!({"token_logprobs": [3.5]})).contains("3.5"));
        assert!(with("logprobs", json!({"token_logprobs": [null]})).contains("probability zero"));
        assert!(with("logprobs", json!({"token_logprobs": [-1e308]})).contains("probability zero"));
        let llama = json!({"content": [{"id": 1, "logprob": null}]});
        assert!(with("logprobs", llama).contains("probability zero"));
        assert!(tokens(&json!({"choices": [good.clone(), good]})).err().unwrap().message.contains("2 choices"));
        assert!(chat(&json!([])).is_err() && json(b"<html>").is_err());
        assert!(chat(&completion(json!({"finish_reason": "stop", "message": {"content": null}}))).is_err());
    }

    #[test]
    fn a_reply_of_millions_of_values_is_refused_before_it_takes_memory() {
        let list = |values: usize| format!("[{}0]", "0,".repeat(values));
        assert!(json(list(1000).as_bytes()).is_ok());
        assert!(json(list(MAX_VALUES).as_bytes()).err().unwrap().message.contains("values"));
        let nested = format!("[{}]", "{},".repeat(MAX_VALUES / 2 + 1));
        assert!(json(nested.as_bytes()).err().unwrap().message.contains("values"));
    }

    #[test]
    fn a_reply_with_a_key_twice_is_refused() {
        let message = r#"{"choices": [{"message": {"content": "yes", "content": "no"}, "finish_reason": "stop"}]}"#;
        let usage = r#"{"choices": [], "usage": {"prompt_tokens": 1, "prompt_tokens": 1000}}"#;
        for (body, key) in [(message, "content"), (usage, "prompt_tokens")] {
            assert!(json(body.as_bytes()).err().unwrap().message.contains(&format!("the key `{key}` twice")));
        }
    }

    #[test]
    fn counts_of_any_size_can_be_added() {
        let counted = |count: Value| {
            usage(&json!({"usage": {"prompt_tokens": count.clone(), "completion_tokens": count,
                "prompt_tokens_details": {"cached_tokens": u64::MAX}}}))
        };
        for wrong in [json!(-5), json!(1e300), json!("7"), json!(null), json!([7])] {
            assert_eq!((counted(wrong.clone()).prompt, counted(wrong).sampled), (0, 0));
        }
        let most = counted(json!(u64::MAX));
        assert_eq!((most.prompt, most.cached, most.sampled), (MAX_COUNT, Some(MAX_COUNT), MAX_COUNT));
    }

    #[test]
    fn cached_tokens_are_read_where_a_server_counts_them() {
        let cached = |reply: Value| usage(&reply).cached;
        let details = json!({"usage": {"prompt_tokens": 34, "prompt_tokens_details": {"cached_tokens": 33}}});
        let timings = json!({"usage": {"prompt_tokens": 34}, "timings": {"cache_n": 31, "prompt_n": 3}});
        assert_eq!((cached(details), cached(timings)), (Some(33), Some(31)));
        // As vLLM writes it, unless it is told to count them.
        let silent = json!({"usage": {"prompt_tokens": 34, "prompt_tokens_details": null}});
        assert_eq!(cached(silent.clone()), None);
        let mut sum = usage(&silent);
        sum += usage(&json!({"usage": {"prompt_tokens": 2, "prompt_tokens_details": {"cached_tokens": 0}}}));
        assert_eq!((sum.prompt, sum.cached), (36, Some(0)));
    }
}
