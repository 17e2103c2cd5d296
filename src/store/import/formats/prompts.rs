//! Prompts without answers: a key `prompt`, or messages that end with a question.

use serde_json::{Value, json};

use super::format::{Convert, FormatDef, RowOptions};
use crate::data::{PROMPT_MESSAGES, named, prompt_id, transcript};
use crate::store::datasets::context::is_empty;
use crate::store::datasets::normalize::{ORIGIN_GIVEN, is_prompt_only};
use crate::store::datasets::turn;
use crate::store::datasets::turn::{ensure_unanswered, role_content};
use crate::store::import::chats::{TWO_SYSTEMS, beyond_text};
use crate::store::import::context::QuestionContext;
use crate::store::import::record::Record;
use crate::store::import::sink::{RowSink, put_prompt};
use crate::store::import::turns::{ImportedTurn, is_unanswered, take_turns};

pub(super) static DEF: FormatDef = FormatDef {
    name: "prompts",
    about: "prompts without answers: `prompt`, a text or messages, or `messages`; a .txt file with one prompt per \
            line",
    recognised_by: "`prompt` without an answer and without `origin`; `messages` without an assistant's turn; a `.txt` \
                    file",
    reads: "`prompt_messages`, or else `prompt`, a text or messages, or else `messages`; `prompt_id`",
    keys: &[
        "answer",
        "chosen",
        "completion",
        "completions",
        "conversations",
        "label",
        "messages",
        "origin",
        "output",
        "prompt",
        "prompt_id",
        "prompt_messages",
        "rejected",
        "response",
        "responses",
        "text",
    ],
    targets: &[&named::PROMPTS],
    extra: &[],
    recognises: |row| {
        let unanswered = row.peek("messages").is_some_and(is_unanswered) && !row.contains("conversations");
        // Rows of reflux's own schema have an `origin`.
        unanswered || is_prompt_only(|key| row.contains(key)) && !row.contains("origin")
    },
    convert: Convert::Row(prompt),
};

/// Converts a prompt without an answer: a text or messages.
fn prompt(record: &mut Record, context: &QuestionContext, _: &RowOptions, sink: &mut RowSink) -> Result<(), String> {
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
        Some(Value::String(_)) if !stored => vec![ImportedTurn::question(record.plain_text(key)?)],
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
