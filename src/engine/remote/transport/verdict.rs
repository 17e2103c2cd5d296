//! What an exchange with a server means for the row: an answer, another attempt, or a fault that is final.

use std::time::Duration;

use bytes::Bytes;
use chrono::Utc;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::backoff::retry_after;
use super::balance::Signal;
use super::exchange::{Failure, FailureKind, Received};
use super::secret::Secret;
use super::words;
use crate::error::Error;

/// What becomes of a row after an exchange.
pub(super) enum RowVerdict {
    /// A reply that counts.
    Reply(Bytes),
    /// The row is sent again.
    Retry(Retry),
    /// The request is at fault: the row ends.
    Row { code: &'static str, message: String },
    /// No row can succeed: the run ends.
    Stop(Error),
}

/// Why a row is sent again.
pub(super) struct Retry {
    /// The server's or the system's words.
    pub words: String,
    /// What it shows about the endpoint.
    pub signal: Signal,
    /// How long the server asks to wait.
    pub after: Duration,
    /// Whether the endpoint may have died of the request: it had it, and gave no reply.
    pub may_have_died: bool,
    /// Whether the server answered with something unreadable, which is retried twice only.
    pub unreadable: bool,
}

impl Retry {
    fn new(words: String, signal: Signal) -> Self {
        Self { words, signal, after: Duration::ZERO, may_have_died: false, unreadable: false }
    }
}

/// The part of a body that tells an answer from an error. Some gateways send errors with status 200.
#[derive(Deserialize)]
struct Outline {
    error: Option<IgnoredAny>,
    choices: Option<IgnoredAny>,
}

/// Judges an exchange with the server at `url`.
pub(super) fn judge(url: &str, outcome: Result<Received, Failure>, key: Option<&Secret>) -> RowVerdict {
    match outcome {
        Ok(received) if (200..300).contains(&received.status) => of_success(url, received, key),
        Ok(received) => of_status(url, &received, key),
        Err(failure) => of_failure(url, &failure, key),
    }
}

fn of_failure(url: &str, failure: &Failure, key: Option<&Secret>) -> RowVerdict {
    let words = format!("{url}: {}", words::printable(&failure.words, key));
    let mut retry = match failure.kind {
        FailureKind::Unreachable => Retry::new(words, Signal::Gone),
        FailureKind::Lost => Retry::new(words, Signal::Struck),
        FailureKind::Slow => Retry::new(words, Signal::Slow),
        FailureKind::TooLong => Retry::new(words, Signal::Alive),
        FailureKind::Unsendable => return RowVerdict::Stop(Error::bug(format!("{words}: the request cannot be sent"))),
    };
    retry.may_have_died = matches!(failure.kind, FailureKind::Lost | FailureKind::Slow);
    retry.unreadable = failure.kind == FailureKind::TooLong;
    RowVerdict::Retry(retry)
}

fn of_success(url: &str, received: Received, key: Option<&Secret>) -> RowVerdict {
    let why = match std::str::from_utf8(&received.body).map(serde_json::from_str::<Outline>) {
        Ok(Ok(Outline { error: None, .. } | Outline { choices: Some(_), .. })) => {
            return RowVerdict::Reply(received.body);
        }
        Ok(Ok(_)) => match error_status(&received.body) {
            Some(status) => return of_status(url, &Received { status, ..received }, key),
            None => "an error with status 200".to_owned(),
        },
        Ok(Err(e)) => format!("no JSON object ({e})"),
        Err(e) => format!("not UTF-8 ({e})"),
    };
    let said = words::of_server(&received.body, key);
    let mut retry = Retry::new(format!("{url}: the reply is {why}: {said:?}"), Signal::Alive);
    retry.unreadable = true;
    RowVerdict::Retry(retry)
}

/// The status within the body of an error.
fn error_status(body: &[u8]) -> Option<u16> {
    // Only what is looked at is read: a body may have millions of values.
    #[derive(Deserialize)]
    struct CodedError {
        code: serde_json::Value,
    }
    #[derive(Deserialize)]
    struct ErrorBody {
        error: CodedError,
    }
    let code = serde_json::from_slice::<ErrorBody>(body).ok()?.error.code;
    let code = code.as_u64().or_else(|| code.as_str()?.parse().ok())?;
    u16::try_from(code).ok().filter(|code| (400..600).contains(code))
}

fn of_status(url: &str, received: &Received, key: Option<&Secret>) -> RowVerdict {
    let status = received.status;
    let said = words::of_server(&received.body, key);
    let message = match (reason(status), said.is_empty()) {
        (reason, true) => format!("{url}: {status}{reason}"),
        (reason, false) => format!("{url}: {status}{reason}: {said}"),
    };
    let after = received.retry_after.as_deref().and_then(|header| retry_after(header, Utc::now()));
    let after = after.unwrap_or(Duration::ZERO);
    let retry = |signal| Retry { after, ..Retry::new(message.clone(), signal) };
    match status {
        429 if says(&received.body, &["insufficient_quota"]) => RowVerdict::Stop(no_credit(message)),
        429 | 503 => RowVerdict::Retry(retry(Signal::Busy(after))),
        408 | 409 | 425 => RowVerdict::Retry(retry(Signal::Alive)),
        501 => RowVerdict::Stop(wrong_path(message)),
        500 => RowVerdict::Retry(Retry { may_have_died: true, ..retry(Signal::Struck) }),
        502.. => RowVerdict::Retry(retry(Signal::Struck)),
        401 | 403 => RowVerdict::Stop(no_access(message, key)),
        402 => RowVerdict::Stop(no_credit(message)),
        404 | 405 | 410 => RowVerdict::Stop(not_found(message, &received.body)),
        ..=399 => RowVerdict::Stop(moved(message, received.location.as_deref(), key)),
        413 => RowVerdict::Row { code: "prompt_too_long", message },
        _ if says(&received.body, TOO_LONG) => RowVerdict::Row { code: "prompt_too_long", message },
        _ => RowVerdict::Row { code: "bad_request", message },
    }
}

/// How servers spell that a prompt does not fit: OpenAI, llama.cpp, vLLM, SGLang, TGI.
const TOO_LONG: &[&str] = &[
    "context_length_exceeded",
    "exceed_context_size_error",
    "maximum context length",
    "longer than the model's context length",
    "exceeds the available context size",
    "is too long and exceeds limit",
    "`max_new_tokens` must be <=",
    "\"param\":\"input_tokens\"",
    "\"param\": \"input_tokens\"",
];

fn says(body: &[u8], any: &[&str]) -> bool {
    let text = String::from_utf8_lossy(body);
    any.iter().any(|words| text.contains(words))
}

fn reason(status: u16) -> String {
    let known = reqwest::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason());
    known.map_or(String::new(), |reason| format!(" {reason}"))
}

fn no_access(message: String, key: Option<&Secret>) -> Error {
    Error::user(message).help(match key {
        None => {
            "the server wants a key: put it into an environment variable and name that one as `key = { env = \"…\" }`"
        }
        Some(_) => {
            "the server does not accept this key, or the key may not do this: check the variable that `key` names"
        }
    })
}

fn no_credit(message: String) -> Error {
    Error::user(message).help("the account of this key has no credit left: add some and give the same command again")
}

fn not_found(message: String, body: &[u8]) -> Error {
    let help = if says(body, &["model"]) {
        "the server has no model of this name: `name` must be one that its /v1/models lists"
    } else {
        "the server has no such path: a url in `server` is usually written as http://HOST:PORT/v1"
    };
    Error::user(message).help(help)
}

fn wrong_path(message: String) -> Error {
    Error::user(message).help("the server does not offer this: start it as one that generates text")
}

fn moved(message: String, location: Option<&str>, key: Option<&Secret>) -> Error {
    let to = location.map_or(String::new(), |to| format!(" to {}", words::printable(to, key)));
    Error::user(format!("{message}: the server redirects{to}, and redirects are not followed"))
        .help("give the final url in `server`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(status: u16, body: &str) -> Result<Received, Failure> {
        Ok(Received { status, body: Bytes::from(body.to_owned()), retry_after: None, location: None })
    }
    fn verdict(status: u16, body: &str) -> RowVerdict {
        judge("http://h/v1", received(status, body), Some(&Secret::new("sk-1")))
    }
    /// The kind of a verdict in a word.
    fn word(verdict: &RowVerdict) -> &'static str {
        match verdict {
            RowVerdict::Reply(_) => "reply",
            RowVerdict::Retry(Retry { unreadable: true, .. }) => "unreadable",
            RowVerdict::Retry(_) => "retry",
            RowVerdict::Row { code, .. } => code,
            RowVerdict::Stop(_) => "stop",
        }
    }

    #[test]
    fn every_status_has_its_verdict() {
        for (statuses, want) in [
            (&[408, 409, 425, 429, 500, 502, 503, 504, 520, 529][..], "retry"),
            (&[400, 406, 415, 418, 422], "bad_request"),
            (&[413], "prompt_too_long"),
            (&[301, 302, 307, 308, 401, 402, 403, 404, 405, 410, 501], "stop"),
            (&[200, 201, 204], "unreadable"),
        ] {
            for &status in statuses {
                assert_eq!(word(&verdict(status, "")), want, "{status}");
            }
        }
    }

    /// Bodies as they were recorded from vLLM 0.32 and llama.cpp, and as OpenAI and SGLang document them.
    #[test]
    fn every_spelling_of_a_long_prompt_is_known() {
        for body in [
            r#"{"error":{"message":"This model's maximum context length is 128 tokens. However, your prompt contains at least 129 input tokens, which exceeds this limit even without any output tokens.","type":"BadRequestError","param":"input_tokens","code":400}}"#,
            r#"{"error":{"code":400,"message":"request (337 tokens) exceeds the available context size (256 tokens), try increasing it","type":"exceed_context_size_error","n_prompt_tokens":337,"n_ctx":256}}"#,
            r#"{"error":{"message":"too much","code":"context_length_exceeded"}}"#,
            r#"{"object":"error","message":"The input (9 tokens) is longer than the model's context length (8 tokens)."}"#,
        ] {
            assert_eq!(word(&verdict(400, body)), "prompt_too_long", "{body}");
        }
        let plain =
            r#"{"error":{"message":"n must be at least 1, got 0.","type":"BadRequestError","param":null,"code":400}}"#;
        let RowVerdict::Row { code, message } = verdict(400, plain) else { panic!() };
        assert_eq!((code, &*message), ("bad_request", "http://h/v1: 400 Bad Request: n must be at least 1, got 0."));
    }

    #[test]
    fn a_success_must_be_a_json_object_that_is_no_error() {
        for (body, want) in [
            (r#"{"choices": [], "error": null}"#, "reply"),
            (r#"{"choices": [{"text": "error"}]}"#, "reply"),
            (r#"{"data": []}"#, "reply"),
            (r#"{"choices": [{"te"#, "unreadable"),
            ("[1]", "unreadable"),
            ("null", "unreadable"),
            ("<html>", "unreadable"),
            (r#"{"a": 1} {"b": 2}"#, "unreadable"),
            (r#"{"error": {"message": "upstream", "code": 502}}"#, "retry"),
            (r#"{"error": {"message": "no", "code": "400"}}"#, "bad_request"),
            (r#"{"error": "sad"}"#, "unreadable"),
        ] {
            assert_eq!(word(&verdict(200, body)), want, "{body}");
        }
        let broken =
            Received { status: 200, body: Bytes::from_static(b"{\"a\": \"\xff\"}"), retry_after: None, location: None };
        assert_eq!(word(&judge("u", Ok(broken), None)), "unreadable");
    }

    #[test]
    fn a_stop_says_what_to_do_and_never_the_key() {
        let RowVerdict::Stop(error) = verdict(401, r#"{"error":"bad key sk-1"}"#) else { panic!() };
        assert_eq!(error.to_string(), "http://h/v1: 401 Unauthorized: bad key ***");
        assert!(error.help_text().unwrap().contains("`key`"));
        let RowVerdict::Stop(error) = verdict(404, r#"{"error":{"message":"The model `x` does not exist."}}"#) else {
            panic!()
        };
        assert!(error.help_text().unwrap().contains("`name`"));
        let RowVerdict::Stop(error) = verdict(404, r#"{"detail":"Not Found"}"#) else { panic!() };
        assert!(error.help_text().unwrap().contains("/v1"));
        let quota = r#"{"error":{"message":"You exceeded your current quota","code":"insufficient_quota"}}"#;
        assert_eq!(word(&verdict(429, quota)), "stop");
    }
}
