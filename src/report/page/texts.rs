//! Texts of rows as a reader expects them.

use serde_json::Value;

/// A conversation as `role: content` lines, or the content alone if it has one message; `None` for other values.
pub(super) fn conversation(value: &Value) -> Option<String> {
    let messages = value.as_array().filter(|messages| !messages.is_empty())?;
    let mut lines = Vec::new();
    for message in messages {
        let (role, content) = (message.get("role")?.as_str()?, message.get("content")?.as_str()?);
        lines.push(if messages.len() == 1 { content.to_owned() } else { format!("{role}: {content}") });
    }
    Some(lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn conversations_are_read_as_lines() {
        let turn = |role: &str, content: &str| json!({ "role": role, "content": content });
        assert_eq!(conversation(&json!([turn("user", "Hi.")])), Some("Hi.".to_owned()));
        let two = json!([turn("user", "Hi."), turn("assistant", "Yes?")]);
        assert_eq!(conversation(&two), Some("user: Hi.\nassistant: Yes?".to_owned()));
        for other in [json!([]), json!([1]), json!({}), json!("x"), json!([{ "text": "x" }])] {
            assert_eq!(conversation(&other), None);
        }
    }
}
