//! MT-Bench's questions (arXiv 2306.05685).

use serde_json::{Value, json};

use super::format::{Convert, FormatDef, RowOptions};
use crate::data::{named, prompt_id};
use crate::store::datasets::turn::role_content;
use crate::store::files::jsonl::{list, spell, text};
use crate::store::import::context::QuestionContext;
use crate::store::import::record::Record;
use crate::store::import::sink::{RowSink, put_prompt};

pub(super) static DEF: FormatDef = FormatDef {
    name: "mt-bench",
    about: "question.jsonl, to `prompts`: the first turns; columns after them hold the second turn and the reference",
    recognised_by: "`question_id` and `turns`",
    reads: "`question_id`, `category`, `turns`, the first `reference`",
    keys: &["category", "question_id", "reference", "turns"],
    targets: &[&named::PROMPTS],
    // Only the first turn becomes the prompt.
    extra: &["question_id", "category", "turn_2", "reference"],
    recognises: |row| row.contains("question_id") && row.contains("turns"),
    convert: Convert::Row(mt_bench),
};

/// Converts a line of question.jsonl: question_id, category, turns and, in some lines, a reference answer per
/// turn.
fn mt_bench(record: &mut Record, context: &QuestionContext, _: &RowOptions, sink: &mut RowSink) -> Result<(), String> {
    let turns = record.required("turns", |value| list(value, text))?;
    let id = record.required("question_id", |value| match value {
        Value::Number(number) => Ok(number.to_string()),
        Value::String(text) => Ok(text),
        other => Err(format!("is {}, expected a number", spell(&other))),
    })?;
    let category = record.optional_text("category")?;
    let mut reference = record.optional("reference", |value| list(value, text))?.unwrap_or_default().into_iter();
    let first_reference = reference.next();
    if reference.next().is_some() {
        record.report("reference (of the second turn)".to_owned());
    }
    let mut turns = turns.into_iter();
    let prompt = turns.next().unwrap_or_default();
    if prompt.trim().is_empty() {
        sink.leave_out("an empty first turn");
        return Ok(());
    }
    let turn_2 = turns.next();
    if turns.next().is_some() {
        return Err("has more than two turns, which no question of MT-Bench has".into());
    }
    let before = context.question(&prompt);
    let mut row = json!({
        "prompt_id": prompt_id(&role_content(&before)), "origin": "mt-bench", "parents": [], "model": null,
        "question_id": id, "category": category, "turn_2": turn_2, "reference": first_reference,
    });
    put_prompt(&mut row, &before);
    sink.push(row);
    Ok(())
}
