//! Preference pairs in the forms that TRL takes: with an explicit prompt or with one that both answers begin with, as texts
//! or as messages; scores under the names that public sets give them.

use serde_json::{Map, Value, json};

use super::formats::{Object, Sink};
use crate::data::hash_hex;
use crate::store::conversations::{Turn, comparison};

/// Names of the scores of the chosen and the rejected answer.
const SCORES: [(&str, &str); 4] = [
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen-rating", "rejected-rating"),
    ("chosen_rating", "rejected_rating"),
];

pub(super) fn preference(mut row: Object, sink: &mut Sink) -> Result<(), String> {
    let number = |key: &str| row.get(key).and_then(Value::as_f64).filter(|s| (*s as f32).is_finite());
    let score = |which: fn(&(&'static str, &'static str)) -> &'static str| SCORES.iter().find_map(|s| number(which(s)));
    let (chosen_score, rejected_score) = (score(|s| s.0), score(|s| s.1));
    let given = row.get("prompt_id").and_then(Value::as_str).filter(|id| !id.is_empty()).map(str::to_owned);
    if row.get("prompt").is_some_and(Value::is_null) {
        row.remove("prompt");
    }
    // What is the same to its end has no prompt that could be told from an answer.
    if row.get("chosen").is_some_and(|chosen| !chosen.is_null() && row.get("rejected") == Some(chosen)) {
        sink.leave_out("both answers are the same");
        return Ok(());
    }
    if !row.contains_key("prompt") {
        split_texts(&mut row);
    }
    let pair = comparison(row)?;
    let [(_, chosen), (_, rejected)] = pair.completions.as_slice() else {
        return Err("has no `chosen` and `rejected`".into());
    };
    let blank = |turns: &[Turn]| turns.iter().all(|t| t.1.trim().is_empty());
    if blank(&pair.prompt) || blank(chosen) || blank(rejected) {
        sink.leave_out("an empty prompt or answer");
        return Ok(());
    }
    if chosen == rejected {
        sink.leave_out("both answers are the same");
        return Ok(());
    }
    let parts = |turns: &[Turn]| turns.iter().flat_map(|t| [t.0.clone(), t.1.clone()]).collect::<Vec<_>>();
    let prompt_id = given.unwrap_or_else(|| hash_hex(parts(&pair.prompt)));
    let id = |turns: &[Turn]| hash_hex(std::iter::once(prompt_id.clone()).chain(parts(turns)));
    let messages = |turns: &[Turn]| turns.iter().map(|t| json!({ "role": t.0, "content": t.1 })).collect::<Vec<_>>();
    sink.push(json!({
        "prompt_id": prompt_id, "prompt": messages(&pair.prompt),
        "chosen": messages(chosen), "rejected": messages(rejected),
        "chosen_id": id(chosen), "rejected_id": id(rejected),
        "chosen_score": chosen_score, "rejected_score": rejected_score,
    }));
    Ok(())
}

/// Gives a row of two texts that begin alike its prompt: turns where the texts are the dialogues of HH-RLHF; otherwise what they
/// have in common, without a blank at its end, which is TRL's rule.
fn split_texts(row: &mut Map<String, Value>) {
    let (Some(Value::String(chosen)), Some(Value::String(rejected))) = (row.get("chosen"), row.get("rejected")) else {
        return;
    };
    if let (Some(chosen), Some(rejected)) = (dialogue(chosen), dialogue(rejected)) {
        let value =
            |turns: Vec<Turn>| turns.into_iter().map(|t| json!({ "role": t.0, "content": t.1 })).collect::<Vec<_>>();
        let (chosen, rejected) = (json!(value(chosen)), json!(value(rejected)));
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

/// The turns of a dialogue that is written `\n\nHuman: ..\n\nAssistant: ..`.
fn dialogue(text: &str) -> Option<Vec<Turn>> {
    const MARKS: [(&str, &str); 2] = [("\n\nHuman:", "user"), ("\n\nAssistant:", "assistant")];
    let mark = |at: usize| MARKS.iter().find(|m| text[at..].starts_with(m.0)).map(|m| (at, m.0.len(), m.1));
    // Every mark in one pass, whichever of them are there.
    let breaks = text.match_indices('\n').map(|(at, _)| at).filter(|at| text[at + 1..].starts_with('\n'));
    let mut marks = breaks.filter_map(mark).peekable();
    if marks.peek()?.0 != 0 {
        return None;
    }
    let mut turns = Vec::new();
    while let Some((at, length, role)) = marks.next() {
        let end = marks.peek().map_or(text.len(), |next| next.0);
        turns.push((role.to_owned(), text[at + length..end].trim().to_owned()));
    }
    Some(turns)
}
