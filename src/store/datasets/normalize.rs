//! What a row of somebody else's file asks, brought into the columns that the schema has for it.
//!
//! A system message and a prompt that is a list of messages become the conversation of the row, and its transcript the
//! text of the prompt. A row of `prompts` that has a prompt only gets an id of what it says, and an origin.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch, StringArray};
use arrow::compute::filter_record_batch;
use serde_json::{Map, Value};

use super::context::{SYSTEM_KEYS, is_empty, take_system};
use super::turn::{ENDS_WITH_ANSWER, Turn, asked, said, turns, with_system};
use crate::data::{PROMPT_MESSAGES, Prompts, Schema, Type, conversations, named, prompt_id, transcript};
use crate::error::Result;
use crate::store::files::jsonl::spell;

/// Origin of prompts that do not say theirs.
pub(crate) const GIVEN: &str = "given";

/// Columns of `prompts` that are made up where a file lacks them.
const MADE_UP: [&str; 3] = ["prompt_id", "origin", "parents"];

/// Whether a column that may not be null is made up where it is missing.
pub(crate) fn is_made_up(schema: &Schema, column: &str) -> bool {
    schema.name == named::PROMPTS.name && MADE_UP.contains(&column)
}

/// Keys of answers: rows that have one are no mere prompts.
const ANSWERS: [&str; 10] =
    ["response", "responses", "output", "completion", "completions", "answer", "chosen", "rejected", "text", "label"];

/// Whether a row's keys are those of a prompt to answer, and of nothing else.
pub(crate) fn is_prompt_only(has: impl Fn(&str) -> bool) -> bool {
    (has("prompt") || has(PROMPT_MESSAGES)) && !ANSWERS.iter().any(|key| has(key))
}

/// Whether the schema has a place for a system message, and `keys`, the file's names of its columns, leave it there.
pub(crate) fn holds_system(schema: &Schema, keys: &[String], key: &str) -> bool {
    let prompt = schema.columns.iter().find(|column| column.name == "prompt");
    let messages = schema.columns.iter().any(|column| column.name == PROMPT_MESSAGES);
    let place = messages || prompt.is_some_and(|column| column.kind == Type::Messages);
    place && SYSTEM_KEYS.contains(&key) && !keys.iter().any(|name| name == key)
}

/// Brings what a row asks into the keys of its schema; `keys` are the file's names of the columns.
///
/// Returns whether the row has another prompt beside its conversation, which is not read.
///
/// # Errors
/// Two system messages, messages that are none, or a conversation that ends with an answer.
pub(crate) fn settle(
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
        let mut before = turns(key, value.take())?;
        with_system(&mut before, Some(system))?;
        *value = as_json(&before);
    }
    if schema.name == named::PROMPTS.name {
        make_up(row, schema, keys);
    }
    Ok(other_prompt)
}

/// Puts a prompt of several messages under the key of conversations, and its transcript under that of the text. Returns
/// whether another prompt stood there.
fn conversation(
    row: &mut Map<String, Value>,
    key: &str,
    messages_key: &str,
    system: Option<String>,
) -> std::result::Result<bool, String> {
    let given = [messages_key, key].into_iter().find(|key| row.get(*key).is_some_and(Value::is_array));
    let mut before = match given {
        Some(given) => turns(given, row.get_mut(given).map(Value::take).unwrap_or_default())?,
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
    let before = asked(before).map_err(|why| format!("key `{}` {why}", given.unwrap_or(key)))?;
    let single = matches!(&before[..], [one] if one.role == "user");
    row.insert(messages_key.to_owned(), if single { Value::Null } else { as_json(&before) });
    row.insert(key.to_owned(), transcript(&said(&before)).into());
    Ok(other_prompt)
}

/// Whether what stands under `prompt` says no more than the conversation beside it: its transcript, its messages, or nothing.
pub(crate) fn is_prompt_of(prompt: &Value, conversation: &[Turn]) -> bool {
    match prompt {
        Value::String(text) if !is_empty(prompt) => *text == transcript(&said(conversation)),
        Value::Array(messages) if !is_empty(prompt) => messages.iter().eq(&conversation_json(conversation)),
        other => is_empty(other),
    }
}

fn conversation_json(turns: &[Turn]) -> Vec<Value> {
    turns.iter().map(|turn| turn.keys.clone().map_or_else(|| turn.to_json(), Value::Object)).collect()
}

/// Rows of a Parquet file by the rules that [`settle`] has for others.
pub(crate) struct Settled {
    /// Those that are right.
    pub rows: RecordBatch,
    /// Those that are not by their places, each with the reason.
    pub bad: BTreeMap<usize, String>,
    /// How many had another prompt beside their conversation, which is not read.
    pub other_prompts: u64,
}

/// Brings the conversations of a batch into the form that [`settle`] gives those of rows: a conversation has turns, of which the
/// last is no answer; `prompt` is its transcript; one message of a user is a text.
///
/// # Errors
/// The batch is not of the schema.
pub(crate) fn settle_batch(schema: &'static Schema, rows: RecordBatch) -> Result<Settled> {
    let (mut bad, mut other_prompts, mut changed) = (BTreeMap::new(), 0, false);
    if rows.column_by_name(PROMPT_MESSAGES).is_none_or(|messages| messages.null_count() == messages.len()) {
        return Ok(Settled { rows, bad, other_prompts });
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
        return Ok(Settled { rows, bad, other_prompts });
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
    Ok(Settled { rows: schema.batch(columns)?, bad, other_prompts })
}

fn make_up(row: &mut Map<String, Value>, schema: &Schema, keys: &[String]) {
    let key = |name: &str| schema.columns.iter().zip(keys).find(|(column, _)| column.name == name).map(|(_, key)| key);
    let text = key("prompt").and_then(|key| row.get(key)).and_then(Value::as_str).map(str::to_owned);
    let conversation = key(PROMPT_MESSAGES).and_then(|key| row.get(key)).filter(|value| value.is_array()).cloned();
    let conversation = conversation.and_then(|value| turns(PROMPT_MESSAGES, value).ok());
    let id = match (conversation, text) {
        (Some(turns), _) => prompt_id(&said(&turns)),
        (None, Some(text)) => prompt_id(&[("user", text.as_str())]),
        // The row has no prompt, which is what is wrong with it.
        (None, None) => return,
    };
    for (name, value) in
        [("prompt_id", Value::from(id)), ("origin", GIVEN.into()), ("parents", Value::Array(Vec::new()))]
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
