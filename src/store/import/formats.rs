//! The public formats: how each is recognised, and what its rows become.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Map, Value, json};

use super::benchmarks::{MT_BENCH, llmbar, mt_bench};
use super::chats::{Turns, answers, conversation, prompt};
use super::context::Context;
use super::oasst::Oasst;
use super::preferences::preference;
use super::record::Record;
use super::turns::{Role, TOOL_CALL, is_tool_call, take_turns};
use crate::data::{PROMPT_MESSAGES, Schema, hash_hex, named, prompt_id, transcript};
use crate::store::datasets::asked::{is_prompt_only, said};
use crate::store::datasets::context::is_encoded_messages;
use crate::store::datasets::conversations::Turn;
use crate::store::files::jsonl::count_unread;
use crate::store::files::reader::CHUNK;

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
    /// Prompts without answers: a key `prompt`, or messages that end with a question.
    Prompts,
}

impl Format {
    /// Every format with its name and what it is.
    pub const ALL: [(Format, &'static str, &'static str); 9] = [
        (Format::Oasst, "oasst", "Open Assistant's trees, or its messages one a row"),
        (Format::SelfInstruct, "self-instruct", "Self-Instruct's seed_tasks: instruction, instances"),
        (
            Format::Alpaca,
            "alpaca",
            "instruction, input, output; also Dolly's context and response, question and answer",
        ),
        (Format::ShareGpt, "sharegpt", "conversations of {from, value}, or messages of {role, content}"),
        (Format::UltraFeedback, "ultrafeedback", "an instruction with rated completions"),
        (Format::Preferences, "preferences", "TRL's: chosen and rejected, with or without prompt, text or messages"),
        (Format::MtBench, "mt-bench", "MT-Bench's question.jsonl: question_id, category, turns"),
        (Format::LlmBar, "llmbar", "LLMBar's dataset.json: input, output_1, output_2, label"),
        (Format::Prompts, "prompts", "prompts to answer: a key or a CSV column `prompt`, messages, or a .txt file"),
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
            () if has("messages") && !has("conversations") && is_unanswered(row.get("messages")) => Format::Prompts,
            () if has("conversations") || has("messages") => Format::ShareGpt,
            // Rows of our own schema say where their prompts are from.
            () if is_prompt_only(has) && !has("origin") => Format::Prompts,
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
            Format::MtBench | Format::Prompts => vec![&named::PROMPTS],
        }
    }

    /// Names of text columns that its rows have after the schema's own.
    pub(super) fn extra(self) -> &'static [&'static str] {
        if self == Format::MtBench { MT_BENCH } else { &[] }
    }
}

/// A chunk of rows ends when it has this many bytes, however few rows it has.
const CHUNK_BYTES: usize = 64 << 20;

/// Bytes of text that the rows made of one input row may say again: every answer has all that was said before it, so
/// rows can hold far more text than their source.
const MAX_REPEATED: usize = 64 << 20;
/// The reason for leaving out what would say more than that again.
pub(super) const REPEATED: &str = "answers that would repeat more than 64 MiB of what was said before them";

/// Bytes that a message takes in memory beside its texts.
const MESSAGE_BYTES: usize = 128;

/// About how many bytes a turn takes in each row that has it.
pub(super) fn turn_bytes(role: &str, content: &str) -> usize {
    role.len() + content.len() + MESSAGE_BYTES
}

/// Whether prompts of these sizes, of which rows are made, say too much again. The largest is no repetition: it has what
/// the others have.
pub(super) fn is_too_repetitive(sizes: impl Iterator<Item = usize>) -> bool {
    let (mut sum, mut largest) = (0usize, 0);
    for size in sizes {
        sum = sum.saturating_add(size);
        largest = largest.max(size);
    }
    sum - largest > MAX_REPEATED
}

/// What becomes of the rows so far.
#[derive(Default)]
pub(super) struct Sink {
    /// Rows of the target schema, by its columns' names, each with about how many bytes it takes.
    rows: VecDeque<(Object, usize)>,
    /// The sum of these bytes.
    bytes: usize,
    /// Rows that the format's filter left out, by reason.
    pub left_out: BTreeMap<&'static str, u64>,
    /// In how many rows each key held something that was not read.
    pub unread: BTreeMap<String, u64>,
}

impl Sink {
    pub fn leave_out(&mut self, why: &'static str) {
        self.leave_out_all(why, 1);
    }
    /// Counts several rows that were left out for one reason.
    pub fn leave_out_all(&mut self, why: &'static str, rows: u64) {
        if rows > 0 {
            *self.left_out.entry(why).or_default() += rows;
        }
    }
    /// Counts a key that was not read in `rows` rows.
    pub fn count_unread(&mut self, key: &str, rows: u64) {
        count_unread(&mut self.unread, key, rows);
    }
    pub fn push(&mut self, row: Value) {
        if let Value::Object(row) = row {
            let bytes = row.values().map(value_bytes).sum();
            self.bytes += bytes;
            self.rows.push_back((row, bytes));
        }
    }
    /// The next rows to write: a full chunk, or at the end what is left. A chunk has few rows where they are large.
    pub fn chunk(&mut self, at_end: bool) -> Option<Vec<Object>> {
        let full = self.rows.len() >= CHUNK || self.bytes >= CHUNK_BYTES;
        if self.rows.is_empty() || !(full || at_end) {
            return None;
        }
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        while chunk.len() < CHUNK && bytes < CHUNK_BYTES {
            let Some((row, size)) = self.rows.pop_front() else { break };
            bytes += size;
            chunk.push(row);
        }
        self.bytes -= bytes;
        Some(chunk)
    }
    /// A conversation with the answer to it.
    pub fn answer(&mut self, before: &[Turn], response: &str) {
        match (is_blank(before), response.trim().is_empty()) {
            (true, _) => self.leave_out("an empty prompt"),
            (_, true) => self.leave_out("an empty answer"),
            _ if is_tool_call(response) => self.leave_out(TOOL_CALL),
            _ => {
                let mut row = json!({ "response": response.trim() });
                put_prompt(&mut row, before);
                self.push(row);
            }
        }
    }
    /// A conversation's answers with their ranks, 0 the best, and scores; in order of rank.
    pub fn ranked(&mut self, prompt_id: &str, before: &[Turn], mut answers: Vec<Ranked>) {
        answers.retain(|a| !a.text.trim().is_empty());
        if is_blank(before) {
            return self.leave_out("an empty prompt");
        }
        if answers.len() < 2 {
            return self.leave_out("fewer than two ranked answers");
        }
        let size = before.iter().map(|turn| turn_bytes(&turn.role, &turn.content)).sum();
        if is_too_repetitive(answers.iter().map(|_| size)) {
            return self.leave_out(REPEATED);
        }
        answers.sort_by_key(|a| a.rank);
        for a in answers {
            let mut row = json!({
                "prompt_id": prompt_id, "response_id": a.id, "response": a.text.trim(), "rank": a.rank, "score": a.score,
            });
            put_prompt(&mut row, before);
            self.push(row);
        }
    }
}

fn is_blank(before: &[Turn]) -> bool {
    before.last().is_none_or(|last| last.content.trim().is_empty())
}

/// Puts what is asked into a row: the text, and the messages where they are more than one of a user.
pub(super) fn put_prompt(row: &mut Value, before: &[Turn]) {
    row["prompt"] = transcript(&said(before)).into();
    if !matches!(before, [one] if one.role == "user") {
        row[PROMPT_MESSAGES] = before.iter().map(Turn::to_json).collect();
    }
}

/// Whether messages have no turn of an assistant.
fn is_unanswered(messages: Option<&Value>) -> bool {
    let Some(Value::Array(messages)) = messages else { return false };
    let role = |message: &Value| message.get("role").and_then(Value::as_str).map(Role::of);
    !messages.is_empty() && messages.iter().all(|message| matches!(role(message), Some(Role::User | Role::System)))
}

/// About how many bytes a value of a finished row takes.
fn value_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 24,
        Value::Array(items) => items.iter().map(value_bytes).sum(),
        Value::Object(values) => MESSAGE_BYTES + values.values().map(value_bytes).sum::<usize>(),
        _ => 8,
    }
}

/// Why a row of Open Assistant is left out whose conversation is not all in its messages.
const CONTEXT_OF_A_MESSAGE: &str = "a system message or a history beside messages of Open Assistant";

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
    turns: Turns,
    oasst: Oasst,
}

impl Converter {
    /// `language` is the one that Open Assistant's messages are taken of; none for all.
    pub fn new(format: Format, target: &'static Schema, language: Option<String>, turns: Turns) -> Self {
        Self { format, turns, oasst: Oasst::new(target.name == named::RANKED.name, language, turns) }
    }

    /// Takes a row, or says what is wrong with it. Every key of a row that is used is read, or counted in `sink`.
    pub fn row(&mut self, row: Object, sink: &mut Sink) -> Result<(), String> {
        let mut record = Record::new(row);
        let left_out = |sink: &Sink| sink.left_out.values().sum::<u64>();
        let (before, made) = (left_out(sink), sink.rows.len());
        match Context::take(&mut record)? {
            Err(why) => sink.leave_out(why),
            Ok(context) if self.format == Format::Oasst && !context.is_empty() => sink.leave_out(CONTEXT_OF_A_MESSAGE),
            Ok(context) => match self.format {
                Format::Oasst => self.oasst.row(&mut record, sink)?,
                Format::SelfInstruct => seed_task(&mut record, &context, sink)?,
                Format::Alpaca => instruction(&mut record, &context, self.turns, sink)?,
                Format::ShareGpt => conversation(&mut record, &context, self.turns, sink)?,
                Format::UltraFeedback => ultrafeedback(&mut record, &context, sink)?,
                Format::Preferences => preference(&mut record, context, sink)?,
                Format::MtBench => mt_bench(&mut record, &context, sink)?,
                Format::LlmBar => llmbar(&mut record, &context, sink)?,
                Format::Prompts => prompt(&mut record, &context, sink)?,
            },
        }
        // A row that was left out whole is counted as one, with its reason.
        if before == left_out(sink) || sink.rows.len() > made {
            for key in record.into_unread() {
                sink.count_unread(&key, 1);
            }
        }
        Ok(())
    }

    /// What was kept back until the end.
    pub fn end(&mut self, sink: &mut Sink) {
        self.oasst.flush(sink);
    }
}

/// An instruction with what it is about below it, as Self-Instruct and Alpaca show them to a model.
pub(super) fn with_input(instruction: &str, input: &str) -> String {
    match input.trim() {
        "" => instruction.trim().to_owned(),
        input => format!("{}\n\n{input}", instruction.trim()),
    }
}

fn seed_task(record: &mut Record, context: &Context, sink: &mut Sink) -> Result<(), String> {
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

/// Names of what is asked; the first that is there is read.
const QUESTIONS: [&str; 3] = ["instruction", "question", "prompt"];
/// Names of what it is about.
const CONTEXTS: [&str; 2] = ["input", "context"];
/// Names of the answer.
const ANSWERS: [&str; 4] = ["output", "response", "completion", "answer"];

/// An instruction with its answer: Alpaca, Dolly, and prompts with completions.
fn instruction(record: &mut Record, context: &Context, which: Turns, sink: &mut Sink) -> Result<(), String> {
    let question = QUESTIONS.into_iter().find(|key| record.contains(key)).unwrap_or(QUESTIONS[0]);
    let answer = ANSWERS.into_iter().find(|key| record.contains(key)).unwrap_or(ANSWERS[0]);
    if record.peek(question).is_some_and(Value::is_array) {
        let mut turns = take_turns(record, question)?;
        // The answers of the prompt itself are not learnt.
        let from = turns.len();
        turns.extend(take_turns(record, answer)?);
        answers(record, context, turns, from, which, sink);
        return Ok(());
    }
    let asked = plain_text(record, question)?;
    let about = CONTEXTS.into_iter().find(|key| record.has(key));
    let about = about.map(|key| record.text(key)).transpose()?.unwrap_or_default();
    let answered = plain_text(record, answer)?;
    sink.answer(&context.question(&with_input(&asked, &about)), &answered);
    Ok(())
}

/// Takes a text that is not a list of messages written as text.
pub(super) fn plain_text(record: &mut Record, key: &str) -> Result<String, String> {
    let text = record.text(key)?;
    if is_encoded_messages(&text) {
        return Err(format!("`{key}` holds messages that are written as text; make it a list of objects"));
    }
    Ok(text)
}

fn ultrafeedback(record: &mut Record, context: &Context, sink: &mut Sink) -> Result<(), String> {
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
    let prompt_id = if before.len() > 1 { prompt_id(&said(&before)) } else { hash_hex([&prompt]) };
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A chunk ends at its bytes, so that a column never has more text than it can hold.
    #[test]
    fn a_chunk_of_large_rows_has_few() {
        let mut sink = Sink::default();
        let chunks = |sink: &mut Sink, at_end| -> Vec<usize> {
            std::iter::from_fn(|| sink.chunk(at_end)).map(|chunk| chunk.len()).collect()
        };
        (0..CHUNK + 3).for_each(|_| sink.push(json!({"response": "r"})));
        assert_eq!(chunks(&mut sink, false), [CHUNK]);
        let large = "x".repeat(CHUNK_BYTES / 4);
        (0..10).for_each(|_| sink.push(json!({ "response": large })));
        assert_eq!(chunks(&mut sink, false), [7, 4]);
        assert_eq!(chunks(&mut sink, true), [2]);
        assert_eq!(sink.bytes, 0);
    }
}
