//! A turn of a conversation.

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`; others if the template knows them.
    pub role: String,
    /// What was said; never interpreted, see [`Tokenizer::encode_chat`](super::tokenizer::Tokenizer::encode_chat).
    pub content: String,
    /// The message as its file has it, where that is anything else than role and content in this order: the chat template
    /// sees these keys, in their order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<serde_json::Map<String, Json>>,
}

impl Message {
    /// A turn.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), keys: None }
    }

    /// The same with other content.
    pub(crate) fn with_content(&self, content: String) -> Self {
        Self { content, ..self.clone() }
    }

    /// The keys that are neither role nor content.
    pub(crate) fn other_keys(&self) -> impl Iterator<Item = (&str, &Json)> {
        let keys = self.keys.iter().flatten();
        keys.map(|(key, value)| (key.as_str(), value)).filter(|(key, _)| !matches!(*key, "role" | "content"))
    }
}
