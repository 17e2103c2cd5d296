//! The public formats: how each is recognised, and what its rows become.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::benchmarks::{MT_BENCH, llmbar, mt_bench};
use super::oasst::Oasst;
use super::preferences::preference;
use super::record::Record;
use super::turns::{Role, TOOL_CALL, Turn, is_tool_call, take_turns};
use crate::data::{Schema, hash_hex, named};
use crate::store::context::{CONTEXT_KEYS, SYSTEM_KEYS, is_empty, is_encoded_messages};

/// A row as it came.
pub(super) type Object = Map<String, Value>;

/// A public format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// Open Assistant's message trees, a tree or a message a row.
    Oasst,
    /// Self-Instruct's seed tasks.
    SelfInstruct,
    /// Alpaca: instruction, input, output; and other names of the same: see `QUESTIONS`, `CONTEXTS`, `ANSWERS`.
    Alpaca,
    /// ShareGPT: conversations of `{from, value}`, or of `{role, content}`.
    ShareGpt,
    /// UltraFeedback: an instruction with rated completions.
    UltraFeedback,
    /// TRL's preference pairs: chosen and rejected.
    Preferences,
    /// MT-Bench's questions: turns, of which the first is asked.
    MtBench,
    /// LLMBar's pairs: input, output_1, output_2, label.
    LlmBar,
}

impl Format {
    /// Every format with its name and what it is.
    pub const ALL: [(Format, &'static str, &'static str); 8] = [
        (Format::Oasst, "oasst", "Open Assistant's trees, or its messages one a row"),
        (Format::SelfInstruct, "self-instruct", "Self-Instruct's seed_tasks: instruction, instances"),
        (
            Format::Alpaca,
            "alpaca",
            "instruction, input, output; also Dolly's context and response, question and answer",
        ),
        (
            Format::ShareGpt,
            "sharegpt",
            "conversations of {from, value}, or messages of {role, content}: their first turn",
        ),
        (Format::UltraFeedback, "ultrafeedback", "an instruction with rated completions"),
        (Format::Preferences, "preferences", "TRL's: chosen and rejected, with or without prompt, text or messages"),
        (Format::MtBench, "mt-bench", "MT-Bench's question.jsonl: question_id, category, turns"),
        (Format::LlmBar, "llmbar", "LLMBar's dataset.json: input, output_1, output_2, label"),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|f| f.0 == self).map_or("", |f| f.1)
    }

    /// The format that a row's keys are of.
    pub(super) fn of(row: &Object) -> Option<Self> {
        let has = |key: &str| row.contains_key(key);
        Some(match () {
            () if row.get("prompt").is_some_and(|p| p.get("replies").is_some()) => Format::Oasst,
            () if has("message_id") && has("message_tree_id") && has("role") && has("text") => Format::Oasst,
            () if has("question_id") && has("turns") => Format::MtBench,
            () if has("input") && has("output_1") && has("output_2") && has("label") => Format::LlmBar,
            () if has("instruction") && has("instances") => Format::SelfInstruct,
            () if has("instruction") && has("completions") => Format::UltraFeedback,
            () if has("chosen") && has("rejected") && !has("chosen_id") => Format::Preferences,
            () if has("instruction") && (has("output") || has("response")) => Format::Alpaca,
            () if has("question") && (has("answer") || has("response")) => Format::Alpaca,
            // With a label it is TRL's unpaired form, whose answer may be a bad one.
            () if has("prompt") && has("completion") && !has("label") => Format::Alpaca,
            () if has("conversations") || has("messages") => Format::ShareGpt,
            () => return None,
        })
    }

    /// What its rows can become, the usual first.
    pub fn targets(self) -> Vec<&'static Schema> {
        match self {
            Format::Oasst => vec![&named::IFT, &named::RANKED],
            Format::SelfInstruct | Format::Alpaca | Format::ShareGpt => vec![&named::IFT],
            Format::UltraFeedback | Format::LlmBar => vec![&named::RANKED],
            Format::Preferences => vec![&named::PREFERENCES],
            Format::MtBench => vec![&named::PROMPTS],
        }
    }

    /// Names of text columns that its rows have after the schema's own.
    pub(super) fn extra(self) -> &'static [&'static str] {
        if self == Format::MtBench { MT_BENCH } else { &[] }
    }
}

/// Different keys that a report lists; all others are counted together.
const MAX_REPORTED: usize = 256;

/// What becomes of the rows so far.
#[derive(Default)]
pub(super) struct Sink {
    /// Rows of the target schema, by its columns' names.
    pub rows: Vec<Object>,
    /// About how many bytes of text they hold.
    pub bytes: usize,
    /// Rows that the format's filter left out, by reason.
    pub left_out: BTreeMap<&'static str, u64>,
    /// In how many rows each key held something that was not read.
    pub unread: BTreeMap<String, u64>,
}

impl Sink {
    pub fn leave_out(&mut self, why: &'static str) {
        *self.left_out.entry(why).or_default() += 1;
    }
    /// Counts a key that was not read in `rows` rows.
    pub fn count_unread(&mut self, key: String, rows: u64) {
        let key = if self.unread.len() < MAX_REPORTED || self.unread.contains_key(&key) {
            key
        } else {
            "other keys".to_owned()
        };
        *self.unread.entry(key).or_default() += rows;
    }
    pub fn push(&mut self, row: Value) {
        if let Value::Object(row) = row {
            self.bytes += row.values().map(text_bytes).sum::<usize>();
            self.rows.push(row);
        }
    }
    /// An instruction with its answer.
    pub fn answer(&mut self, prompt: &str, response: &str) {
        match (prompt.trim().is_empty(), response.trim().is_empty()) {
            (true, _) => self.leave_out("an empty prompt"),
            (_, true) => self.leave_out("an empty answer"),
            _ if is_tool_call(response) => self.leave_out(TOOL_CALL),
            _ => self.push(json!({ "prompt": prompt.trim(), "response": response.trim() })),
        }
    }
    /// A prompt's answers with their ranks, 0 the best, and scores; in order of rank.
    pub fn ranked(&mut self, prompt_id: &str, prompt: &str, mut answers: Vec<Ranked>) {
        answers.retain(|a| !a.text.trim().is_empty());
        if prompt.trim().is_empty() {
            return self.leave_out("an empty prompt");
        }
        if answers.len() < 2 {
            return self.leave_out("fewer than two ranked answers");
        }
        answers.sort_by_key(|a| a.rank);
        for a in answers {
            self.push(json!({
                "prompt_id": prompt_id, "prompt": prompt.trim(), "response_id": a.id, "response": a.text.trim(),
                "rank": a.rank, "score": a.score,
            }));
        }
    }
}

/// About how many bytes a value of a finished row takes.
fn text_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 24,
        Value::Array(items) => items.iter().map(text_bytes).sum(),
        Value::Object(values) => values.values().map(text_bytes).sum(),
        _ => 8,
    }
}

/// One of several answers.
pub(super) struct Ranked {
    pub id: String,
    pub text: String,
    pub rank: u32,
    pub score: Option<f64>,
}

/// Turns rows of a format into rows of a schema.
pub(super) struct Converter {
    format: Format,
    oasst: Oasst,
}

impl Converter {
    /// `language` is the one that Open Assistant's messages are taken of; none for all.
    pub fn new(format: Format, target: &'static Schema, language: Option<String>) -> Self {
        Self { format, oasst: Oasst::new(target.name == named::RANKED.name, language) }
    }

    /// Takes a row, or says what is wrong with it. Every key of a row that is used is read, or counted in `sink`.
    pub fn row(&mut self, row: Object, sink: &mut Sink) -> Result<(), String> {
        let mut record = Record::new(row);
        let before: u64 = sink.left_out.values().sum();
        match take_context(&mut record, self.format)? {
            Context::Beyond(why) => sink.leave_out(why),
            Context::System(system) => match self.format {
                Format::Oasst => self.oasst.row(&mut record, sink)?,
                Format::SelfInstruct => seed_task(&mut record, sink)?,
                Format::Alpaca => instruction(&mut record, sink)?,
                Format::ShareGpt => conversation(&mut record, sink)?,
                Format::UltraFeedback => ultrafeedback(&mut record, sink)?,
                Format::Preferences => preference(&mut record, system, sink)?,
                Format::MtBench => mt_bench(&mut record, sink)?,
                Format::LlmBar => llmbar(&mut record, sink)?,
            },
        }
        // A row that was left out is counted as one, with its reason.
        let after: u64 = sink.left_out.values().sum();
        if before == after {
            for key in record.into_unread() {
                sink.count_unread(key, 1);
            }
        }
        Ok(())
    }

    /// What was kept back until the end.
    pub fn end(&mut self, sink: &mut Sink) {
        self.oasst.flush(sink);
    }
}

/// What a row says beside its question and its answer.
enum Context {
    /// Something that changes what the answer means and has no place in the rows to make: the reason to leave it out.
    Beyond(&'static str),
    /// Nothing but a system prompt that can be kept, if there is one.
    System(Option<String>),
}

/// Takes what changes the meaning of a row in every format. Only preferences have a place for a system prompt.
fn take_context(record: &mut Record, format: Format) -> Result<Context, String> {
    let mut reason = None;
    for (key, why) in CONTEXT_KEYS {
        if record.take(key).is_some_and(|value| !is_empty(&value)) {
            reason = reason.or(Some(why));
        }
    }
    let mut system = None;
    for key in SYSTEM_KEYS {
        let value = record.optional_text(key)?.filter(|text| !text.trim().is_empty());
        if system.is_some() && value.is_some() && system != value {
            reason = reason.or(Some("two system messages"));
        }
        system = system.or(value);
    }
    if system.is_some() && format != Format::Preferences {
        reason = reason.or(Some("a system message"));
    }
    Ok(reason.map_or(Context::System(system), Context::Beyond))
}

/// An instruction with what it is about below it, as Self-Instruct and Alpaca show them to a model.
pub(super) fn with_input(instruction: &str, input: &str) -> String {
    match input.trim() {
        "" => instruction.trim().to_owned(),
        input => format!("{}\n\n{input}", instruction.trim()),
    }
}

fn seed_task(record: &mut Record, sink: &mut Sink) -> Result<(), String> {
    let instruction = record.text("instruction")?;
    let instances = record.records("instances", |instance| {
        Ok((instance.optional_text("input")?.unwrap_or_default(), instance.text("output")?))
    })?;
    if instances.is_empty() {
        sink.leave_out("no instance");
    }
    for (input, output) in instances {
        sink.answer(&with_input(&instruction, &input), &output);
    }
    Ok(())
}

/// Names of what is asked; the first that is there is read.
const QUESTIONS: [&str; 3] = ["instruction", "question", "prompt"];
/// Names of what it is about.
const CONTEXTS: [&str; 2] = ["input", "context"];
/// Names of the answer.
const ANSWERS: [&str; 4] = ["output", "response", "completion", "answer"];

/// An instruction with its answer: Alpaca, Dolly, and prompts with completions.
fn instruction(record: &mut Record, sink: &mut Sink) -> Result<(), String> {
    let question = QUESTIONS.into_iter().find(|key| record.contains(key)).unwrap_or(QUESTIONS[0]);
    let answer = ANSWERS.into_iter().find(|key| record.contains(key)).unwrap_or(ANSWERS[0]);
    if record.peek(question).is_some_and(Value::is_array) {
        let mut turns = take_turns(record, question)?;
        turns.extend(take_turns(record, answer)?);
        first_turn(record, turns, sink);
        return Ok(());
    }
    let asked = plain_text(record, question)?;
    let context = CONTEXTS.into_iter().find(|key| record.has(key));
    let context = context.map(|key| record.text(key)).transpose()?.unwrap_or_default();
    let answered = plain_text(record, answer)?;
    sink.answer(&with_input(&asked, &context), &answered);
    Ok(())
}

/// Takes a text that is not a list of messages written as text.
fn plain_text(record: &mut Record, key: &str) -> Result<String, String> {
    let text = record.text(key)?;
    if is_encoded_messages(&text) {
        return Err(format!("`{key}` holds messages that are written as text; make it a list of objects"));
    }
    Ok(text)
}

fn conversation(record: &mut Record, sink: &mut Sink) -> Result<(), String> {
    let key = if record.contains("conversations") { "conversations" } else { "messages" };
    let turns = take_turns(record, key)?;
    first_turn(record, turns, sink);
    Ok(())
}

/// Takes the first question of a conversation with its answer. The turns after it are reported as unread.
fn first_turn(record: &mut Record, turns: Vec<Turn>, sink: &mut Sink) {
    // A system message would have to be a part of the prompt, which it is not.
    if turns.iter().any(|turn| turn.role == Role::System && !turn.text.trim().is_empty()) {
        return sink.leave_out("a system message");
    }
    let mut turns = turns.into_iter().filter(|turn| turn.role != Role::System);
    let (Some(question), Some(answer)) = (turns.next(), turns.next()) else {
        return sink.leave_out("no question with an answer at its beginning");
    };
    if let Some(why) = question.beyond_text.or(answer.beyond_text) {
        return sink.leave_out(why);
    }
    if question.role != Role::User || answer.role != Role::Assistant {
        return sink.leave_out("no question with an answer at its beginning");
    }
    // UltraChat repeats the first question beside the messages.
    let repeated = record.peek("prompt").and_then(Value::as_str).map(str::trim) == Some(question.text.trim());
    if repeated {
        record.take("prompt");
    }
    if turns.next().is_some() {
        record.report("turns after the first answer".to_owned());
    }
    sink.answer(&question.text, &answer.text);
}

fn ultrafeedback(record: &mut Record, sink: &mut Sink) -> Result<(), String> {
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
    let prompt_id = hash_hex([&prompt]);
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
    sink.ranked(&prompt_id, &prompt, answers.collect());
    Ok(())
}
