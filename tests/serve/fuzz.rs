//! No body makes the server fail.

use std::sync::{Arc, OnceLock};

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::client::{Gate, Server, options, reply};

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
    "reflux_keys",
    "max_completion_tokens",
    "continue_final_message",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "ignore_eos",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "include_stop_str_in_output",
    "use_beam_search",
    "suffix",
    "tools",
    "tool_choice",
    "store",
    "return_token_strs",
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

/// Values that are seldom thought of, as they are written in a body. Some are no JSON.
const HOSTILE: &[&[u8]] = &[
    b"0",
    b"-0.0",
    b"-1",
    b"1e308",
    b"-1e308",
    b"1e999",
    b"1e-45",
    b"1e-320",
    b"18446744073709551615",
    b"18446744073709551616",
    b"-9223372036854775808",
    b"99999999999999999999999999999999999999",
    b"NaN",
    b"Infinity",
    b"null",
    b"true",
    b"\"\"",
    b"\"NaN\"",
    b"\"\\ud800\"",
    b"\"\\ude00\\ud83d\"",
    b"\"\\u0000\"",
    b"\"\xff\xfe\"",
    b"\"\xed\xa0\x80\"",
    b"[]",
    b"[[]]",
    b"[null]",
    b"[\"\"]",
    b"[[[[[[[[[[1]]]]]]]]]]",
    b"[-1]",
    b"[149, 150]",
    b"[4294967296]",
    b"[1.5]",
    b"{}",
    b"{\"\": {}}",
    b"{\"a\": 1, \"a\": 1}",
    b"{\"include_usage\": 1e308}",
    b"[{}]",
    b"[{\"role\": null, \"content\": null}]",
    b"[{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": 1e308}]}]",
];

/// Every field with every hostile value, to a model that computes.
#[test]
fn hostile_values_of_every_field() {
    let server = Server::small();
    let deep = [b"[".repeat(100_000), b"]".repeat(100_000)].concat();
    let mut statuses = std::collections::BTreeMap::<u16, u32>::new();
    let beside = [
        ("/v1/completions", "prompt", "[16, 36]"),
        ("/v1/chat/completions", "messages", "[{\"role\": \"user\", \"content\": \"name\"}]"),
        ("/tokenize", "prompt", "\"name\""),
        ("/detokenize", "tokens", "[1]"),
    ];
    for field in FIELDS {
        for value in HOSTILE.iter().copied().chain([deep.as_slice()]) {
            for (path, name, good) in beside {
                let drawn = path.contains("completions") && *field != "max_tokens";
                let mut body = format!("{{{}", if drawn { "\"max_tokens\": 2, " } else { "" }).into_bytes();
                if *field != name {
                    body.extend(format!("\"{name}\": {good}, ").bytes());
                }
                body.extend([format!("\"{field}\": ").as_bytes(), value, b"}"].concat());
                let (status, text) = reply(ureq::post(&server.url(path)).send_bytes(&body));
                let shown = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
                assert!([200, 400, 404].contains(&status), "{path} {shown}: {status} {text}");
                *statuses.entry(status).or_default() += 1;
            }
        }
    }
    // Some are what the field may have.
    assert!(statuses[&200] > 100 && statuses[&400] > 1000, "{statuses:?}");
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
