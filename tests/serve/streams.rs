//! Answers as server-sent events.

use std::io::{BufRead, BufReader};
use std::sync::{Arc, mpsc};

use serde_json::{Value, json};

use crate::client::{Gate, Server, options, reply};

fn events(server: &Server, path: &str, body: &Value) -> Vec<Value> {
    let (status, text) = reply(ureq::post(&server.url(path)).send_string(&body.to_string()));
    assert_eq!(status, 200, "{text}");
    let mut lines: Vec<&str> = text.split("\n\n").filter(|l| !l.is_empty()).collect();
    assert_eq!(lines.pop(), Some("data: [DONE]"));
    lines.iter().map(|l| serde_json::from_str(l.strip_prefix("data: ").unwrap()).unwrap()).collect()
}

#[test]
fn the_parts_of_a_stream_are_the_whole_answer() {
    let server = Server::small();
    for (path, extra, text) in [
        ("/v1/completions", json!({ "prompt": "name three animals :", "echo": true }), "/text"),
        ("/v1/completions", json!({ "prompt": [[148, 16, 37, 43, 32], [148, 16, 36, 46, 32]] }), "/text"),
        (
            "/v1/chat/completions",
            json!({ "messages": [{ "role": "user", "content": "name two tools" }] }),
            "/delta/content",
        ),
    ] {
        for stop in [json!([]), json!(["bear dog", "zero"])] {
            let mut body = json!({ "n": 2, "seed": 4, "max_tokens": 12, "stop": stop, "return_token_ids": true });
            body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            let whole = server.answer(path, &body);
            body["stream"] = json!(true);
            body["stream_options"] = json!({ "include_usage": true });
            let mut parts = events(&server, path, &body);
            let last = parts.pop().unwrap();
            assert_eq!((&last["usage"], &last["choices"]), (&whole["usage"], &json!([])));
            assert!(parts.len() >= whole["choices"].as_array().unwrap().len());
            for choice in whole["choices"].as_array().unwrap() {
                let of = |part: &&Value| part["choices"][0]["index"] == choice["index"];
                let mine: Vec<&Value> = parts.iter().filter(of).map(|part| &part["choices"][0]).collect();
                let said: String = mine.iter().filter_map(|part| part.pointer(text)?.as_str()).collect();
                let wanted = choice.get("text").unwrap_or_else(|| &choice["message"]["content"]);
                assert_eq!(&json!(said), wanted);
                let ids: Vec<&Value> = mine.iter().filter_map(|part| part["token_ids"].as_array()).flatten().collect();
                assert_eq!(&json!(ids), &choice["token_ids"]);
                assert_eq!(mine.last().unwrap()["finish_reason"], choice["finish_reason"]);
            }
        }
    }
}

#[test]
fn a_stream_begins_before_the_answer_ends() {
    let (entered, _) = mpsc::channel();
    let (release, released) = mpsc::channel();
    let server = Server::start(Arc::new(Gate::new(entered, released)), options());
    let body = json!({ "prompt": "name three", "max_tokens": 3, "stop_token_ids": [60], "stream": true,
        "return_token_ids": true });
    let response = ureq::post(&server.url("/v1/completions")).send_string(&body.to_string()).unwrap();
    let mut lines = BufReader::new(response.into_reader()).lines().map(Result::unwrap).filter(|l| !l.is_empty());
    // The engine has drawn three tokens and waits. The last of them ends the answer and has no text.
    let (mut seen, mut said) = (0, String::new());
    while seen < 2 {
        let part: Value = serde_json::from_str(lines.next().unwrap().strip_prefix("data: ").unwrap()).unwrap();
        seen += part["choices"][0]["token_ids"].as_array().unwrap().len();
        said += part["choices"][0]["text"].as_str().unwrap();
    }
    release.send(()).unwrap();
    let rest: Vec<String> = lines.collect();
    assert_eq!(rest.last().unwrap(), "data: [DONE]");
    for line in &rest[..rest.len() - 1] {
        let part: Value = serde_json::from_str(line.strip_prefix("data: ").unwrap()).unwrap();
        said += part["choices"][0]["text"].as_str().unwrap_or_else(|| panic!("{line}"));
    }
    assert_eq!(said.split(' ').count(), 2, "{said}");
}

/// Log-probabilities of the drawn tokens come with their text. Those of other tokens are known at the end only.
#[test]
fn log_probabilities_are_those_of_the_whole_answer() {
    let server = Server::small();
    let messages = json!([{ "role": "user", "content": "name two tools" }]);
    for (path, extra, lists) in [
        (
            "/v1/completions",
            json!({ "prompt": "name three animals :", "logprobs": 0 }),
            &["tokens", "token_logprobs", "top_logprobs", "text_offset"][..],
        ),
        ("/v1/chat/completions", json!({ "messages": messages, "logprobs": true }), &["content"]),
    ] {
        let mut body = json!({ "n": 2, "seed": 4, "max_tokens": 12 });
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let whole = server.answer(path, &body);
        body["stream"] = json!(true);
        let parts = events(&server, path, &body);
        for choice in whole["choices"].as_array().unwrap() {
            let of = |part: &&Value| part["choices"][0]["index"] == choice["index"];
            let mine: Vec<&Value> = parts.iter().filter(of).map(|part| &part["choices"][0]["logprobs"]).collect();
            for list in lists {
                let joined: Vec<&Value> = mine.iter().filter_map(|part| part[list].as_array()).flatten().collect();
                assert!(!joined.is_empty());
                assert_eq!(json!(joined), choice["logprobs"][list], "{path} {list}");
            }
            assert!(mine.iter().filter(|part| part.is_object()).count() > 1, "they come in parts");
        }
    }
    for (path, body) in [
        ("/v1/completions", json!({ "prompt": "name", "stream": true, "logprobs": 1 })),
        ("/v1/completions", json!({ "prompt": "name", "stream": true, "logprobs": 0, "echo": true })),
        ("/v1/completions", json!({ "prompt": "name", "stream": true, "logprob_token_ids": [1], "max_tokens": 1 })),
        ("/v1/chat/completions", json!({ "messages": messages, "stream": true, "logprobs": true, "top_logprobs": 2 })),
    ] {
        let (status, text) = server.post(path, &body);
        assert!(status == 400 && text.contains("not streamed"), "{body}: {text}");
    }
}
