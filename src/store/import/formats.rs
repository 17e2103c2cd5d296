//! The public formats: detection, and dispatch to their converters.

use serde_json::Value;

use super::benchmarks::{MT_BENCH, llmbar, mt_bench};
use super::chats::{Turns, conversation, prompt};
use super::context::Context;
use super::instructions::{instruction, seed_task, ultrafeedback};
use super::oasst::Oasst;
use super::preferences::preference;
use super::record::{Object, Record};
use super::sink::RowSink;
use super::turns::Role;
use crate::data::{Schema, named};
use crate::store::datasets::normalize::is_prompt_only;

/// A public format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ImportFormat {
    /// Open Assistant's message trees, with a tree or a message per row.
    Oasst,
    /// Self-Instruct's seed tasks.
    SelfInstruct,
    /// Alpaca: instruction, input, output, and other names of the same columns.
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

impl ImportFormat {
    /// Every format with its name and a description.
    pub const ALL: [(ImportFormat, &'static str, &'static str); 9] = [
        (ImportFormat::Oasst, "oasst", "Open Assistant's trees, or its messages one a row"),
        (ImportFormat::SelfInstruct, "self-instruct", "Self-Instruct's seed_tasks: instruction, instances"),
        (
            ImportFormat::Alpaca,
            "alpaca",
            "instruction, input, output; also Dolly's context and response, question and answer",
        ),
        (ImportFormat::ShareGpt, "sharegpt", "conversations of {from, value}, or messages of {role, content}"),
        (ImportFormat::UltraFeedback, "ultrafeedback", "an instruction with rated completions"),
        (
            ImportFormat::Preferences,
            "preferences",
            "TRL's: chosen and rejected, with or without prompt, text or messages",
        ),
        (ImportFormat::MtBench, "mt-bench", "MT-Bench's question.jsonl: question_id, category, turns"),
        (ImportFormat::LlmBar, "llmbar", "LLMBar's dataset.json: input, output_1, output_2, label"),
        (
            ImportFormat::Prompts,
            "prompts",
            "prompts to answer: a key or a CSV column `prompt`, messages, or a .txt file",
        ),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|f| f.0 == self).map_or("", |f| f.1)
    }

    /// Detects the format of a row by its keys.
    pub(super) fn detect(row: &Object) -> Option<Self> {
        let has = |key: &str| row.contains_key(key);
        Some(match () {
            () if row.get("prompt").is_some_and(|p| p.get("replies").is_some()) => ImportFormat::Oasst,
            () if has("message_id") && has("message_tree_id") && has("role") && has("text") => ImportFormat::Oasst,
            () if has("question_id") && has("turns") => ImportFormat::MtBench,
            () if has("input") && has("output_1") && has("output_2") && has("label") => ImportFormat::LlmBar,
            () if has("instruction") && has("instances") => ImportFormat::SelfInstruct,
            () if has("instruction") && has("completions") => ImportFormat::UltraFeedback,
            () if has("chosen") && has("rejected") && !has("chosen_id") => ImportFormat::Preferences,
            () if has("instruction") && (has("output") || has("response")) => ImportFormat::Alpaca,
            () if has("question") && (has("answer") || has("response")) => ImportFormat::Alpaca,
            // A row with a label is TRL's unpaired form, whose answer may be a bad one.
            () if has("prompt") && has("completion") && !has("label") => ImportFormat::Alpaca,
            () if has("messages") && !has("conversations") && is_unanswered(row.get("messages")) => {
                ImportFormat::Prompts
            }
            () if has("conversations") || has("messages") => ImportFormat::ShareGpt,
            // Rows of reflux's own schema have an `origin`.
            () if is_prompt_only(has) && !has("origin") => ImportFormat::Prompts,
            () => return None,
        })
    }

    /// Possible target schemas, the default first.
    pub fn targets(self) -> Vec<&'static Schema> {
        match self {
            ImportFormat::Oasst => vec![&named::IFT, &named::RANKED],
            ImportFormat::SelfInstruct | ImportFormat::Alpaca | ImportFormat::ShareGpt => vec![&named::IFT],
            ImportFormat::UltraFeedback | ImportFormat::LlmBar => vec![&named::RANKED],
            ImportFormat::Preferences => vec![&named::PREFERENCES],
            ImportFormat::MtBench | ImportFormat::Prompts => vec![&named::PROMPTS],
        }
    }

    /// Names of additional text columns after the schema's own.
    pub(super) fn extra(self) -> &'static [&'static str] {
        if self == ImportFormat::MtBench { MT_BENCH } else { &[] }
    }
}

/// Whether messages have no turn of an assistant.
fn is_unanswered(messages: Option<&Value>) -> bool {
    let Some(Value::Array(messages)) = messages else { return false };
    let role = |message: &Value| message.get("role").and_then(Value::as_str).map(Role::from_name);
    !messages.is_empty() && messages.iter().all(|message| matches!(role(message), Some(Role::User | Role::System)))
}

/// Reason for leaving out a row of Open Assistant whose context is not in its messages.
const CONTEXT_OF_A_MESSAGE: &str = "a system message or a history beside messages of Open Assistant";

/// Converts rows of a format to rows of a schema.
pub(super) struct Converter {
    format: ImportFormat,
    turns: Turns,
    oasst: Oasst,
}

impl Converter {
    /// A converter. `language` selects Open Assistant's messages; `None` selects all.
    pub fn new(format: ImportFormat, target: &'static Schema, language: Option<String>, turns: Turns) -> Self {
        Self { format, turns, oasst: Oasst::new(target.name == named::RANKED.name, language, turns) }
    }

    /// Converts a row, or returns its fault. Every key of a converted row is read, or counted in `sink`.
    pub fn row(&mut self, row: Object, sink: &mut RowSink) -> Result<(), String> {
        let mut record = Record::new(row);
        let left_out = |sink: &RowSink| sink.left_out.values().sum::<u64>();
        let (before, made) = (left_out(sink), sink.rows.len());
        match Context::take(&mut record)? {
            Err(why) => sink.leave_out(why),
            Ok(context) if self.format == ImportFormat::Oasst && !context.is_empty() => {
                sink.leave_out(CONTEXT_OF_A_MESSAGE)
            }
            Ok(context) => match self.format {
                ImportFormat::Oasst => self.oasst.row(&mut record, sink)?,
                ImportFormat::SelfInstruct => seed_task(&mut record, &context, sink)?,
                ImportFormat::Alpaca => instruction(&mut record, &context, self.turns, sink)?,
                ImportFormat::ShareGpt => conversation(&mut record, &context, self.turns, sink)?,
                ImportFormat::UltraFeedback => ultrafeedback(&mut record, &context, sink)?,
                ImportFormat::Preferences => preference(&mut record, context, sink)?,
                ImportFormat::MtBench => mt_bench(&mut record, &context, sink)?,
                ImportFormat::LlmBar => llmbar(&mut record, &context, sink)?,
                ImportFormat::Prompts => prompt(&mut record, &context, sink)?,
            },
        }
        // A row that was left out as a whole is counted by its reason alone.
        if before == left_out(sink) || sink.rows.len() > made {
            for key in record.into_unread() {
                sink.count_unread(&key, 1);
            }
        }
        Ok(())
    }

    /// Converts what was buffered until the end.
    pub fn end(&mut self, sink: &mut RowSink) {
        self.oasst.flush(sink);
    }
}
