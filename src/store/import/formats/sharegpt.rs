//! ShareGPT: conversations of `{from, value}`, or of `{role, content}`.

use serde_json::Value;

use super::format::{Convert, FormatDef, RowOptions};
use crate::data::named;
use crate::store::import::chats::answers;
use crate::store::import::context::QuestionContext;
use crate::store::import::record::Record;
use crate::store::import::sink::RowSink;
use crate::store::import::turns::{Role, is_unanswered, take_turns};

pub(super) static DEF: FormatDef = FormatDef {
    name: "sharegpt",
    about: "conversations, or messages: every answer with the conversation before it (ShareGPT, UltraChat, OpenAI, \
            LIMA)",
    recognised_by: "`conversations`; `messages` with an assistant's turn",
    reads: "every answer to a person's question, with the conversation before it: objects `{from, value}` or \
            `{role, content}`, content as text or as a list of text parts, or plain texts by user and assistant in \
            turn. ShareGPT, UltraChat (`prompt` beside `messages`), OpenAI's fine-tuning files, LIMA",
    keys: &["conversations", "messages", "prompt"],
    targets: &[&named::IFT],
    extra: &[],
    recognises: |row| {
        row.contains("conversations") || row.contains("messages") && !row.peek("messages").is_some_and(is_unanswered)
    },
    convert: Convert::Row(conversation),
};

/// Converts a conversation under `conversations` or `messages`.
fn conversation(
    record: &mut Record,
    context: &QuestionContext,
    options: &RowOptions,
    sink: &mut RowSink,
) -> Result<(), String> {
    let key = if record.contains("conversations") { "conversations" } else { "messages" };
    let turns = take_turns(record, key)?;
    // UltraChat repeats the first question next to the messages.
    let question = turns.iter().find(|turn| turn.role == Role::User).map(|turn| turn.text.trim());
    if question.is_some() && record.peek("prompt").and_then(Value::as_str).map(str::trim) == question {
        record.take("prompt");
    }
    answers(record, context, turns, 0, options.turns, sink);
    Ok(())
}
