//! What is refused, and how.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, mpsc};

use reflux::serve::ServeOptions;
use serde_json::{Value, json};

use crate::client::{Gate, Server, options, reply};

fn error(reply: &(u16, String)) -> (u16, Value) {
    let body: Value = serde_json::from_str(&reply.1).unwrap_or_else(|e| panic!("{e}: {reply:?}"));
    let error = body["error"].clone();
    let mut names: Vec<&String> = error.as_object().unwrap().keys().collect();
    names.sort();
    assert_eq!(names, ["code", "message", "param", "type"]);
    (reply.0, error)
}

#[test]
fn a_fault_names_its_field_and_what_to_do() {
    let server = Server::small();
    let with = |field: &str, value: Value| {
        let mut body = json!({ "prompt": "name two", "max_tokens": 2 });
        body[field] = value;
        body
    };
    let key = "0".repeat(64);
    for (body, param, says) in [
        (with("top_kk", json!(1)), "top_kk", "did you mean `top_k`"),
        (with("guided_choice", json!([])), "guided_choice", "unknown field"),
        (with("temperature", json!(-1)), "temperature", "0 or more"),
        (with("temperature", json!("hot")), "temperature", "a number"),
        (with("top_p", json!(1.5)), "top_p", "between 0 and 1"),
        (with("repetition_penalty", json!(0)), "repetition_penalty", "between 0.1 and 10"),
        (with("top_k", json!(-2)), "top_k", "whole number"),
        (with("n", json!(0)), "n", "from 1 to 4096"),
        (with("max_tokens", json!(-1)), "max_tokens", "whole number"),
        (with("max_tokens", json!(1.5)), "max_tokens", "whole number"),
        (with("min_tokens", json!(3)), "min_tokens", "more than `max_tokens`"),
        (with("stop", json!(3)), "stop", "list of texts"),
        (with("stop", json!("")), "stop", "empty"),
        (with("stop_token_ids", json!([150])), "stop_token_ids", "below 150"),
        (with("seed", json!(0.5)), "seed", "whole number"),
        (with("logprobs", json!(101)), "logprobs", "from 0 to 100"),
        (with("presence_penalty", json!(0.5)), "presence_penalty", "repetition_penalty"),
        (with("best_of", json!(2)), "best_of", "set it to `n`"),
        (with("reflux_key", json!("12")), "reflux_key", "64 hexadecimal digits"),
        (with("reflux_key", json!([&key, &key])), "reflux_key", "2 keys for 1 answers"),
        (with("prompt", json!([])), "prompt", "must be a text"),
        (with("prompt", json!([16, "name"])), "prompt", "must be a text"),
        (with("prompt", json!([16, 150])), "prompt", "below 150"),
        (with("prompt", json!([[16], "name"])), "prompt", "must be a text"),
        (with("prompt", Value::Null), "prompt", "missing"),
        (with("prompt", json!("")), "prompt", "no tokens"),
        (with("logprob_token_ids", json!([1])), "logprob_token_ids", "0 or 1"),
        (with("stream_options", json!({})), "stream_options", "without `stream`"),
    ] {
        let (status, error) = error(&server.post("/v1/completions", &body));
        assert_eq!((status, &error["param"]), (400, &json!(param)), "{body}: {error}");
        assert!(error["message"].as_str().unwrap().contains(says), "{body}: {error}");
        assert_eq!(error["type"], json!("invalid_request_error"));
    }
    let (_, seeds) = error(&server.post("/v1/completions", &json!({ "prompt": "name", "seed": 1, "reflux_key": key })));
    assert_eq!(seeds["param"], json!("seed"));
    // What changes nothing is taken.
    let neutral = json!({
        "prompt": "name two", "max_tokens": 1, "presence_penalty": 0.0, "logit_bias": {}, "best_of": 1, "suffix": null,
        "user": "me", "top_k": -1, "ignore_eos": false, "stop": null,
    });
    server.answer("/v1/completions", &neutral);
}

/// The last of two values of a key is what most parsers take, in silence.
#[test]
fn a_key_that_comes_twice_is_refused() {
    let server = Server::small();
    for (path, body, key) in [
        ("/v1/completions", r#"{"prompt": "name", "temperature": 0, "temperature": 1}"#, "temperature"),
        ("/v1/completions", r#"{"prompt": "name", "prompt": "name"}"#, "prompt"),
        ("/v1/chat/completions", r#"{"messages": [{"role": "user", "content": "a", "role": "system"}]}"#, "role"),
        ("/tokenize", r#"{"prompt": "name", "\u0070rompt": "two"}"#, "prompt"),
        ("/detokenize", r#"{"tokens": [1], "tokens": [2]}"#, "tokens"),
    ] {
        let (status, error) = error(&server.post_text(path, body));
        assert_eq!((status, &error["param"], &error["code"]), (400, &json!(key), &json!("duplicate_key")), "{body}");
        assert!(error["message"].as_str().unwrap().contains("twice"), "{error}");
    }
}

/// What would be computed to no number, or without bound, is refused before the model is asked.
#[test]
fn values_without_an_answer_are_faults_of_the_request() {
    let server = Server::small();
    let with = |field: &str, value: Value| {
        let mut body = json!({ "prompt": "name two", "max_tokens": 2, "min_tokens": 1 });
        body[field] = value;
        body
    };
    let every_token: Vec<u32> = (0..150).collect();
    for (body, param, says) in [
        (with("repetition_penalty", json!(1e-38)), "repetition_penalty", "between 0.1 and 10"),
        (with("repetition_penalty", json!(1e38)), "repetition_penalty", "between 0.1 and 10"),
        (with("temperature", json!(1e308)), "temperature", "out of range"),
        (with("top_p", json!(-1e308)), "top_p", "out of range"),
        (with("stop_token_ids", json!(every_token)), "min_tokens", "no token is left"),
        (
            with("stop", json!(vec!["x"; 300].iter().enumerate().map(|(i, x)| format!("{x}{i}")).collect::<Vec<_>>())),
            "stop",
            "at most 256 texts",
        ),
        (with("stop", json!("x".repeat(20_000))), "stop", "16 KiB"),
    ] {
        let (status, error) = error(&server.post("/v1/completions", &body));
        assert_eq!((status, &error["param"]), (400, &json!(param)), "{error}");
        assert!(error["message"].as_str().unwrap().contains(says), "{error}");
    }
    // The same stop string or id many times is one.
    let repeated = json!({ "prompt": "name", "max_tokens": 1, "stop": vec!["zero"; 100_000],
        "stop_token_ids": vec![3; 100_000] });
    server.answer("/v1/completions", &repeated);
    let many = format!("{{\"prompt\": \"name\", \"stop_token_ids\": [{}1]}}", "1,".repeat(2 << 20));
    let (status, refused) = error(&server.post_text("/v1/completions", &many));
    assert_eq!((status, &refused["code"]), (413, &json!("body_too_large")));
    // A negative seed is one of 64 bits, as elsewhere.
    let seeded = |seed: Value| server.answer("/v1/completions", &with("seed", seed))["choices"].clone();
    assert_eq!(seeded(json!(-1)), seeded(json!(u64::MAX)));
    assert_eq!(error(&server.post_text("/v1/completions", "{\"prompt\": \"a\", \"seed\": 1e30}")).0, 400);
}

#[test]
fn every_status_has_its_cause() {
    let server = Server::small();
    let long = json!({ "prompt": vec![16; 256] });
    let (status, refused) = error(&server.post("/v1/completions", &long));
    assert_eq!(
        (status, &refused["param"], &refused["code"]),
        (400, &json!("prompt"), &json!("context_length_exceeded"))
    );
    let values = json!({ "prompt": "name", "n": 4096, "max_tokens": 200, "logprobs": 100 });
    let (status, refused) = error(&server.post("/v1/completions", &values));
    assert!(status == 400 && refused["message"].as_str().unwrap().contains("at most 2097152"), "{refused}");
    let other = json!({ "prompt": "name", "model": "m1" });
    let (status, refused) = error(&server.post("/v1/completions", &other));
    assert_eq!((status, &refused["code"]), (404, &json!("model_not_found")));
    assert_eq!(error(&server.post("/v1/embeddings", &json!({}))).0, 404);
    assert_eq!(error(&server.get("/v1/completions")).0, 405);
    for text in ["", "{", "[]", "3", "{\"prompt\": \"\u{0}\"}", &"[".repeat(1000), &"{\"a\":".repeat(1000)] {
        assert_eq!(error(&server.post_text("/v1/completions", text)).0, 400, "{text}");
    }
    for messages in [json!([]), json!({}), json!(["x"]), json!([{ "role": "user" }]), json!([{ "content": "x" }])] {
        let (status, refused) = error(&server.post("/v1/chat/completions", &json!({ "messages": messages })));
        assert!(status == 400 && refused["param"].as_str().unwrap().starts_with("messages"), "{refused}");
    }
    let image = json!([{ "role": "user", "content": [{ "type": "image_url", "image_url": "x" }] }]);
    assert_eq!(error(&server.post("/v1/chat/completions", &json!({ "messages": image }))).0, 400);
    let body = format!("{{\"prompt\": \"{}\"}}", "name ".repeat(9 << 18));
    let (status, refused) = error(&server.post_text("/v1/completions", &body));
    assert_eq!((status, &refused["code"]), (413, &json!("body_too_large")));
    // Beneath the bound it is the model that cannot take it.
    let (status, refused) = error(&server.post_text("/v1/completions", &body[..7 << 20].replace("\"}", "")));
    assert_eq!((status, refused["param"].as_str()), (400, None));
}

#[test]
fn a_key_opens_everything_and_health_needs_none() {
    let key = Some("secret-17".into());
    let server = Server::start(Arc::new(Gate::open()), ServeOptions { key, ..options() });
    let post = |header: Option<&str>| {
        let request = ureq::post(&server.url("/v1/completions"));
        let request = match header {
            Some(value) => request.set("Authorization", value),
            None => request,
        };
        reply(request.send_string("{\"prompt\": \"name\"}"))
    };
    for wrong in [None, Some(""), Some("Bearer"), Some("Bearer "), Some("Bearer secret-1"), Some("secret-17")] {
        let (status, refused) = error(&post(wrong));
        assert_eq!((status, &refused["type"]), (401, &json!("authentication_error")), "{wrong:?}");
    }
    assert_eq!(post(Some("Bearer secret-17")).0, 200);
    for path in ["/v1/models", "/metrics", "/tokenize", "/nothing"] {
        assert_eq!(error(&server.get(path)).0, 401, "{path}");
    }
    assert_eq!(server.get("/health").0, 200);
}

#[test]
fn a_full_queue_refuses_and_opens_again() {
    let (entered, calls) = mpsc::channel();
    let (release, released) = mpsc::channel();
    let server = Server::start(Arc::new(Gate::new(entered, released)), ServeOptions { max_queue: 1, ..options() });
    let body = json!({ "prompt": "name", "max_tokens": 1 });
    std::thread::scope(|scope| {
        let first = scope.spawn(|| server.post("/v1/completions", &body).0);
        assert!(!calls.recv().unwrap());
        let second = ureq::post(&server.url("/v1/completions")).send_string(&body.to_string());
        let Err(ureq::Error::Status(429, refused)) = second else { panic!("{second:?}") };
        assert_eq!(refused.header("retry-after"), Some("1"));
        assert_eq!(error(&reply(Ok(refused))).1["code"], json!("queue_full"));
        // What needs no place is answered.
        assert!(server.get("/metrics").1.contains("reflux_queue_requests 1\n"));
        release.send(()).unwrap();
        assert_eq!(first.join().unwrap(), 200);
        server.wait_for("reflux_queue_requests 0");
        release.send(()).unwrap();
        assert_eq!(server.post("/v1/completions", &body).0, 200);
    });
}

/// Clients that keep their connections and send nothing more do not keep others out.
#[test]
fn connections_are_bounded_and_idle_ones_make_room() {
    let server = Server::start(Arc::new(Gate::open()), ServeOptions { max_queue: 1, ..options() });
    let keep = || {
        let mut connection = TcpStream::connect(server.address).unwrap();
        connection.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        // The head of the reply says that it was accepted.
        connection.read_exact(&mut [0; 15]).unwrap();
        connection
    };
    let kept: Vec<TcpStream> = (0..130).map(|_| keep()).collect();
    let metrics = server.get("/metrics").1;
    let value = |name: &str| {
        let line = metrics.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("{name}: {metrics}")).parse::<usize>().unwrap()
    };
    assert_eq!(value("reflux_connections_limit"), 65);
    assert!((1..=65).contains(&value("reflux_connections")), "{metrics}");
    assert!(value("reflux_connections_waited_total") >= 1, "{metrics}");
    drop(kept);
}

#[test]
fn a_client_that_goes_away_cancels_its_request() {
    for stream in [false, true] {
        let (entered, calls) = mpsc::channel();
        let (_release, released) = mpsc::channel();
        let server = Server::start(Arc::new(Gate::new(entered, released)), options());
        let body = json!({ "prompt": "name", "stream": stream }).to_string();
        let mut connection = TcpStream::connect(server.address).unwrap();
        let head = format!("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
        connection.write_all((head + &body).as_bytes()).unwrap();
        assert!(!calls.recv().unwrap(), "the call begins");
        if stream {
            // The head of the reply.
            connection.read_exact(&mut [0; 8]).unwrap();
        }
        drop(connection);
        assert!(calls.recv().unwrap(), "the call is cancelled");
        server.wait_for("reflux_queue_requests 0");
    }
}

#[test]
fn a_server_that_stops_ends_what_runs() {
    for stream in [false, true] {
        let (entered, calls) = mpsc::channel();
        let (_release, released) = mpsc::channel();
        let server = Server::start(Arc::new(Gate::new(entered, released)), options());
        let url = server.url("/v1/completions");
        let body = json!({ "prompt": "name", "stream": stream }).to_string();
        let client = std::thread::spawn(move || reply(ureq::post(&url).send_string(&body)));
        assert!(!calls.recv().unwrap());
        drop(server);
        let (status, text) = client.join().unwrap();
        assert_eq!(status, if stream { 200 } else { 503 });
        assert!(text.contains("the server is stopping"), "{text}");
        assert!(calls.recv().unwrap());
    }
}
