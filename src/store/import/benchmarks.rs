//! Converters of evaluation sets: MT-Bench's questions (arXiv 2306.05685) and LLMBar's pairs (arXiv
//! 2310.07641).

use serde_json::{Value, json};

use super::context::Context;
use super::record::Record;
use super::sink::{Ranked, RowSink, put_prompt};
use crate::data::{hash_hex, prompt_id};
use crate::store::datasets::turn::role_content;
use crate::store::files::jsonl::{list, spell, text};

/// Additional columns of a question. Only the first turn becomes the prompt; the second one is kept in a
/// column.
pub(super) const MT_BENCH: &[&str] = &["question_id", "category", "turn_2", "reference"];

/// Converts a line of question.jsonl: question_id, category, turns and, in some lines, a reference answer per
/// turn.
pub(super) fn mt_bench(record: &mut Record, context: &Context, sink: &mut RowSink) -> Result<(), String> {
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

/// Converts a row of LLMBar's dataset.json: input, output_1, output_2 and label, 1 or 2, the output that
/// people prefer. The preferred output gets rank 0.
pub(super) fn llmbar(record: &mut Record, context: &Context, sink: &mut RowSink) -> Result<(), String> {
    let input = record.text("input")?;
    let outputs = [record.text("output_1")?, record.text("output_2")?];
    let label = record.take("label");
    let best = match label.as_ref().and_then(Value::as_f64) {
        Some(1.) => 0,
        Some(2.) => 1,
        _ => {
            let found = label.as_ref().map_or("missing".into(), spell);
            return Err(format!("`label` is {found}, expected 1 or 2"));
        }
    };
    // An instruction can occur in several pairs, so the id includes the outputs.
    let prompt_id = hash_hex([&input, &outputs[0], &outputs[1]]);
    let answer = |(i, text): (usize, &String)| Ranked {
        id: hash_hex([prompt_id.as_str(), &i.to_string(), text]),
        text: text.clone(),
        rank: u32::from(i != best),
        score: None,
    };
    sink.ranked(&prompt_id, &context.question(&input), outputs.iter().enumerate().map(answer).collect());
    Ok(())
}
