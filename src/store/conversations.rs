//! Conversations in text files and JSON lines: prompts to answer, and answers to compare. Read a line at a time.

use serde_json::{Map, Value};

use super::Lines;
use super::context::{is_encoded_messages, take_system, unheld_context, with_system};
use super::jsonl::{list, message, parse, spell};
use crate::error::Result;

/// Role and content.
pub type Turn = (String, String);

/// What a model is asked.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(untagged)]
pub enum Prompt {
    /// One message of a user.
    Text(String),
    /// A conversation whose next turn is the answer.
    Turns(#[serde(serialize_with = "as_messages")] Vec<Turn>),
}

impl Prompt {
    /// The conversation.
    pub fn turns(&self) -> Vec<Turn> {
        match self {
            Prompt::Text(text) => vec![("user".into(), text.clone())],
            Prompt::Turns(turns) => turns.clone(),
        }
    }
}

fn as_messages<S: serde::Serializer>(turns: &[Turn], s: S) -> Result<S::Ok, S::Error> {
    s.collect_seq(turns.iter().map(|(role, content)| serde_json::json!({ "role": role, "content": content })))
}

/// Where in a text the prompts are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PromptForm {
    /// The whole text is one, unless it is blank.
    Whole,
    /// Every line that is not blank is one.
    Lines,
    /// Every line is an object with `prompt` (text or messages) or `messages`, and perhaps `system`.
    Json,
}

/// A prompt or why there is none, with the line it stands in.
type Read = (Option<u64>, Result<Prompt, String>);

/// The prompts of a text with the lines they stand in, counted from 1; none for a whole text. A line that holds no
/// prompt says why.
pub struct Prompts {
    lines: Lines,
    form: PromptForm,
    done: bool,
}

impl Prompts {
    /// Those of these lines.
    pub fn new(lines: Lines, form: PromptForm) -> Self {
        Self { lines, form, done: false }
    }

    /// Where in the text they are.
    pub fn form(&self) -> PromptForm {
        self.form
    }

    fn read(&mut self) -> Result<Option<Read>> {
        if self.form == PromptForm::Whole {
            self.done = true;
            let text = self.lines.rest()?;
            return Ok((!text.trim().is_empty()).then_some((None, Ok(Prompt::Text(text)))));
        }
        let Some((line, bytes)) = self.lines.next_line()? else { return Ok(None) };
        let prompt = match self.form {
            PromptForm::Json => parse(bytes).map_err(|(_, why)| why).and_then(prompt),
            _ => String::from_utf8(bytes.to_vec()).map(Prompt::Text).map_err(|_| "is not UTF-8 text".into()),
        };
        Ok(Some((Some(line), prompt)))
    }
}

impl Iterator for Prompts {
    type Item = Result<Read>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let next = self.read();
        // What could not be read once is not read on.
        self.done |= !matches!(next, Ok(Some(_)));
        next.transpose()
    }
}

/// What a row asks. Its system message is the first turn; a row with another context is refused.
fn prompt(mut row: Map<String, Value>) -> Result<Prompt, String> {
    let system = take_system(&mut row)?;
    if let Some(what) = unheld_context(&row) {
        return Err(what);
    }
    let prompt = asked_in(row)?;
    if system.is_none() {
        return Ok(prompt);
    }
    let mut turns = prompt.turns();
    with_system(&mut turns, system)?;
    Ok(Prompt::Turns(turns))
}

fn asked_in(mut row: Map<String, Value>) -> Result<Prompt, String> {
    match (row.remove("prompt"), row.remove("messages")) {
        (Some(Value::String(text)), _) if is_encoded_messages(&text) => Err(encoded("prompt")),
        (Some(Value::String(text)), _) => Ok(Prompt::Text(text)),
        (Some(value @ Value::Array(_)), _) => asked(turns("prompt", value)?).map(Prompt::Turns),
        (None, Some(value @ Value::Array(_))) => asked(turns("messages", value)?).map(Prompt::Turns),
        (Some(other), _) => Err(format!("key `prompt` is {}, expected text or a list of messages", spell(&other))),
        (None, Some(other)) => Err(format!("key `messages` is {}, expected a list of messages", spell(&other))),
        (None, None) => Err(lacks("prompt` or `messages", &keys(&row))),
    }
}

/// A conversation that somebody is to answer.
fn asked(turns: Vec<Turn>) -> Result<Vec<Turn>, String> {
    match turns.last() {
        Some((role, _)) if role == "assistant" => {
            Err("ends with the assistant's turn; leave that out, it is what the model is asked for".into())
        }
        _ => Ok(turns),
    }
}

fn turns(key: &str, value: Value) -> Result<Vec<Turn>, String> {
    list(value, message).map_err(|e| format!("key `{key}` {e}"))
}

fn keys(row: &Map<String, Value>) -> String {
    row.keys().take(20).map(String::as_str).collect::<Vec<_>>().join(", ")
}
fn encoded(key: &str) -> String {
    format!("key `{key}` holds messages that are written as text; make it a list of objects")
}
fn lacks(key: &str, keys: &str) -> String {
    format!("lacks the key `{key}`; there are: {keys}")
}

/// A prompt and completions of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// The conversation up to the answers.
    pub prompt: Vec<Turn>,
    /// `chosen` and `rejected`, or `completion`, each with its turns.
    pub completions: Vec<(&'static str, Vec<Turn>)>,
}

/// The rows of JSON lines as comparisons, with their line numbers, counted from 1. A line that holds none says why.
///
/// A row has `prompt` and either `chosen` and `rejected` or `completion`, each a text or a list of messages: TRL's forms.
/// Where `chosen` and `rejected` are whole conversations, what they begin with in common is the prompt.
pub struct Comparisons(Lines);

impl Comparisons {
    /// Those of these lines.
    pub fn new(lines: Lines) -> Self {
        Self(lines)
    }
}

impl Iterator for Comparisons {
    type Item = Result<(u64, Result<Comparison, String>)>;
    fn next(&mut self) -> Option<Self::Item> {
        let row = |bytes: &[u8]| parse(bytes).map_err(|(_, why)| why).and_then(comparison);
        self.0.next_line().map(|line| line.map(|(line, bytes)| (line, row(bytes)))).transpose()
    }
}

pub(super) fn comparison(mut row: Map<String, Value>) -> Result<Comparison, String> {
    let keys = keys(&row);
    let system = take_system(&mut row)?;
    if let Some(what) = unheld_context(&row) {
        return Err(what);
    }
    let mut side = |key: &str, role: &str| match row.remove(key) {
        Some(Value::String(text)) if is_encoded_messages(&text) => Err(encoded(key)),
        Some(Value::String(text)) => Ok(Some(vec![(role.to_owned(), text)])),
        Some(value @ Value::Array(_)) => turns(key, value).map(Some),
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
    let begins = |turns: &[Turn]| turns.first().is_some_and(|(role, _)| role == "assistant");
    if let [(_, chosen), (_, rejected)] = completions.as_mut_slice()
        && !begins(chosen)
        && !begins(rejected)
    {
        let common = chosen.iter().zip(rejected.iter()).take_while(|(a, b)| a == b).count();
        let head: Vec<Turn> = chosen.drain(..common).collect();
        rejected.drain(..common);
        if let Some(turn) = prompt.iter().flatten().find(|turn| !repeats(&head, turn)) {
            let start: String = turn.1.chars().take(30).collect();
            let start = start.escape_debug();
            return Err(format!("key `prompt` has \"{start}\", which the conversations do not begin with"));
        }
        prompt = Some(head);
    }
    for (key, turns) in &completions {
        if !begins(turns) {
            return Err(match turns.first() {
                None => format!("key `{key}` has no turn beyond the prompt's"),
                Some((role, _)) => format!("key `{key}` begins with a turn of `{role}`, expected `assistant`"),
            });
        }
    }
    let mut prompt = prompt.ok_or_else(|| lacks("prompt", &keys))?;
    with_system(&mut prompt, system)?;
    let prompt = asked(prompt).map_err(|why| format!("key `prompt` {why}"))?;
    if prompt.is_empty() {
        return Err("key `prompt` has no turn".into());
    }
    Ok(Comparison { prompt, completions })
}

/// Whether a conversation has a turn, but for the blanks around it.
fn repeats(head: &[Turn], turn: &Turn) -> bool {
    head.iter().any(|(role, text)| *role == turn.0 && text.trim() == turn.1.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(role: &str, content: &str) -> Turn {
        (role.into(), content.into())
    }
    fn prompts(text: &'static str, form: PromptForm) -> Vec<Read> {
        Prompts::new(Lines::of("x", text.as_bytes()), form).map(|p| p.unwrap()).collect()
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

    #[test]
    fn comparisons_in_every_form() {
        let of = |row: &str| {
            Comparisons::new(Lines::of("x", std::io::Cursor::new(row.to_owned()))).next().unwrap().unwrap().1
        };
        let (u, a, b) = (
            r#"{"role":"user","content":"u"}"#,
            r#"{"role":"assistant","content":"a"}"#,
            r#"{"role":"assistant","content":"b"}"#,
        );
        let want = Comparison {
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
