//! A turn of a conversation.

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`, or another role that the template supports.
    pub role: String,
    /// Text of the turn. It is never interpreted; see
    /// [`Tokenizer::encode_chat`](super::tokenizer::Tokenizer::encode_chat).
    pub content: String,
    /// The message as in its file, if the file has more than role and content in this order. The chat
    /// template sees these keys in their order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<serde_json::Map<String, Json>>,
}

impl Message {
    /// Creates a turn.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), keys: None }
    }

    /// Returns the same message with other content.
    pub(crate) fn with_content(&self, content: String) -> Self {
        Self { content, ..self.clone() }
    }

    /// Iterates over the keys other than role and content.
    pub(crate) fn other_keys(&self) -> impl Iterator<Item = (&str, &Json)> {
        let keys = self.keys.iter().flatten();
        keys.map(|(key, value)| (key.as_str(), value)).filter(|(key, _)| !matches!(*key, "role" | "content"))
    }
}
