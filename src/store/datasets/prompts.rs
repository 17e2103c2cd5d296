//! A streaming reader of prompts in all supported formats.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::{Map, Value};

use super::context::{is_empty, is_encoded_messages, take_system, unsupported_context};
use super::normalize::is_prompt_of;
use super::rows::RowReader;
use super::turn::{Turn, ensure_unanswered, parse_turns, with_system};
use crate::data::PROMPT_MESSAGES;
use crate::error::Result;
use crate::store::files::jsonl::{parse, spell};
use crate::store::files::lines::Lines;
use crate::store::files::unread::{Unread, count_unread};

/// A prompt for a model.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(untagged)]
pub enum Prompt {
    /// A single user message.
    Text(String),
    /// A conversation whose next turn is the answer.
    Turns(#[serde(serialize_with = "as_messages")] Vec<Turn>),
}

impl Prompt {
    /// The conversation.
    pub fn turns(&self) -> Vec<Turn> {
        match self {
            Prompt::Text(text) => vec![Turn::new("user", text)],
            Prompt::Turns(turns) => turns.clone(),
        }
    }
}

fn as_messages<S: serde::Serializer>(turns: &[Turn], s: S) -> Result<S::Ok, S::Error> {
    s.collect_seq(turns.iter().map(Turn::as_given))
}

/// Layout of prompts in a text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PromptForm {
    /// The whole text is one prompt, unless it is blank.
    Whole,
    /// Every line that is not blank is a prompt.
    Lines,
    /// Every line is a JSON object with `prompt` (text or messages) or `messages`, and optionally `system`.
    Json,
    /// Every row of a file is such an object: JSON lines or an array, gzipped or not, CSV, Parquet, or lines
    /// of plain text.
    Rows,
}

/// A prompt, or the fault of its row, and the number of the line or row.
type ReadPrompt = (Option<u64>, Result<Prompt, String>);

/// Parquet columns that may be a prompt.
const COLUMNS: &[&str] = &["prompt", PROMPT_MESSAGES, "messages"];

enum PromptInput {
    Text(Lines, PromptForm),
    Rows(RowReader),
}

/// Reads the prompts of a text or a file, with their line numbers, from 1 (`None` for a whole text). A row
/// without a valid prompt gives the reason.
pub struct PromptReader {
    source: PromptInput,
    name: String,
    unread: Arc<Mutex<Unread>>,
    done: bool,
}

impl PromptReader {
    /// Reads prompts from lines. The form is not [`PromptForm::Rows`], which needs [`PromptReader::open`].
    pub fn new(lines: Lines, form: PromptForm) -> Self {
        let name = lines.name().to_owned();
        Self { source: PromptInput::Text(lines, form), name, unread: Arc::default(), done: false }
    }

    /// Reads prompts from the rows of a file, or of a folder of files.
    ///
    /// # Errors
    /// No file found.
    pub fn open(path: &Path) -> Result<Self> {
        let source = PromptInput::Rows(RowReader::open(path, COLUMNS)?);
        Ok(Self { source, name: path.display().to_string(), unread: Arc::default(), done: false })
    }

    /// Layout of the prompts.
    pub fn form(&self) -> PromptForm {
        match &self.source {
            PromptInput::Text(_, form) => *form,
            PromptInput::Rows(_) => PromptForm::Rows,
        }
    }

    /// Name of the input in error messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Unread keys, with the number of rows that have a value there. Complete once all prompts are read.
    pub fn unread(&self) -> Arc<Mutex<BTreeMap<String, u64>>> {
        Arc::clone(&self.unread)
    }

    fn read(&mut self) -> Result<Option<ReadPrompt>> {
        let row = match &mut self.source {
            PromptInput::Text(lines, PromptForm::Whole) => {
                self.done = true;
                let text = lines.rest()?;
                return Ok((!text.trim().is_empty()).then_some((None, Ok(Prompt::Text(text)))));
            }
            PromptInput::Text(lines, form) => {
                let Some((line, bytes)) = lines.next_line()? else { return Ok(None) };
                if *form == PromptForm::Lines {
                    let text = String::from_utf8(bytes.to_vec()).map(Prompt::Text);
                    return Ok(Some((Some(line), text.map_err(|_| "is not UTF-8 text".into()))));
                }
                (line, parse(bytes))
            }
            PromptInput::Rows(rows) => match rows.next().transpose()? {
                Some(row) => (row.number, row.row),
                None => {
                    let columns = rows.unread_columns().clone();
                    columns.iter().for_each(|(key, rows)| self.note_unread(key, *rows));
                    return Ok(None);
                }
            },
        };
        let (line, row) = row;
        let prompt = row.map_err(|(_, why)| why).and_then(|mut row| {
            let prompt = take_prompt(&mut row)?;
            let left = row.iter().filter(|(_, value)| !is_empty(value));
            left.for_each(|(key, _)| self.note_unread(key, 1));
            Ok(prompt)
        });
        Ok(Some((Some(line), prompt)))
    }

    fn note_unread(&self, key: &str, rows: u64) {
        // No code that can panic runs while the lock is held.
        let mut unread = self.unread.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        count_unread(&mut unread, key, rows);
    }
}

impl Iterator for PromptReader {
    type Item = Result<ReadPrompt>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let next = self.read();
        // Reading stops at the first error.
        self.done |= !matches!(next, Ok(Some(_)));
        next.transpose()
    }
}

/// Takes the prompt out of a row, with the system message as its first turn. Refuses a row with any other
/// context.
pub(crate) fn take_prompt(row: &mut Map<String, Value>) -> Result<Prompt, String> {
    let system = take_system(row)?;
    if let Some(what) = unsupported_context(row) {
        return Err(what);
    }
    let prompt = read_prompt(row)?;
    if system.is_none() {
        return Ok(prompt);
    }
    let mut turns = prompt.turns();
    with_system(&mut turns, system)?;
    Ok(Prompt::Turns(turns))
}

fn read_prompt(row: &mut Map<String, Value>) -> Result<Prompt, String> {
    let have = keys(row);
    // Reflux's own rows have the conversation next to its transcript.
    if row.get(PROMPT_MESSAGES).is_some_and(Value::is_array)
        && let Some(value) = row.shift_remove(PROMPT_MESSAGES)
    {
        let turns = ensure_unanswered(parse_turns(PROMPT_MESSAGES, value)?)?;
        // A different prompt stays in the row and is counted as unread.
        if row.get("prompt").is_some_and(|prompt| is_prompt_of(prompt, &turns)) {
            row.shift_remove("prompt");
        }
        return Ok(Prompt::Turns(turns));
    }
    // UltraChat repeats the first question next to the whole conversation, so a text prompt has precedence.
    let prompt = row.shift_remove("prompt").filter(|value| !value.is_null());
    let messages = if prompt.is_none() { row.shift_remove("messages").filter(|value| !value.is_null()) } else { None };
    match (prompt, messages) {
        (Some(Value::String(text)), _) if is_encoded_messages(&text) => Err(encoded("prompt")),
        (Some(Value::String(text)), _) => Ok(Prompt::Text(text)),
        (Some(value @ Value::Array(_)), _) => ensure_unanswered(parse_turns("prompt", value)?).map(Prompt::Turns),
        (None, Some(value @ Value::Array(_))) => ensure_unanswered(parse_turns("messages", value)?).map(Prompt::Turns),
        (Some(other), _) => Err(format!("key `prompt` is {}, expected text or a list of messages", spell(&other))),
        (None, Some(other)) => Err(format!("key `messages` is {}, expected a list of messages", spell(&other))),
        (None, None) => Err(lacks("prompt` or `messages", &have)),
    }
}

pub(crate) fn keys(row: &Map<String, Value>) -> String {
    row.keys().take(20).map(String::as_str).collect::<Vec<_>>().join(", ")
}

pub(crate) fn encoded(key: &str) -> String {
    format!("key `{key}` holds messages that are written as text; make it a list of objects")
}

pub(crate) fn lacks(key: &str, keys: &str) -> String {
    format!("lacks the key `{key}`; there are: {keys}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(role: &str, content: &str) -> Turn {
        Turn::new(role, content)
    }
    fn prompts(text: &'static str, form: PromptForm) -> Vec<ReadPrompt> {
        PromptReader::new(Lines::new("x", text.as_bytes()), form).map(|p| p.unwrap()).collect()
    }

    #[test]
    fn prompts_in_every_form() {
        let text = |t: &str| Ok(Prompt::Text(t.into()));
        assert_eq!(prompts("a\n\nb\n", PromptForm::Whole), [(None, text("a\n\nb"))]);
        assert_eq!(prompts("a\n\nb\n", PromptForm::Lines), [(Some(1), text("a")), (Some(3), text("b"))]);
        let rows = concat!(
            "{\"prompt\": \"a\", \"messages\": 3}\n",
            "{\"prompt\": [{\"role\": \"user\", \"content\": \"b\"}]}\n",
            "{\"messages\": [{\"role\": \"system\", \"content\": \"s\"}, {\"role\": \"user\", \"content\": \"b\"}]}\n",
        );
        let turns = |turns: &[(&str, &str)]| Ok(Prompt::Turns(turns.iter().map(|t| turn(t.0, t.1)).collect()));
        let all = prompts(rows, PromptForm::Json);
        assert_eq!(all[0].1, text("a"));
        assert_eq!(all[1].1, turns(&[("user", "b")]));
        assert_eq!(all[2].1, turns(&[("system", "s"), ("user", "b")]));
        let system = "{\"prompt\": \"a\", \"system\": \"s\", \"tools\": \"[]\", \"history\": []}";
        assert_eq!(prompts(system, PromptForm::Json)[0].1, turns(&[("system", "s"), ("user", "a")]));
        let shown = serde_json::to_string(all[1].1.as_ref().unwrap()).unwrap();
        assert_eq!(shown, r#"[{"role":"user","content":"b"}]"#);
        for (row, why) in [
            ("{\"text\": \"a\"}", "`prompt` or `messages`; there are: text"),
            ("{\"prompt\": 3}", "expected text or a list"),
            ("{\"messages\": [{\"role\": \"user\"}]}", "lacks `content`"),
            ("{\"messages\": [{\"role\": \"assistant\", \"content\": \"a\"}]}", "ends with the assistant's turn"),
            ("{\"prompt\": \"a\", \"history\": [[\"q\", \"r\"]]}", "has `history`"),
            ("{\"prompt\": \"a\", \"tools\": \"[{}]\"}", "has `tools`"),
            ("{\"prompt\": \"[{'role': 'user', 'content': 'b'}]\"}", "written as text"),
            ("{\"messages\": [{\"role\": \"user\", \"content\": \"a\", \"tool_calls\": [1]}]}", "has `tool_calls`"),
            ("[1]", "expected a JSON object"),
            ("{\"prompt\": ", "is not JSON"),
        ] {
            let got = prompts(row, PromptForm::Json);
            assert!(got[0].0 == Some(1) && got[0].1.as_ref().is_err_and(|e| e.contains(why)), "{row}: {got:?}");
        }
    }
}
