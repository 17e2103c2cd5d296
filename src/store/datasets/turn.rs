//! Turns of conversations.

use serde_json::{Map, Value, json};

use super::context::{MESSAGE_KEYS, is_empty};
use crate::store::files::jsonl::{list, member, object, text};

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// `system`, `user`, `assistant`, or another role that the chat template supports.
    pub role: String,
    /// The text.
    pub content: String,
    /// The original object, if it has other keys than role and content, or another order: chat templates see
    /// keys in their order.
    pub keys: Option<Map<String, Value>>,
}

impl Turn {
    /// A message of role and content alone.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), keys: None }
    }

    /// Parses an object with `role` and `content`.
    ///
    /// # Errors
    /// The value is something else, or calls a tool.
    pub(crate) fn parse(value: Value) -> Result<Self, String> {
        let keys = match &value {
            Value::Object(keys) if !keys.keys().eq(["role", "content"]) => Some(keys.clone()),
            _ => None,
        };
        let (role, content) = message(value)?;
        Ok(Self { role, content, keys })
    }

    /// The original object.
    pub(crate) fn as_given(&self) -> Value {
        self.keys.clone().map_or_else(|| self.to_json(), Value::Object)
    }

    /// Role and content as JSON.
    pub(crate) fn to_json(&self) -> Value {
        json!({ "role": self.role, "content": self.content })
    }
}

/// Inserts a system message before the turns of a conversation.
///
/// # Errors
/// The conversation begins with another system message.
pub(crate) fn with_system(turns: &mut Vec<Turn>, system: Option<String>) -> Result<(), String> {
    let Some(system) = system else { return Ok(()) };
    match turns.first() {
        Some(first) if first.role == "system" && first.content.trim() != system.trim() => {
            return Err("has two system messages".to_owned());
        }
        Some(first) if first.role == "system" => {}
        _ => turns.insert(0, Turn::new("system", system)),
    }
    Ok(())
}

/// Fault of a conversation that does not ask for an answer.
pub(crate) const ENDS_WITH_ANSWER: &str =
    "ends with the assistant's turn; leave that out, it is what the model is asked for";

/// Checks that the last turn of a conversation is not an answer.
pub(crate) fn ensure_unanswered(turns: Vec<Turn>) -> Result<Vec<Turn>, String> {
    match turns.last() {
        Some(last) if last.role == "assistant" => Err(ENDS_WITH_ANSWER.to_owned()),
        _ => Ok(turns),
    }
}

pub(crate) fn parse_turns(key: &str, value: Value) -> Result<Vec<Turn>, String> {
    list(value, Turn::parse).map_err(|e| format!("key `{key}` {e}"))
}

pub(crate) fn message(value: Value) -> Result<(String, String), String> {
    let mut map = object(value)?;
    let has = |key: &&&str| map.get(**key).is_some_and(|value| !is_empty(value));
    if let Some(key) = MESSAGE_KEYS.iter().find(has) {
        return Err(format!("has `{key}`, and a message here is its text only"));
    }
    Ok((member(&mut map, "role", text)?, member(&mut map, "content", text)?))
}

/// Role and content of each turn.
pub(crate) fn role_content(turns: &[Turn]) -> Vec<(&str, &str)> {
    turns.iter().map(|turn| (turn.role.as_str(), turn.content.as_str())).collect()
}

/// An instruction with its input below it, as Self-Instruct and Alpaca present them to a model.
pub(crate) fn with_input(instruction: &str, input: &str) -> String {
    match input.trim() {
        "" => instruction.trim().to_owned(),
        input => format!("{}\n\n{input}", instruction.trim()),
    }
}
