//! Converter of conversations: every answer becomes a row, with the conversation before it as the prompt.

use serde_json::{Value, json};

use super::context::Context;
use super::record::Record;
use super::sink::{REPEATED, RowSink, is_too_repetitive, put_prompt, turn_bytes};
use super::turns::{Role, TOOL_CALL, Turn, UNTRAINED, take_turns};
use crate::data::{PROMPT_MESSAGES, prompt_id, transcript};
use crate::store::datasets::context::is_empty;
use crate::store::datasets::normalize::ORIGIN_GIVEN;
use crate::store::datasets::turn;
use crate::store::datasets::turn::{ensure_unanswered, role_content};

/// Which answers of a conversation become rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Turns {
    /// Every answer, with all previous turns.
    #[default]
    All,
    /// The first answer.
    First,
}

const NO_ANSWER: &str = "no question with an answer";
const NO_QUESTION: &str = "an answer that follows no question";
const TWO_SYSTEMS: &str = "two system messages";

/// Converts a conversation under `conversations` or `messages`.
pub(super) fn conversation(
    record: &mut Record,
    context: &Context,
    which: Turns,
    sink: &mut RowSink,
) -> Result<(), String> {
    let key = if record.contains("conversations") { "conversations" } else { "messages" };
    let turns = take_turns(record, key)?;
    // UltraChat repeats the first question next to the messages.
    let question = turns.iter().find(|turn| turn.role == Role::User).map(|turn| turn.text.trim());
    if question.is_some() && record.peek("prompt").and_then(Value::as_str).map(str::trim) == question {
        record.take("prompt");
    }
    answers(record, context, turns, 0, which, sink);
    Ok(())
}

/// Converts the answers among `turns`, from position `from` on.
pub(super) fn answers(
    record: &mut Record,
    context: &Context,
    turns: Vec<Turn>,
    from: usize,
    which: Turns,
    sink: &mut RowSink,
) {
    if which == Turns::All && is_too_repetitive(prompt_sizes(context, &turns, from)) {
        return sink.leave_out(REPEATED);
    }
    let mut before: Vec<turn::Turn> = Vec::new();
    let (mut beyond, mut answered, mut unasked) = (None, 0u64, 0u64);
    let count = turns.len();
    for (at, turn) in turns.into_iter().enumerate() {
        if which == Turns::First && answered > 0 {
            record.report("turns after the first answer".to_owned());
            break;
        }
        if turn.role == Role::System && turn.text.trim().is_empty() {
            continue;
        }
        beyond = beyond.or(beyond_text(&turn));
        if turn.role == Role::Assistant && at >= from {
            if before.last().is_some_and(|last| last.role == "user") {
                answered += 1;
                answer(&turn, beyond, context, &before, sink);
            } else {
                unasked += 1;
            }
        }
        if turn.role == Role::User && at + 1 == count && answered > 0 {
            record.report("a last question without an answer".to_owned());
        }
        before.push(turn::Turn::new(turn.role_name(), turn.text.trim()));
    }
    match answered {
        0 => sink.leave_out(beyond.unwrap_or(NO_ANSWER)),
        _ => sink.leave_out_all(beyond.unwrap_or(NO_QUESTION), unasked),
    }
}

/// Adds a row for an answer with its previous turns, or counts the reason for leaving it out.
fn answer(turn: &Turn, beyond: Option<&'static str>, context: &Context, before: &[turn::Turn], sink: &mut RowSink) {
    if let Some(why) = beyond {
        return sink.leave_out(why);
    }
    match context.before(before.to_vec()) {
        Err(_) => sink.leave_out(TWO_SYSTEMS),
        Ok(_) if turn.untrained => sink.leave_out(UNTRAINED),
        Ok(before) => sink.answer(&before, &turn.text),
    }
}

/// Approximate size in bytes of each answer's prompt.
fn prompt_sizes(context: &Context, turns: &[Turn], from: usize) -> impl Iterator<Item = usize> {
    let mut size = context.turns().map(|turn| turn_bytes(&turn.role, &turn.content)).sum::<usize>();
    let mut asked = false;
    turns.iter().enumerate().filter_map(move |(at, turn)| {
        let prompt = (turn.role == Role::Assistant && asked && at >= from).then_some(size);
        size += turn_bytes(turn.role_name(), &turn.text);
        asked = turn.role == Role::User;
        prompt
    })
}

/// Reason for leaving out rows with this turn, if any.
fn beyond_text(turn: &Turn) -> Option<&'static str> {
    turn.beyond_text.or(match turn.role {
        Role::Tool => Some(TOOL_CALL),
        Role::Other => Some("a role other than system, user and assistant"),
        _ => None,
    })
}

/// Converts a prompt without an answer: a text or messages.
pub(super) fn prompt(record: &mut Record, context: &Context, sink: &mut RowSink) -> Result<(), String> {
    let given_id = record.optional_text("prompt_id")?.filter(|id| !id.is_empty());
    // Reflux's own rows have the conversation next to its transcript.
    let stored = record.peek(PROMPT_MESSAGES).is_some_and(|messages| !is_empty(messages));
    let key = match stored {
        true => PROMPT_MESSAGES,
        false if record.has("prompt") => "prompt",
        false => "messages",
    };
    let turns = match record.peek(key) {
        None => return Err("lacks `prompt` and `messages`".to_owned()),
        Some(Value::String(_)) if !stored => vec![Turn::question(record.plain_text(key)?)],
        Some(_) => take_turns(record, key)?,
    };
    if let Some(why) = turns.iter().find_map(beyond_text) {
        sink.leave_out(why);
        return Ok(());
    }
    let turns = turns.iter().map(|turn| turn::Turn::new(turn.role_name(), turn.text.clone()));
    let turns = ensure_unanswered(turns.collect()).map_err(|why| format!("`{key}` {why}"))?;
    if stored && record.peek("prompt").and_then(Value::as_str) == Some(&transcript(&role_content(&turns))) {
        record.take("prompt");
    }
    let Ok(before) = context.before(turns) else {
        sink.leave_out(TWO_SYSTEMS);
        return Ok(());
    };
    if before.last().is_none_or(|last| last.content.trim().is_empty()) {
        sink.leave_out("an empty prompt");
        return Ok(());
    }
    let id = given_id.unwrap_or_else(|| prompt_id(&role_content(&before)));
    let mut row = json!({ "prompt_id": id, "origin": ORIGIN_GIVEN, "parents": [], "model": null });
    put_prompt(&mut row, &before);
    sink.push(row);
    Ok(())
}
