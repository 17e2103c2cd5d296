//! The public formats: how each is recognised, and what its rows become.

use serde_json::Value;

use super::benchmarks::{MT_BENCH, llmbar, mt_bench};
use super::chats::{Turns, conversation, prompt};
use super::context::Context;
use super::instructions::{instruction, seed_task, ultrafeedback};
use super::oasst::Oasst;
use super::preferences::preference;
use super::record::{Object, Record};
use super::sink::Sink;
use super::turns::Role;
use crate::data::{Schema, named};
use crate::store::datasets::normalize::is_prompt_only;

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

/// Whether messages have no turn of an assistant.
fn is_unanswered(messages: Option<&Value>) -> bool {
    let Some(Value::Array(messages)) = messages else { return false };
    let role = |message: &Value| message.get("role").and_then(Value::as_str).map(Role::of);
    !messages.is_empty() && messages.iter().all(|message| matches!(role(message), Some(Role::User | Role::System)))
}

/// Why a row of Open Assistant is left out whose conversation is not all in its messages.
const CONTEXT_OF_A_MESSAGE: &str = "a system message or a history beside messages of Open Assistant";

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
