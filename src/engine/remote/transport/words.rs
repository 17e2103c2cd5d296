//! What a server says in an error, ready to be shown.

use serde_json::Value;

use super::secret::Secret;
use crate::data::one_line;

/// Longest message that is quoted, in characters.
const MAX_CHARS: usize = 300;
/// Maximum bytes of a body in which words are looked for.
const MAX_BYTES: usize = 64 << 10;

/// The server's own words in the body of an error: its message if it has the form of a known server, otherwise the
/// body itself. On one line, without characters that steer a terminal, without the key, and bounded.
pub(super) fn of_server(body: &[u8], key: Option<&Secret>) -> String {
    let body = &body[..body.len().min(MAX_BYTES)];
    let text = match serde_json::from_slice::<Value>(body) {
        Ok(value) => message(&value).unwrap_or_else(|| value.to_string()),
        Err(_) => String::from_utf8_lossy(body).trim().to_owned(),
    };
    printable(&text, key)
}

/// A text on one line, without control characters, without the key, and bounded.
pub(super) fn printable(text: &str, key: Option<&Secret>) -> String {
    // The key goes first: a text that is cut in the middle of it would still show a part.
    let text = key.map_or(text.into(), |key| key.scrub(text));
    let cut: String = text.chars().take(MAX_CHARS).collect();
    let more = if cut.len() < text.len() { "…" } else { "" };
    format!("{}{more}", one_line(&cut))
}

/// `error.message` of OpenAI, vLLM and llama.cpp, `detail` of FastAPI, `message` of older vLLMs, `error` of others.
fn message(value: &Value) -> Option<String> {
    let error = value.get("error");
    let found = error
        .and_then(|e| e.get("message"))
        .or_else(|| error.filter(|e| e.is_string()))
        .or_else(|| value.get("message"))
        .or_else(|| value.get("detail"))?;
    Some(found.as_str().map_or_else(|| found.to_string(), str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_all_servers_are_found() {
        let said = |body: &str| of_server(body.as_bytes(), None);
        assert_eq!(
            said(r#"{"error": {"message": "n must be at least 1, got 0.", "code": 400}}"#),
            "n must be at least 1, got 0."
        );
        assert_eq!(said(r#"{"detail": "Not Found"}"#), "Not Found");
        assert_eq!(said(r#"{"detail": [{"msg": "JSON decode error"}]}"#), r#"[{"msg":"JSON decode error"}]"#);
        assert_eq!(said(r#"{"object": "error", "message": "too long"}"#), "too long");
        assert_eq!(said(r#"{"error": "busy"}"#), "busy");
        assert_eq!(said(" Internal Server Error\n"), "Internal Server Error");
        assert_eq!(said(""), "");
    }

    #[test]
    fn words_are_bounded_printable_and_hold_no_key() {
        let key = Secret::new("sk-secret");
        let said = of_server("\u{1b}[2Jkey sk-secret\r\n".as_bytes(), Some(&key));
        assert_eq!(said, "\\u{1b}[2Jkey ***");
        let long = format!("{}sk-secret{}", "x".repeat(MAX_CHARS - 5), "y".repeat(100_000));
        let said = printable(&long, Some(&key));
        assert!(
            said.chars().count() == MAX_CHARS + 1 && said.ends_with("***xx…") || said.ends_with("***yy…"),
            "{said}"
        );
        assert!(!said.contains("sk-"), "{said}");
        assert_eq!(of_server(b"\xff\x00", None), "\u{fffd}\\u{0}");
    }
}
