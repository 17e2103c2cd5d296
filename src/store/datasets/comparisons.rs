//! A streaming reader of prompts with answers to compare.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::context::{is_empty, is_encoded_messages, take_system, unsupported_context};
use super::prompts::{encoded, keys, lacks};
use super::turn::{Turn, ensure_unanswered, parse_turns, with_system};
use crate::error::Result;
use crate::store::files::jsonl::{parse, spell};
use crate::store::files::lines::Lines;
use crate::store::files::unread::{Unread, count_unread};

/// A prompt and its completions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptCompletions {
    /// The conversation before the answers.
    pub prompt: Vec<Turn>,
    /// The turns of `chosen` and `rejected`, or of `completion`.
    pub completions: Vec<(&'static str, Vec<Turn>)>,
}

/// Reads comparisons from JSON lines, with their line numbers, from 1. An invalid line gives the reason.
///
/// A row has `prompt` and either `chosen` and `rejected` or `completion`, each a text or a list of messages,
/// as in TRL. If `chosen` and `rejected` are whole conversations, their common beginning is the prompt.
pub struct ComparisonReader {
    lines: Lines,
    unread: Unread,
}

impl ComparisonReader {
    /// Reads comparisons from lines.
    pub fn new(lines: Lines) -> Self {
        Self { lines, unread: Unread::new() }
    }

    /// Unread keys so far, with the number of rows that have a value there.
    pub fn unread(&self) -> &BTreeMap<String, u64> {
        &self.unread
    }

    fn read(&mut self) -> Result<Option<(u64, Result<PromptCompletions, String>)>> {
        let Some((line, bytes)) = self.lines.next_line()? else { return Ok(None) };
        let read = parse(bytes).map_err(|(_, why)| why).and_then(|mut row| {
            let comparison = comparison(&mut row)?;
            let left = row.iter().filter(|(_, value)| !is_empty(value));
            left.for_each(|(key, _)| count_unread(&mut self.unread, key, 1));
            Ok(comparison)
        });
        Ok(Some((line, read)))
    }
}

impl Iterator for ComparisonReader {
    type Item = Result<(u64, Result<PromptCompletions, String>)>;
    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

/// Takes a comparison out of a row.
pub(crate) fn comparison(row: &mut Map<String, Value>) -> Result<PromptCompletions, String> {
    let keys = keys(row);
    let system = take_system(row)?;
    if let Some(what) = unsupported_context(row) {
        return Err(what);
    }
    let mut side = |key: &str, role: &str| match row.remove(key) {
        Some(Value::String(text)) if is_encoded_messages(&text) => Err(encoded(key)),
        Some(Value::String(text)) => Ok(Some(vec![Turn::new(role, text)])),
        Some(value @ Value::Array(_)) => parse_turns(key, value).map(Some),
        Some(other) => Err(format!("key `{key}` is {}, expected text or a list of messages", spell(&other))),
        None => Ok(None),
    };
    let prompt = side("prompt", "user")?;
    let (chosen, rejected) = (side("chosen", "assistant")?, side("rejected", "assistant")?);
    let completion = side("completion", "assistant")?;
    let (mut prompt, mut completions) = match (chosen, rejected, completion) {
        (Some(chosen), Some(rejected), _) => (prompt, vec![("chosen", chosen), ("rejected", rejected)]),
        (None, None, Some(completion)) => (prompt, vec![("completion", completion)]),
        (Some(_), None, _) => return Err(lacks("rejected", &keys)),
        (None, Some(_), _) => return Err(lacks("chosen", &keys)),
        (None, None, None) => return Err(lacks("chosen` and `rejected`, or `completion", &keys)),
    };
    let begins = |turns: &[Turn]| turns.first().is_some_and(|turn| turn.role == "assistant");
    if let [(_, chosen), (_, rejected)] = completions.as_mut_slice()
        && !begins(chosen)
        && !begins(rejected)
    {
        let common = chosen.iter().zip(rejected.iter()).take_while(|(a, b)| a == b).count();
        let head: Vec<Turn> = chosen.drain(..common).collect();
        rejected.drain(..common);
        if let Some(turn) = prompt.iter().flatten().find(|turn| !repeats(&head, turn)) {
            let start: String = turn.content.chars().take(30).collect();
            let start = start.escape_debug();
            return Err(format!("key `prompt` has \"{start}\", which the conversations do not begin with"));
        }
        prompt = Some(head);
    }
    for (key, turns) in &completions {
        if !begins(turns) {
            return Err(match turns.first() {
                None => format!("key `{key}` has no turn beyond the prompt's"),
                Some(turn) => format!("key `{key}` begins with a turn of `{}`, expected `assistant`", turn.role),
            });
        }
    }
    let mut prompt = prompt.ok_or_else(|| lacks("prompt", &keys))?;
    with_system(&mut prompt, system)?;
    let prompt = ensure_unanswered(prompt).map_err(|why| format!("key `prompt` {why}"))?;
    if prompt.is_empty() {
        return Err("key `prompt` has no turn".into());
    }
    Ok(PromptCompletions { prompt, completions })
}

/// Whether a conversation contains a turn, ignoring surrounding blanks.
fn repeats(head: &[Turn], turn: &Turn) -> bool {
    head.iter().any(|said| said.role == turn.role && said.content.trim() == turn.content.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(role: &str, content: &str) -> Turn {
        Turn::new(role, content)
    }

    #[test]
    fn comparisons_in_every_form() {
        let of = |row: &str| {
            ComparisonReader::new(Lines::new("x", std::io::Cursor::new(row.to_owned()))).next().unwrap().unwrap().1
        };
        let (u, a, b) = (
            r#"{"role":"user","content":"u"}"#,
            r#"{"role":"assistant","content":"a"}"#,
            r#"{"role":"assistant","content":"b"}"#,
        );
        let want = PromptCompletions {
            prompt: vec![turn("user", "u")],
            completions: vec![("chosen", vec![turn("assistant", "a")]), ("rejected", vec![turn("assistant", "b")])],
        };
        assert_eq!(of(r#"{"prompt":"u","chosen":"a","rejected":"b"}"#).as_ref(), Ok(&want));
        assert_eq!(of(&format!(r#"{{"prompt":[{u}],"chosen":[{a}],"rejected":[{b}]}}"#)).as_ref(), Ok(&want));
        // Whole conversations, with the prompt repeated or left out.
        assert_eq!(of(&format!(r#"{{"prompt":"u","chosen":[{u},{a}],"rejected":[{u},{b}]}}"#)).as_ref(), Ok(&want));
        assert_eq!(of(&format!(r#"{{"chosen":[{u},{a}],"rejected":[{u},{b}]}}"#)).as_ref(), Ok(&want));
        let one = of(r#"{"prompt":"u","completion":"a"}"#).unwrap();
        assert_eq!(one.completions, [("completion", vec![turn("assistant", "a")])]);
        let with_system = of(r#"{"system":"s","prompt":"u","chosen":"a","rejected":"b"}"#).unwrap();
        assert_eq!(with_system.prompt, [turn("system", "s"), turn("user", "u")]);
        for (row, why) in [
            (r#"{"prompt":"u","chosen":"a","rejected":"b","history":[["q","r"]]}"#.to_owned(), "has `history`"),
            (format!(r#"{{"prompt":"v","chosen":[{u},{a}],"rejected":[{u},{b}]}}"#), "do not begin with"),
            (r#"{"prompt":"u","chosen":"[{'role': 'user'}]","rejected":"b"}"#.to_owned(), "written as text"),
            (r#"{"prompt":"u","chosen":"a"}"#.to_owned(), "lacks the key `rejected`"),
            (r#"{"chosen":"a","rejected":"b"}"#.to_owned(), "lacks the key `prompt`"),
            (r#"{"prompt":"u"}"#.to_owned(), "`chosen` and `rejected`, or `completion`"),
            (r#"{"prompt":"u","completion":7}"#.to_owned(), "the number 7"),
            (format!(r#"{{"prompt":[{u},{a}],"completion":[{b}]}}"#), "ends with the assistant's turn"),
            (format!(r#"{{"prompt":[],"completion":[{b}]}}"#), "has no turn"),
            (
                format!(r#"{{"prompt":[{u}],"chosen":[{a}],"rejected":[{u}]}}"#),
                "`rejected` begins with a turn of `user`",
            ),
            (format!(r#"{{"chosen":[{u},{a}],"rejected":[{u},{a}]}}"#), "`chosen` has no turn beyond"),
        ] {
            let got = of(&row);
            assert!(got.as_ref().is_err_and(|e| e.contains(why)), "{row}: {got:?}");
        }
    }
}
