//! Converters of instructions with answers: Self-Instruct, Alpaca, UltraFeedback.

use serde_json::Value;

use super::chats::{Turns, answers};
use super::context::Context;
use super::record::Record;
use super::sink::{REPEATED, Ranked, RowSink, is_too_repetitive, turn_bytes};
use super::turns::take_turns;
use crate::data::{hash_hex, prompt_id};
use crate::store::datasets::turn::{role_content, with_input};

pub(super) fn seed_task(record: &mut Record, context: &Context, sink: &mut RowSink) -> Result<(), String> {
    let instruction = record.text("instruction")?;
    let instances = record.records("instances", |instance| {
        Ok((instance.optional_text("input")?.unwrap_or_default(), instance.text("output")?))
    })?;
    if instances.is_empty() {
        sink.leave_out("no instance");
    }
    let earlier: usize = context.turns().map(|turn| turn_bytes(&turn.role, &turn.content)).sum();
    if is_too_repetitive(instances.iter().map(|_| earlier + turn_bytes("user", &instruction))) {
        sink.leave_out(REPEATED);
        return Ok(());
    }
    for (input, output) in instances {
        sink.answer(&context.question(&with_input(&instruction, &input)), &output);
    }
    Ok(())
}

/// Keys of the question; the first one that exists is read.
const QUESTIONS: [&str; 3] = ["instruction", "question", "prompt"];

/// Keys of the question's input.
const CONTEXTS: [&str; 2] = ["input", "context"];

/// Keys of the answer.
const ANSWERS: [&str; 4] = ["output", "response", "completion", "answer"];

/// Converts an instruction with its answer: Alpaca, Dolly, or a prompt with a completion.
pub(super) fn instruction(
    record: &mut Record,
    context: &Context,
    which: Turns,
    sink: &mut RowSink,
) -> Result<(), String> {
    let question = QUESTIONS.into_iter().find(|key| record.contains(key)).unwrap_or(QUESTIONS[0]);
    let answer = ANSWERS.into_iter().find(|key| record.contains(key)).unwrap_or(ANSWERS[0]);
    if record.peek(question).is_some_and(Value::is_array) {
        let mut turns = take_turns(record, question)?;
        // Answers in the prompt itself do not become rows.
        let from = turns.len();
        turns.extend(take_turns(record, answer)?);
        answers(record, context, turns, from, which, sink);
        return Ok(());
    }
    let asked = record.plain_text(question)?;
    let about = CONTEXTS.into_iter().find(|key| record.has(key));
    let about = about.map(|key| record.text(key)).transpose()?.unwrap_or_default();
    let answered = record.plain_text(answer)?;
    sink.answer(&context.question(&with_input(&asked, &about)), &answered);
    Ok(())
}

pub(super) fn ultrafeedback(record: &mut Record, context: &Context, sink: &mut RowSink) -> Result<(), String> {
    let prompt = record.text("instruction")?;
    let completions = record.records("completions", |completion| {
        const SCORES: [&str; 3] = ["overall_score", "score", "fine-grained_score"];
        let key = SCORES.into_iter().find(|key| completion.has(key));
        if let Some(score) = key.and_then(|key| completion.peek(key)?.as_f64())
            && !(score as f32).is_finite()
        {
            return Err(format!("has the score {score:e}, which does not fit in 32 bits"));
        }
        let score = key.and_then(|key| completion.number(key));
        Ok((completion.text("response")?, score))
    })?;
    let before = context.question(&prompt);
    let prompt_id = if before.len() > 1 { prompt_id(&role_content(&before)) } else { hash_hex([&prompt]) };
    let unscored = completions.iter().filter(|(_, score)| score.is_none()).count();
    if unscored > 0 {
        record.report("completions without a score".to_owned());
    }
    let scored: Vec<(usize, String, f64)> =
        completions.into_iter().enumerate().filter_map(|(i, (text, score))| Some((i, text, score?))).collect();
    let mut distinct: Vec<f64> = scored.iter().map(|s| s.2).collect();
    distinct.sort_unstable_by(|a, b| b.total_cmp(a));
    distinct.dedup();
    let rank = |score: f64| distinct.partition_point(|s| *s > score) as u32;
    let answers = scored.iter().map(|(i, text, score)| Ranked {
        id: hash_hex([prompt_id.as_str(), &i.to_string(), text]),
        text: text.clone(),
        rank: rank(*score),
        score: Some(*score),
    });
    sink.ranked(&prompt_id, &before, answers.collect());
    Ok(())
}
