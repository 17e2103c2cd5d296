//! The public formats: how each is recognised, and what its rows become.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::benchmarks::{MT_BENCH, llmbar, mt_bench};
use super::oasst::Oasst;
use super::preferences::preference;
use crate::data::{Schema, hash_hex, named};
use crate::store::jsonl::{list, member, spell, text};

/// A row as it came.
pub(super) type Object = Map<String, Value>;

/// A public format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// Open Assistant's message trees, a tree or a message a row.
    Oasst,
    /// Self-Instruct's seed tasks.
    SelfInstruct,
    /// Alpaca: instruction, input, output.
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
        (Format::Alpaca, "alpaca", "instruction, input, output"),
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
            () if has("instruction") && has("output") => Format::Alpaca,
            () if has("chosen") && has("rejected") && !has("chosen_id") => Format::Preferences,
            () if has("conversations") || has("messages") && !has("prompt") => Format::ShareGpt,
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

/// What becomes of the rows so far.
#[derive(Default)]
pub(super) struct Sink {
    /// Rows of the target schema, by its columns' names.
    pub rows: Vec<Object>,
    /// Rows that the format's filter left out, by reason.
    pub left_out: BTreeMap<&'static str, u64>,
}

impl Sink {
    pub fn leave_out(&mut self, why: &'static str) {
        *self.left_out.entry(why).or_default() += 1;
    }
    pub fn push(&mut self, row: Value) {
        if let Value::Object(row) = row {
            self.rows.push(row);
        }
    }
    /// An instruction with its answer.
    pub fn answer(&mut self, prompt: &str, response: &str) {
        match (prompt.trim().is_empty(), response.trim().is_empty()) {
            (true, _) => self.leave_out("an empty prompt"),
            (_, true) => self.leave_out("an empty answer"),
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

    /// Takes a row, or says what is wrong with it.
    pub fn row(&mut self, row: Object, sink: &mut Sink) -> Result<(), String> {
        match self.format {
            Format::Oasst => self.oasst.row(row, sink),
            Format::SelfInstruct => seed_task(row, sink),
            Format::Alpaca => alpaca(row, sink),
            Format::ShareGpt => conversation(row, sink),
            Format::UltraFeedback => ultrafeedback(row, sink),
            Format::Preferences => preference(row, sink),
            Format::MtBench => mt_bench(row, sink),
            Format::LlmBar => llmbar(row, sink),
        }
    }

    /// What was kept back until the end.
    pub fn end(&mut self, sink: &mut Sink) {
        self.oasst.flush(sink);
    }
}

/// A text that may be missing or null.
pub(super) fn optional(row: &mut Object, key: &str) -> Result<Option<String>, String> {
    match row.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => text(value).map(Some).map_err(|e| format!("`{key}` {e}")),
    }
}

/// An instruction with what it is about below it, as Self-Instruct and Alpaca show them to a model.
pub(super) fn with_input(instruction: &str, input: &str) -> String {
    match input.trim() {
        "" => instruction.trim().to_owned(),
        input => format!("{}\n\n{input}", instruction.trim()),
    }
}

fn seed_task(mut row: Object, sink: &mut Sink) -> Result<(), String> {
    let instruction = member(&mut row, "instruction", text)?;
    let instances = member(&mut row, "instances", |v| {
        list(v, |v| match v {
            Value::Object(mut o) => {
                Ok((optional(&mut o, "input")?.unwrap_or_default(), member(&mut o, "output", text)?))
            }
            other => Err(format!("is {}, expected an object", spell(&other))),
        })
    })?;
    if instances.is_empty() {
        sink.leave_out("no instance");
    }
    for (input, output) in instances {
        sink.answer(&with_input(&instruction, &input), &output);
    }
    Ok(())
}

fn alpaca(mut row: Object, sink: &mut Sink) -> Result<(), String> {
    let instruction = member(&mut row, "instruction", text)?;
    let input = optional(&mut row, "input")?.unwrap_or_default();
    sink.answer(&with_input(&instruction, &input), &member(&mut row, "output", text)?);
    Ok(())
}

fn conversation(mut row: Object, sink: &mut Sink) -> Result<(), String> {
    let key = if row.contains_key("conversations") { "conversations" } else { "messages" };
    let mut turns = member(&mut row, key, |v| list(v, turn))?.into_iter().peekable();
    // A system message would have to be a part of the prompt, which it is not.
    if turns.peek().is_some_and(|t| t.0 == "system" && !t.1.trim().is_empty()) {
        sink.leave_out("a system message");
        return Ok(());
    }
    let mut turns = turns.skip_while(|t| t.0 == "system");
    match (turns.next(), turns.next()) {
        (Some((asks, prompt)), Some((answers, response))) if asks == "user" && answers == "assistant" => {
            sink.answer(&prompt, &response);
        }
        _ => sink.leave_out("no question with an answer at its beginning"),
    }
    Ok(())
}

/// A turn in either spelling, with the roles of chat templates.
fn turn(value: Value) -> Result<(&'static str, String), String> {
    let Value::Object(mut turn) = value else { return Err(format!("is {}, expected an object", spell(&value))) };
    let (who, what) = if turn.contains_key("from") { ("from", "value") } else { ("role", "content") };
    let role = match member(&mut turn, who, text)?.as_str() {
        "human" | "user" | "prompter" => "user",
        "gpt" | "chatgpt" | "bing" | "bard" | "model" | "assistant" => "assistant",
        "system" => "system",
        // Tools and the like: a turn that is neither asks nor answers.
        _ => "other",
    };
    Ok((role, member(&mut turn, what, text)?))
}

fn ultrafeedback(mut row: Object, sink: &mut Sink) -> Result<(), String> {
    let prompt = member(&mut row, "instruction", text)?;
    let completions = member(&mut row, "completions", |v| {
        list(v, |v| {
            let Value::Object(mut o) = v else { return Err(format!("is {}, expected an object", spell(&v))) };
            let score = ["overall_score", "score", "fine-grained_score"].iter().find_map(|k| o.get(*k)?.as_f64());
            if let Some(score) = score.filter(|s| !(*s as f32).is_finite()) {
                return Err(format!("has the score {score:e}, which does not fit in 32 bits"));
            }
            Ok((member(&mut o, "response", text)?, score))
        })
    })?;
    let prompt_id = hash_hex([&prompt]);
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
