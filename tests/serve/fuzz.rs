//! No body makes the server fail.

use std::sync::{Arc, OnceLock};

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::client::{Gate, Server, options};

const FIELDS: &[&str] = &[
    "prompt",
    "messages",
    "model",
    "n",
    "seed",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "max_tokens",
    "min_tokens",
    "stop",
    "stop_token_ids",
    "logprobs",
    "top_logprobs",
    "echo",
    "return_token_ids",
    "return_tokens_as_token_ids",
    "logprob_token_ids",
    "stream",
    "stream_options",
    "reflux_key",
    "tokens",
    "user",
    "best_of",
    "add_special_tokens",
    "add_generation_prompt",
    "response_format",
    "role",
    "content",
    "type",
    "text",
];

fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::start(Arc::new(Gate::open()), options()))
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0u32..160).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        Just(json!("name two animals <end>")),
        Just(json!("user")),
        Just(json!("text")),
        Just(json!("0".repeat(64))),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            object(inner).prop_map(Value::from),
        ]
    })
}

fn object(inner: impl Strategy<Value = Value>) -> impl Strategy<Value = Map<String, Value>> {
    let pair = (prop::sample::select(FIELDS), inner).prop_map(|(name, value)| (name.to_owned(), value));
    prop::collection::vec(pair, 0..6).prop_map(|pairs| pairs.into_iter().collect())
}

fn path() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"])
}

/// A reply is an answer or names a fault of the request.
fn check(path: &str, body: &str) -> Result<(), TestCaseError> {
    let (status, text) = server().post_text(path, body);
    prop_assert!([200, 400, 404].contains(&status), "{path} {body}: {status} {text}");
    let is_error = serde_json::from_str::<Value>(&text).is_ok_and(|v| v["error"]["message"].is_string());
    prop_assert_eq!(status != 200, is_error, "{} {}: {}", path, body, text);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn fields_of_any_value(path in path(), mut body in object(value()), good in any::<bool>()) {
        if good {
            // So that other fields than the first are reached.
            body.insert("prompt".into(), json!([16, 36]));
            body.insert("messages".into(), json!([{ "role": "user", "content": "name" }]));
            body.remove(if path == "/v1/completions" { "messages" } else { "prompt" });
        }
        check(path, &Value::from(body).to_string())?;
    }

    #[test]
    fn bytes_of_any_kind(path in path(), body in ".{0,200}") {
        check(path, &body)?;
    }
}
