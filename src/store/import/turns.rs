//! Turns of conversations in common forms: `{role, content}`, `{from, value}`, or alternating plain texts.

use serde_json::Value;

use super::record::Record;
use crate::store::datasets::context::{MESSAGE_KEYS, is_empty};
use crate::store::files::jsonl::{list, spell, text};

/// Speaker of a turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    System,
    User,
    Assistant,
    /// A tool, or a call of one.
    Tool,
    Other,
}

impl Role {
    pub fn from_name(name: &str) -> Self {
        match name {
            "human" | "user" | "prompter" => Self::User,
            "gpt" | "chatgpt" | "bing" | "bard" | "model" | "assistant" => Self::Assistant,
            "system" | "developer" => Self::System,
            "tool" | "function" | "function_call" | "tool_call" | "observation" | "function_response"
            | "tool_response" | "ipython" => Self::Tool,
            _ => Self::Other,
        }
    }

    /// The role's name in chat templates.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
            Self::Other => "other",
        }
    }
}

/// One turn.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ImportedTurn {
    pub role: Role,
    /// The role's name in the file.
    pub spelled: String,
    pub text: String,
    /// Reason for leaving out rows with this turn, if it is more than its text.
    pub beyond_text: Option<&'static str>,
    /// Whether the file marks the answer as not to be trained on.
    pub untrained: bool,
}

impl ImportedTurn {
    /// A user's turn.
    pub fn question(text: String) -> Self {
        plain_turn(0, text)
    }

    /// The role for chat templates: a known one, or the name in the file.
    pub fn role_name(&self) -> &str {
        if self.role == Role::Other { &self.spelled } else { self.role.name() }
    }
}

/// Reason for leaving out an answer that is not to be trained on.
pub(super) const UNTRAINED: &str = "an answer that is not to be trained on";

/// Reason for leaving out a row with a tool call.
pub(super) const TOOL_CALL: &str = "a tool call or its result";

/// Takes the turns under a key: a list of objects, a list of texts of user and assistant alternately, or one
/// object.
pub(super) fn take_turns(record: &mut Record, key: &str) -> Result<Vec<ImportedTurn>, String> {
    match record.peek(key) {
        Some(Value::Array(items)) if items.first().is_some_and(Value::is_string) => {
            let texts = record.required(key, |value| list(value, text))?;
            Ok(texts.into_iter().enumerate().map(|(at, text)| plain_turn(at, text)).collect())
        }
        Some(Value::Object(_)) => Ok(vec![record.record(key, turn)?]),
        _ => record.records(key, turn),
    }
}

fn plain_turn(at: usize, text: String) -> ImportedTurn {
    let role = if at.is_multiple_of(2) { Role::User } else { Role::Assistant };
    ImportedTurn { role, spelled: role.name().to_owned(), text, beyond_text: None, untrained: false }
}

/// Reads one turn.
fn turn(record: &mut Record) -> Result<ImportedTurn, String> {
    let (who, what) = if record.contains("from") { ("from", "value") } else { ("role", "content") };
    let spelled = record.text(who)?;
    let role = Role::from_name(&spelled);
    let mut beyond_text = (role == Role::Tool).then_some(TOOL_CALL);
    for key in MESSAGE_KEYS {
        if record.take(key).is_some_and(|value| !is_empty(&value)) {
            beyond_text = Some(TOOL_CALL);
        }
    }
    // OpenAI's `weight` and others' `train` exclude an answer from the loss.
    let flags = [record.take("weight"), record.take("train")];
    let off = flags.iter().flatten().any(|flag| flag.as_f64() == Some(0.) || flag == &Value::Bool(false));
    let untrained = role == Role::Assistant && off;
    let (text, other_parts) = match record.take(what) {
        None if beyond_text == Some(TOOL_CALL) => (String::new(), false),
        None if !record.contains(what) => return Err(format!("lacks `{what}`")),
        None => return Err(format!("`{what}` is null, expected text")),
        Some(value) => content(value).map_err(|why| format!("`{what}` {why}"))?,
    };
    if other_parts {
        beyond_text = beyond_text.or(Some("images or other parts that are no text"));
    }
    if role == Role::Assistant && is_tool_call(&text) {
        beyond_text = beyond_text.or(Some(TOOL_CALL));
    }
    Ok(ImportedTurn { role, spelled, text, beyond_text, untrained })
}

/// The text of a message, and whether it has parts other than text.
fn content(value: Value) -> Result<(String, bool), String> {
    let parts = match value {
        Value::String(text) => return Ok((text, false)),
        Value::Array(parts) => parts,
        other => return Err(format!("is {}, expected text", spell(&other))),
    };
    let (mut all, mut other_parts) = (String::new(), false);
    for part in &parts {
        match part.get("text") {
            Some(Value::String(text)) => all.push_str(text),
            _ => other_parts = true,
        }
    }
    Ok((all, other_parts))
}

/// Whether an answer begins with a mark that models write before a tool call.
pub(super) fn is_tool_call(answer: &str) -> bool {
    const MARKS: [&str; 6] =
        ["<tool_call>", "<functioncall>", "<function_call>", "<function=", "<|python_tag|>", "[TOOL_CALLS]"];
    let answer = answer.trim_start();
    MARKS.iter().any(|mark| answer.starts_with(mark))
}

/// Whether a value is a list of messages without an assistant's turn.
pub(super) fn is_unanswered(messages: &Value) -> bool {
    let Value::Array(messages) = messages else { return false };
    let role = |message: &Value| message.get("role").and_then(Value::as_str).map(Role::from_name);
    !messages.is_empty() && messages.iter().all(|message| matches!(role(message), Some(Role::User | Role::System)))
}
