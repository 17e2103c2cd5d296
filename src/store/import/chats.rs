//! Conversations: every answer of one becomes a row, with the conversation before it as its prompt.

use serde_json::{Map, Value, json};

use super::context::Context;
use super::formats::Sink;
use super::record::Record;
use super::turns::{Role, TOOL_CALL, Turn, UNTRAINED, take_turns};
use crate::data::prompt_id;
use crate::store::asked::{GIVEN, said};
use crate::store::conversations::{self, take_prompt};

/// Which answers of a conversation become rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Turns {
    /// Every one, each with all that was said before it.
    #[default]
    All,
    /// The first.
    First,
}

const NO_ANSWER: &str = "no question with an answer";

/// A conversation under `conversations` or `messages`.
pub(super) fn conversation(
    record: &mut Record,
    context: &Context,
    which: Turns,
    sink: &mut Sink,
) -> Result<(), String> {
    let key = if record.contains("conversations") { "conversations" } else { "messages" };
    let turns = take_turns(record, key)?;
    // UltraChat repeats the first question beside the messages.
    let question = turns.iter().find(|turn| turn.role == Role::User).map(|turn| turn.text.trim());
    if question.is_some() && record.peek("prompt").and_then(Value::as_str).map(str::trim) == question {
        record.take("prompt");
    }
    answers(record, context, turns, 0, which, sink);
    Ok(())
}

/// Takes the answers among `turns` from the one at `from` on.
pub(super) fn answers(
    record: &mut Record,
    context: &Context,
    turns: Vec<Turn>,
    from: usize,
    which: Turns,
    sink: &mut Sink,
) {
    let mut before: Vec<conversations::Turn> = Vec::new();
    let (mut beyond, mut answered) = (None, 0u64);
    let count = turns.len();
    for (at, turn) in turns.into_iter().enumerate() {
        if which == Turns::First && answered > 0 {
            record.report("turns after the first answer".to_owned());
            break;
        }
        if turn.role == Role::System && turn.text.trim().is_empty() {
            continue;
        }
        beyond = beyond.or(turn.beyond_text).or(match turn.role {
            Role::Tool => Some(TOOL_CALL),
            Role::Other => Some("a role that is none of system, user and assistant"),
            _ => None,
        });
        let asked = before.last().is_some_and(|last| last.role == "user");
        if turn.role == Role::Assistant && asked && at >= from {
            answered += 1;
            match (beyond, context.before(before.clone())) {
                (Some(why), _) => sink.leave_out(why),
                (None, Err(_)) => sink.leave_out("two system messages"),
                (None, Ok(_)) if turn.untrained => sink.leave_out(UNTRAINED),
                (None, Ok(before)) => sink.answer(&before, &turn.text),
            }
        }
        if turn.role == Role::User && at + 1 == count && answered > 0 {
            record.report("a last question without an answer".to_owned());
        }
        before.push(conversations::Turn::new(turn.role_name(), turn.text.trim()));
    }
    if answered == 0 {
        sink.leave_out(beyond.unwrap_or(NO_ANSWER));
    }
}

/// A prompt without any answer: a text or messages.
pub(super) fn prompt(record: &mut Record, context: &Context, sink: &mut Sink) -> Result<(), String> {
    let mut row = Map::new();
    for key in ["prompt", "messages"] {
        if !row.contains_key("prompt")
            && let Some(value) = record.take(key)
        {
            row.insert(key.to_owned(), value);
        }
    }
    let given_id = record.optional_text("prompt_id")?.filter(|id| !id.is_empty());
    let before = context.before(take_prompt(&mut row)?.turns())?;
    if before.last().is_none_or(|last| last.content.trim().is_empty()) {
        sink.leave_out("an empty prompt");
        return Ok(());
    }
    let id = given_id.unwrap_or_else(|| prompt_id(&said(&before)));
    let mut row = json!({ "prompt_id": id, "origin": GIVEN, "parents": [], "model": null });
    super::formats::put_prompt(&mut row, &before);
    sink.push(row);
    Ok(())
}
