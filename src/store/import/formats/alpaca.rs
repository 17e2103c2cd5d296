//! Instructions with answers: Alpaca, Dolly, or a prompt with a completion.

use serde_json::Value;

use super::format::{Convert, FormatDef, RowOptions};
use crate::data::named;
use crate::store::datasets::turn::with_input;
use crate::store::import::chats::answers;
use crate::store::import::context::QuestionContext;
use crate::store::import::record::Record;
use crate::store::import::sink::RowSink;
use crate::store::import::turns::take_turns;

pub(super) static DEF: FormatDef = FormatDef {
    name: "alpaca",
    about: "instruction, input, output; Dolly's context and response; question and answer; prompt and completion",
    recognised_by: "`instruction` with `output` or `response`; `question` with `answer` or `response`; `prompt` with \
                    `completion` and without `label`",
    reads: "`instruction`, `question` or `prompt`; `input` or `context`, which is placed below the question; `output`, \
            `response`, `completion` or `answer`. Alpaca, Dolly, GSM8K, TRL's prompt-completion form (text or \
            messages)",
    keys: &[
        "answer",
        "completion",
        "context",
        "input",
        "instruction",
        "label",
        "output",
        "prompt",
        "question",
        "response",
    ],
    targets: &[&named::IFT],
    extra: &[],
    recognises: |row| {
        let has = |key: &str| row.contains(key);
        has("instruction") && (has("output") || has("response"))
            || has("question") && (has("answer") || has("response"))
            // A row with a label is TRL's unpaired form, whose answer may be a bad one.
            || has("prompt") && has("completion") && !has("label")
    },
    convert: Convert::Row(instruction),
};

/// Keys of the question; the first one that exists is read.
const QUESTIONS: [&str; 3] = ["instruction", "question", "prompt"];

/// Keys of the question's input.
const CONTEXTS: [&str; 2] = ["input", "context"];

/// Keys of the answer.
const ANSWERS: [&str; 4] = ["output", "response", "completion", "answer"];

/// Converts an instruction with its answer: Alpaca, Dolly, or a prompt with a completion.
fn instruction(
    record: &mut Record,
    context: &QuestionContext,
    options: &RowOptions,
    sink: &mut RowSink,
) -> Result<(), String> {
    let question = QUESTIONS.into_iter().find(|key| record.contains(key)).unwrap_or(QUESTIONS[0]);
    let answer = ANSWERS.into_iter().find(|key| record.contains(key)).unwrap_or(ANSWERS[0]);
    if record.peek(question).is_some_and(Value::is_array) {
        let mut turns = take_turns(record, question)?;
        // Answers in the prompt itself do not become rows.
        let from = turns.len();
        turns.extend(take_turns(record, answer)?);
        answers(record, context, turns, from, options.turns, sink);
        return Ok(());
    }
    let asked = record.plain_text(question)?;
    let about = CONTEXTS.into_iter().find(|key| record.has(key));
    let about = about.map(|key| record.text(key)).transpose()?.unwrap_or_default();
    let answered = record.plain_text(answer)?;
    sink.answer(&context.question(&with_input(&asked, &about)), &answered);
    Ok(())
}
