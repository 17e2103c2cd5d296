//! Normal form of prompts: prompts and conversations of a user's file in the columns of the schema.
//!
//! A system message and a prompt of messages become the row's conversation, and its transcript becomes the
//! prompt's text. A row of `prompts` with nothing but a prompt gets an id, the hash of its content, and an
//! origin.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch, StringArray};
use arrow::compute::filter_record_batch;
use serde_json::{Map, Value};

use super::context::{SYSTEM_KEYS, is_empty, take_system};
use super::turn::{ENDS_WITH_ANSWER, Turn, ensure_unanswered, parse_turns, role_content, with_system};
use crate::data::{PROMPT_MESSAGES, Prompts, Schema, Type, conversations, named, prompt_id, transcript};
use crate::error::Result;
use crate::store::files::jsonl::spell;

/// Origin of prompts without one.
pub(crate) const ORIGIN_GIVEN: &str = "given";

/// Columns of `prompts` that get a default value if a file lacks them.
const DEFAULTED: [&str; 3] = ["prompt_id", "origin", "parents"];

/// Whether a required column gets a default value if it is missing.
pub(crate) fn has_default(schema: &Schema, column: &str) -> bool {
    schema.name == named::PROMPTS.name && DEFAULTED.contains(&column)
}

/// Keys of answers. A row with one of them is not just a prompt.
const ANSWERS: [&str; 10] =
    ["response", "responses", "output", "completion", "completions", "answer", "chosen", "rejected", "text", "label"];

/// Whether a row's keys are those of a prompt without an answer.
pub(crate) fn is_prompt_only(has: impl Fn(&str) -> bool) -> bool {
    (has("prompt") || has(PROMPT_MESSAGES)) && !ANSWERS.iter().any(|key| has(key))
}

/// Whether `key` is a system message that the schema can hold; `keys` are the file's names of the columns.
pub(crate) fn holds_system(schema: &Schema, keys: &[String], key: &str) -> bool {
    let prompt = schema.columns.iter().find(|column| column.name == "prompt");
    let messages = schema.columns.iter().any(|column| column.name == PROMPT_MESSAGES);
    let place = messages || prompt.is_some_and(|column| column.kind == Type::Messages);
    place && SYSTEM_KEYS.contains(&key) && !keys.iter().any(|name| name == key)
}

/// Brings a row's prompt into normal form; `keys` are the file's names of the columns.
///
/// Returns whether the row has a second, different prompt next to its conversation, which is ignored.
///
/// # Errors
/// The row has two system messages, invalid messages, or a conversation that ends with an answer.
pub(crate) fn normalize_row(
    schema: &Schema,
    keys: &[String],
    row: &mut Map<String, Value>,
) -> std::result::Result<bool, String> {
    let place = |name: &str| schema.columns.iter().position(|column| column.name == name);
    let Some(prompt) = place("prompt") else { return Ok(false) };
    let mut other_prompt = false;
    let system = match SYSTEM_KEYS.iter().any(|key| holds_system(schema, keys, key) && row.contains_key(*key)) {
        true => take_system(row)?,
        false => None,
    };
    let key = &keys[prompt];
    if let Some(messages) = place(PROMPT_MESSAGES) {
        other_prompt = conversation(row, key, &keys[messages], system)?;
    } else if let (Some(system), Some(value)) = (system, row.get_mut(key)) {
        let mut before = parse_turns(key, value.take())?;
        with_system(&mut before, Some(system))?;
        *value = as_json(&before);
    }
    if schema.name == named::PROMPTS.name {
        fill_defaults(row, schema, keys);
    }
    Ok(other_prompt)
}

/// Stores a prompt of messages under the key of conversations, and its transcript under the key of the text.
/// Returns whether a different prompt was there.
fn conversation(
    row: &mut Map<String, Value>,
    key: &str,
    messages_key: &str,
    system: Option<String>,
) -> std::result::Result<bool, String> {
    let given = [messages_key, key].into_iter().find(|key| row.get(*key).is_some_and(Value::is_array));
    let mut before = match given {
        Some(given) => parse_turns(given, row.get_mut(given).map(Value::take).unwrap_or_default())?,
        None if system.is_none() => return Ok(false),
        None => match row.get(key) {
            Some(Value::String(text)) => vec![Turn::new("user", text)],
            Some(other) => return Err(format!("key `{key}` is {}, expected text or a list of messages", spell(other))),
            None => return Ok(false),
        },
    };
    if before.is_empty() {
        return Err(format!("key `{}` has no turn", given.unwrap_or(key)));
    }
    let beside = row.get(key).filter(|_| given == Some(messages_key));
    let other_prompt = beside.is_some_and(|value| !is_prompt_of(value, &before));
    with_system(&mut before, system)?;
    let before = ensure_unanswered(before).map_err(|why| format!("key `{}` {why}", given.unwrap_or(key)))?;
    let single = matches!(&before[..], [one] if one.role == "user");
    row.insert(messages_key.to_owned(), if single { Value::Null } else { as_json(&before) });
    row.insert(key.to_owned(), transcript(&role_content(&before)).into());
    Ok(other_prompt)
}

/// Whether `prompt` repeats the conversation next to it, as transcript or messages, or is empty.
pub(crate) fn is_prompt_of(prompt: &Value, conversation: &[Turn]) -> bool {
    match prompt {
        Value::String(text) if !is_empty(prompt) => *text == transcript(&role_content(conversation)),
        Value::Array(messages) if !is_empty(prompt) => {
            messages.iter().cloned().eq(conversation.iter().map(Turn::as_given))
        }
        other => is_empty(other),
    }
}

/// Rows of a Parquet file in the normal form of [`normalize_row`].
pub(crate) struct Normalized {
    /// The valid rows.
    pub rows: RecordBatch,
    /// The invalid rows by position, with the reason.
    pub bad: BTreeMap<usize, String>,
    /// Number of rows with a second, different prompt next to their conversation, which is ignored.
    pub other_prompts: u64,
}

/// Brings the conversations of a batch into the normal form of [`normalize_row`]: a conversation has turns
/// and does not end with an answer; `prompt` is its transcript; a single user message is stored as text only.
///
/// # Errors
/// The batch does not follow the schema.
pub(crate) fn normalize_batch(schema: &'static Schema, rows: RecordBatch) -> Result<Normalized> {
    let (mut bad, mut other_prompts, mut changed) = (BTreeMap::new(), 0, false);
    if rows.column_by_name(PROMPT_MESSAGES).is_none_or(|messages| messages.null_count() == messages.len()) {
        return Ok(Normalized { rows, bad, other_prompts });
    }
    let prompts = Prompts::new(&rows)?;
    let (mut texts, mut messages) = (Vec::new(), Vec::new());
    for row in 0..rows.num_rows() {
        let Some(turns) = prompts.conversation(row) else {
            texts.push(prompts.text(row).to_owned());
            messages.push(None);
            continue;
        };
        match turns.last() {
            None => drop(bad.insert(row, format!("column `{PROMPT_MESSAGES}`: it has no turn"))),
            Some(("assistant", _)) => {
                drop(bad.insert(row, format!("column `{PROMPT_MESSAGES}`: it {ENDS_WITH_ANSWER}")))
            }
            Some(_) => {
                let text = transcript(&turns);
                let other = text != prompts.text(row);
                other_prompts += u64::from(other && !is_empty(&prompts.text(row).into()));
                let single = matches!(&turns[..], [("user", _)]);
                changed |= other || single;
                texts.push(text);
                messages.push((!single).then_some(turns));
            }
        }
    }
    if bad.is_empty() && !changed {
        return Ok(Normalized { rows, bad, other_prompts });
    }
    let keep: BooleanArray = (0..rows.num_rows()).map(|row| Some(!bad.contains_key(&row))).collect();
    let mut columns = filter_record_batch(&rows, &keep)?.columns().to_vec();
    for (place, column) in schema.columns.iter().enumerate() {
        match column.name {
            "prompt" => columns[place] = Arc::new(StringArray::from_iter_values(&texts)),
            PROMPT_MESSAGES => columns[place] = conversations(&messages)?,
            _ => {}
        }
    }
    Ok(Normalized { rows: schema.batch(columns)?, bad, other_prompts })
}

fn fill_defaults(row: &mut Map<String, Value>, schema: &Schema, keys: &[String]) {
    let key = |name: &str| schema.columns.iter().zip(keys).find(|(column, _)| column.name == name).map(|(_, key)| key);
    let text = key("prompt").and_then(|key| row.get(key)).and_then(Value::as_str).map(str::to_owned);
    let conversation = key(PROMPT_MESSAGES).and_then(|key| row.get(key)).filter(|value| value.is_array()).cloned();
    let conversation = conversation.and_then(|value| parse_turns(PROMPT_MESSAGES, value).ok());
    let id = match (conversation, text) {
        (Some(turns), _) => prompt_id(&role_content(&turns)),
        (None, Some(text)) => prompt_id(&[("user", text.as_str())]),
        // The row lacks a prompt, which is reported later.
        (None, None) => return,
    };
    for (name, value) in
        [("prompt_id", Value::from(id)), ("origin", ORIGIN_GIVEN.into()), ("parents", Value::Array(Vec::new()))]
    {
        if let Some(key) = key(name)
            && row.get(key).is_none_or(Value::is_null)
        {
            row.insert(key.clone(), value);
        }
    }
}

/// Turns as JSON.
fn as_json(turns: &[Turn]) -> Value {
    turns.iter().map(Turn::to_json).collect()
}
