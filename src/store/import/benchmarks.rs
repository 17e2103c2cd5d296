//! Public sets to evaluate with: MT-Bench's questions (arXiv 2306.05685) and LLMBar's pairs (arXiv 2310.07641).

use serde_json::{Value, json};

use super::context::Context;
use super::record::Record;
use super::sink::{Ranked, Sink, put_prompt};
use crate::data::{hash_hex, prompt_id};
use crate::store::datasets::turn::said;
use crate::store::files::jsonl::{list, spell, text};

/// What of a question is kept beside the prompt. Only the first turn is asked; the others are told, not lost.
pub(super) const MT_BENCH: &[&str] = &["question_id", "category", "turn_2", "reference"];

/// A line of question.jsonl: question_id, category, turns and, for some, reference answers, a turn each.
pub(super) fn mt_bench(record: &mut Record, context: &Context, sink: &mut Sink) -> Result<(), String> {
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
        "prompt_id": prompt_id(&said(&before)), "origin": "mt-bench", "parents": [], "model": null,
        "question_id": id, "category": category, "turn_2": turn_2, "reference": first_reference,
    });
    put_prompt(&mut row, &before);
    sink.push(row);
    Ok(())
}

/// A row of LLMBar's dataset.json: input, output_1, output_2 and label, 1 or 2: which output people find the better. It comes
/// first, with rank 0.
pub(super) fn llmbar(record: &mut Record, context: &Context, sink: &mut Sink) -> Result<(), String> {
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
    // The same instruction comes with several pairs; each is a comparison of its own.
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
