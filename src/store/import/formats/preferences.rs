//! Preference pairs in TRL's forms: with an explicit prompt or one that both answers begin with, as texts or messages,
//! and with scores under the names of public datasets.

use serde_json::{Map, Value, json};

use super::format::{Convert, FormatDef, RowOptions};
use crate::data::{hash_hex, named};
use crate::store::datasets::comparisons::comparison;
use crate::store::datasets::context::is_encoded_messages;
use crate::store::datasets::turn::{Turn, with_input, with_system};
use crate::store::import::context::QuestionContext;
use crate::store::import::record::Record;
use crate::store::import::sink::RowSink;
use crate::store::import::turns::{TOOL_CALL, UNTRAINED, is_tool_call, take_turns};

pub(super) static DEF: FormatDef = FormatDef {
    name: "preferences",
    about: "TRL's pairs, with the prompt or without, text or messages, and UltraFeedback's binarized ones",
    recognised_by: "`chosen` and `rejected`, without `chosen_id`",
    reads: "`prompt`, or else `question`, `instruction` (with `input`), `query`, `conversations` or `input`; `chosen`, \
            `rejected`; `system`; `prompt_id`; `score_chosen`, `chosen_score`, `chosen-rating` or `chosen_rating`, and \
            the same for the rejected answer. TRL's explicit and implicit prompts, text or messages; HH-RLHF; \
            UltraFeedback binarized; Orca DPO pairs; LLaMA-Factory's pairs",
    keys: &[
        "chosen",
        "chosen-rating",
        "chosen_id",
        "chosen_rating",
        "chosen_score",
        "conversations",
        "input",
        "instruction",
        "messages",
        "prompt",
        "prompt_id",
        "query",
        "question",
        "rejected",
        "rejected-rating",
        "rejected_rating",
        "rejected_score",
        "score_chosen",
        "score_rejected",
    ],
    targets: &[&named::PREFERENCES],
    extra: &[],
    // Rows of reflux's own schema have a `chosen_id`.
    recognises: |row| row.contains("chosen") && row.contains("rejected") && !row.contains("chosen_id"),
    convert: Convert::Row(preference),
};

/// Keys of the scores of the chosen and the rejected answer.
const SCORES: [(&str, &str); 4] = [
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen-rating", "rejected-rating"),
    ("chosen_rating", "rejected_rating"),
];

/// Other keys of the prompt; the first one that exists is read.
const QUESTIONS: [&str; 3] = ["question", "instruction", "query"];

/// Converts a pair. The row's context becomes the first messages of the prompt.
fn preference(
    record: &mut Record,
    context: &QuestionContext,
    _: &RowOptions,
    sink: &mut RowSink,
) -> Result<(), String> {
    let (chosen_score, rejected_score) = take_scores(record);
    let prompt_id = record.optional_text("prompt_id")?.filter(|id| !id.is_empty());
    // UltraFeedback's binarized rows repeat the chosen conversation.
    if record.has("messages") && record.peek("messages") == record.peek("chosen") {
        record.take("messages");
    }
    // Identical answers cannot be split into prompt and answer.
    if record.has("chosen") && record.peek("chosen") == record.peek("rejected") {
        sink.leave_out("both answers are the same");
        return Ok(());
    }
    let mut row = Map::new();
    let mut reason = None;
    take_prompt(record, &mut row, &mut reason)?;
    for key in ["chosen", "rejected"] {
        take_side(record, key, key, &mut row, &mut reason)?;
    }
    if let Some(reason) = reason {
        sink.leave_out(reason);
        return Ok(());
    }
    if !row.contains_key("prompt") {
        split_texts(&mut row);
    }
    let mut pair = comparison(&mut row)?;
    let after_system = usize::from(pair.prompt.first().is_some_and(|turn| turn.role == "system"));
    pair.prompt.splice(after_system..after_system, context.history.iter().cloned());
    if with_system(&mut pair.prompt, context.system.clone()).is_err() {
        sink.leave_out("two system messages");
        return Ok(());
    }
    let [(_, chosen), (_, rejected)] = pair.completions.as_slice() else {
        return Err("has no `chosen` and `rejected`".into());
    };
    let asked: Vec<&Turn> = pair.prompt.iter().filter(|turn| turn.role != "system").collect();
    if asked.iter().all(|turn| turn.content.trim().is_empty()) || is_blank(chosen) || is_blank(rejected) {
        sink.leave_out("an empty prompt or answer");
        return Ok(());
    }
    if chosen == rejected {
        sink.leave_out("both answers are the same");
        return Ok(());
    }
    let prompt_id = prompt_id.unwrap_or_else(|| hash_hex(parts(&pair.prompt)));
    let id = |turns: &[Turn]| hash_hex(std::iter::once(prompt_id.clone()).chain(parts(turns)));
    sink.push(json!({
        "prompt_id": prompt_id, "prompt": messages(&pair.prompt),
        "chosen": messages(chosen), "rejected": messages(rejected),
        "chosen_id": id(chosen), "rejected_id": id(rejected),
        "chosen_score": chosen_score, "rejected_score": rejected_score,
    }));
    Ok(())
}

fn is_blank(turns: &[Turn]) -> bool {
    turns.iter().all(|turn| turn.content.trim().is_empty())
}

/// The parts whose hash is the id.
fn parts(turns: &[Turn]) -> Vec<String> {
    turns.iter().flat_map(|turn| [turn.role.clone(), turn.content.clone()]).collect()
}

fn messages(turns: &[Turn]) -> Vec<Value> {
    turns.iter().map(Turn::to_json).collect()
}

/// Takes the scores of both answers under the first pair of keys that exists.
fn take_scores(record: &mut Record) -> (Option<f64>, Option<f64>) {
    let names = SCORES.iter().find(|(chosen, rejected)| record.has(chosen) || record.has(rejected));
    names.map_or((None, None), |(chosen, rejected)| (record.number(chosen), record.number(rejected)))
}

/// Takes the prompt under any of its keys. In a row without one, both answers begin with it.
fn take_prompt(
    record: &mut Record,
    row: &mut Map<String, Value>,
    reason: &mut Option<&'static str>,
) -> Result<(), String> {
    if record.has("prompt") {
        return take_side(record, "prompt", "prompt", row, reason);
    }
    if let Some(key) = QUESTIONS.iter().find(|key| record.has(key)) {
        take_side(record, key, "prompt", row, reason)?;
        if *key == "instruction"
            && let Some(input) = record.optional_text("input")?
            && let Some(Value::String(instruction)) = row.get("prompt")
        {
            let prompt = with_input(instruction, &input);
            row.insert("prompt".into(), prompt.into());
        }
        return Ok(());
    }
    if record.has("conversations") {
        return take_side(record, "conversations", "prompt", row, reason);
    }
    if record.peek("input").is_some_and(Value::is_string) {
        return take_side(record, "input", "prompt", row, reason);
    }
    Ok(())
}

/// Takes a text, or messages of role and text only, and stores it in `row` as `name`.
fn take_side(
    record: &mut Record,
    key: &str,
    name: &str,
    row: &mut Map<String, Value>,
    reason: &mut Option<&'static str>,
) -> Result<(), String> {
    let value = match record.peek(key) {
        None => return Ok(()),
        Some(Value::String(text)) if is_encoded_messages(text) => {
            return Err(format!("`{key}` holds messages that are written as text; make it a list of objects"));
        }
        Some(Value::String(text)) => {
            if name != "prompt" && is_tool_call(text) {
                *reason = Some(TOOL_CALL);
            }
            record.take(key).unwrap_or_default()
        }
        Some(Value::Array(_) | Value::Object(_)) => {
            let turns = take_turns(record, key)?;
            *reason = reason.or(turns.iter().find_map(|turn| turn.beyond_text));
            if name != "prompt" && turns.iter().any(|turn| turn.untrained) {
                *reason = reason.or(Some(UNTRAINED));
            }
            turns.iter().map(|turn| json!({ "role": turn.role_name(), "content": turn.text })).collect()
        }
        Some(_) => record.take(key).unwrap_or_default(),
    };
    row.insert(name.into(), value);
    Ok(())
}

/// Splits two texts with a common beginning into prompt and answers: into turns if the texts are dialogues of
/// HH-RLHF, otherwise at the end of the common beginning, without a trailing blank, which is TRL's rule.
fn split_texts(row: &mut Map<String, Value>) {
    let (Some(Value::String(chosen)), Some(Value::String(rejected))) = (row.get("chosen"), row.get("rejected")) else {
        return;
    };
    if let (Some(chosen), Some(rejected)) = (dialogue(chosen), dialogue(rejected)) {
        let (chosen, rejected) = (messages(&chosen).into(), messages(&rejected).into());
        row.insert("chosen".into(), chosen);
        row.insert("rejected".into(), rejected);
        return;
    }
    let common = chosen.chars().zip(rejected.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
    let head: &str = &chosen[..common];
    let head = head.strip_suffix(' ').unwrap_or(head);
    if head.trim().is_empty() || chosen == rejected {
        return;
    }
    let (prompt, chosen, rejected) =
        (head.to_owned(), chosen[head.len()..].to_owned(), rejected[head.len()..].to_owned());
    for (key, text) in [("prompt", prompt), ("chosen", chosen), ("rejected", rejected)] {
        row.insert(key.into(), text.into());
    }
}

/// The turns of a dialogue of the form `\n\nHuman: ..\n\nAssistant: ..`.
fn dialogue(text: &str) -> Option<Vec<Turn>> {
    const MARKS: [(&str, &str); 2] = [("\n\nHuman:", "user"), ("\n\nAssistant:", "assistant")];
    let mark = |at: usize| MARKS.iter().find(|m| text[at..].starts_with(m.0)).map(|m| (at, m.0.len(), m.1));
    // All marks are found in one pass.
    let breaks = text.match_indices('\n').map(|(at, _)| at).filter(|at| text[at + 1..].starts_with('\n'));
    let mut marks = breaks.filter_map(mark).peekable();
    if marks.peek()?.0 != 0 {
        return None;
    }
    let mut turns = Vec::new();
    while let Some((at, length, role)) = marks.next() {
        let end = marks.peek().map_or(text.len(), |next| next.0);
        turns.push(Turn::new(role, text[at + length..end].trim()));
    }
    Some(turns)
}
