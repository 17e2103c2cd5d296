//! Servers that lie, and pipeline files with typical mistakes in the keys of servers.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Instant;

use serde_json::json;

use crate::stub::{Request, Response, Stub};

/// A run of four answers of the model `far` with these keys.
fn run(dir: &Path, url: &str, keys: &str) -> Output {
    let file = dir.join("hostile.toml");
    let text = format!(
        "[pipeline]\nname = \"hostile\"\nseed = 5\n[model.far]\nserver = {url:?}\nname = \"smol\"\n{keys}\n\
         [step.requests]\nop = \"listworld\"\ndata = \"requests\"\nrows = 4\n\
         [step.answers]\nop = \"generate\"\nfrom = \"requests\"\nmodel = \"far\"\n"
    );
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_reflux"));
    command.args(["run", "--fresh", "--color", "never", "--runs"]).arg(dir.join("runs")).arg(&file);
    command.env("RUST_BACKTRACE", "0").output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn models() -> Response {
    Response::json(json!({"data": [{"id": "smol", "owned_by": "someone"}]}).to_string())
}

/// A reply with a usage, and a text that depends on the request.
fn counted(request: &Request, count: u64) -> Response {
    let text = format!("Answer {}.", blake3::hash(request.body.as_bytes()));
    let reply = json!({
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": count, "completion_tokens": count, "prompt_tokens_details": {"cached_tokens": count}}
    });
    Response::json(reply.to_string())
}

#[test]
fn counts_of_tokens_that_no_reply_has_overflow_nothing_and_spend_the_budget() {
    let dir = tempfile::tempdir().unwrap();
    let stub = Stub::start(|r| if r.method == "GET" { models() } else { counted(r, u64::MAX) });
    let output = run(dir.path(), &stub.url(), "");
    assert!(output.status.success(), "{}", said(&output));
    let output = run(dir.path(), &stub.url(), "max_tokens = 1000");
    let said = said(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("the budget of model `smol` is spent"), "{said}");
}

#[test]
fn a_redirect_and_a_refusal_stop_the_run_at_once() {
    let dir = tempfile::tempdir().unwrap();
    for (status, words) in [(301, "redirects are not followed"), (400, "status 400: no \\u{202e}evil")] {
        let stub = Stub::start(move |_| Response::status(status, "{\"error\": {\"message\": \"no \u{202e}evil\"}}"));
        let start = Instant::now();
        let output = run(dir.path(), &stub.url(), "");
        let said = said(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(words) && said.contains("help: "), "{said}");
        // A server that is starting is waited for, for ten minutes.
        assert_eq!(stub.requests().len(), 1, "after {:?}", start.elapsed());
    }
    let starting = Stub::start(|r| match r.nth {
        0 => Response::status(503, "loading"),
        _ if r.method == "GET" => models(),
        _ => counted(r, 1),
    });
    let output = run(dir.path(), &starting.url(), "");
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn a_reply_of_millions_of_values_fails_its_row_alone() {
    let dir = tempfile::tempdir().unwrap();
    let choice = r#"{"message": {"role": "assistant", "content": "fine"}, "finish_reason": "stop"}"#;
    let big = format!("{{\"choices\": [{choice}], \"junk\": [{}0]}}", "0,".repeat(5 << 20));
    let stub = Stub::start(move |request| match request.nth {
        _ if request.method == "GET" => models(),
        6 => Response::json(big.clone()),
        _ => counted(request, 1),
    });
    let output = run(dir.path(), &stub.url(), "max_in_flight = 1");
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("answers: 1 failed (bad_reply 1)"), "{said}");
}

#[test]
fn a_reply_that_says_two_things_fails_its_row_alone() {
    let dir = tempfile::tempdir().unwrap();
    let twice = r#"{"choices": [{"message": {"content": "one", "content": "two"}, "finish_reason": "stop"}]}"#;
    let stub = Stub::start(move |request| match request.nth {
        _ if request.method == "GET" => models(),
        6 => Response::json(twice),
        _ => counted(request, 1),
    });
    let output = run(dir.path(), &stub.url(), "max_in_flight = 1");
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("answers: 1 failed (bad_reply 1)"), "{said}");
}

#[test]
fn a_key_in_the_file_is_refused_and_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let stub = Stub::start(|_| models());
    for literal in ["key = \"sk-live-77\"", "key = { env = \"sk-live-77\" }", "key = [\"sk-live-77\"]"] {
        let output = run(dir.path(), &stub.url(), literal);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("key = { env = \"NAME\" }") && !said.contains("sk-live"), "{said}");
    }
    // What it says to type works.
    let output = run(dir.path(), &stub.url(), "key = { env = \"NAME\" }");
    assert!(said(&output).contains("the environment variable NAME is not set"), "{}", said(&output));
    assert_eq!(stub.requests().len(), 0);
}

#[test]
fn a_malformed_address_is_refused_offline_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    for (url, words) in [
        ("http://[::1/v1", "has an IPv6 address that cannot be read"),
        ("http://127.0.0.1:99999/v1", "has a port that is not a number from 1 to 65535"),
        ("http:///v1", "has no host"),
        ("http://a b/v1", "has a blank"),
        ("http://a/v1?x=1", "has a query"),
    ] {
        let file = dir.path().join("address.toml");
        let text = format!(
            "[pipeline]\nname = \"a\"\n[model.far]\nserver = {url:?}\nname = \"smol\"\n[step.requests]\nop = \
             \"listworld\"\ndata = \"requests\"\n[step.answers]\nop = \"generate\"\nfrom = \"requests\"\nmodel = \"far\"\n"
        );
        std::fs::write(&file, text).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_reflux")).arg("check").arg(&file).output().unwrap();
        let said = said(&output);
        assert_eq!(output.status.code(), Some(2), "{url}: {said}");
        assert!(
            said.contains(words) && said.contains("address.toml:4:") && said.contains("http://127.0.0.1:8000/v1"),
            "{said}"
        );
    }
}
