//! The named schemas of reflux's datasets, with documented columns. `reflux schema` prints them.

use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, RecordBatch, new_null_array};
use arrow::datatypes::{DataType, Field, Fields, Schema as ArrowSchema, SchemaRef};

use crate::error::{Error, Result};

/// Type of a column.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Type {
    /// UTF-8 text.
    Text,
    /// Unsigned 32-bit integer.
    UInt,
    /// 32-bit float.
    Float,
    /// 64-bit float.
    Double,
    /// 16 bytes: a 128-bit hash, most significant byte first.
    Hash,
    /// List of text.
    Texts,
    /// List of token ids.
    Tokens,
    /// List of 32-bit floats.
    Floats,
    /// List of `{role, content}`: the conversational form that TRL reads.
    Messages,
    /// List of `{text, outcome, score, mass, tokens, logprobs}`: the judgements of an answer.
    Judgements,
}

impl Type {
    /// The Arrow type.
    pub fn arrow(self) -> DataType {
        let list = |item: DataType| DataType::List(Arc::new(Field::new_list_field(item, false)));
        match self {
            Type::Text => DataType::Utf8,
            Type::UInt => DataType::UInt32,
            Type::Float => DataType::Float32,
            Type::Double => DataType::Float64,
            Type::Hash => DataType::FixedSizeBinary(16),
            Type::Texts => list(DataType::Utf8),
            Type::Tokens => list(DataType::UInt32),
            Type::Floats => list(DataType::Float32),
            Type::Messages => list(DataType::Struct(message_fields())),
            Type::Judgements => list(DataType::Struct(judgement_fields())),
        }
    }
}

/// The fields of one message.
pub fn message_fields() -> Fields {
    vec![Field::new("role", DataType::Utf8, false), Field::new("content", DataType::Utf8, false)].into()
}
/// The fields of one judgement. `score` is null unless `outcome` is `score`, `mass` unless the score is an
/// expected one, `tokens` and `logprobs` unless they were kept.
pub fn judgement_fields() -> Fields {
    vec![
        Field::new("text", DataType::Utf8, false),
        Field::new("outcome", DataType::Utf8, false),
        Field::new("score", DataType::Float32, true),
        Field::new("mass", DataType::Float32, true),
        Field::new("tokens", Type::Tokens.arrow(), true),
        Field::new("logprobs", Type::Floats.arrow(), true),
    ]
    .into()
}

/// One documented column.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Name, as DuckDB and pyarrow show it.
    pub name: &'static str,
    /// Its type.
    pub kind: Type,
    /// Whether a row may lack it.
    pub nullable: bool,
    /// Its meaning, with the unit.
    pub about: &'static str,
}

/// A named, documented schema.
#[derive(Debug)]
pub struct Schema {
    /// Name, as `reflux schema` and `reflux explain` print it.
    pub name: &'static str,
    /// Meaning of a row.
    pub about: &'static str,
    /// The columns, in order.
    pub columns: &'static [Column],
}

impl Schema {
    /// The Arrow schema.
    pub fn arrow(&self) -> SchemaRef {
        let fields: Vec<Field> = self.columns.iter().map(|c| Field::new(c.name, c.kind.arrow(), c.nullable)).collect();
        Arc::new(ArrowSchema::new(fields))
    }
    /// Builds a batch of this schema from its columns, in order. Nullable columns at the end can be omitted
    /// and become null.
    ///
    /// # Errors
    /// A column has the wrong type, length, or nulls (a bug of the caller).
    pub fn batch(&self, mut columns: Vec<ArrayRef>) -> Result<RecordBatch> {
        let rows = columns.first().map_or(0, |c| c.len());
        let absent = self.columns.iter().skip(columns.len()).take_while(|c| c.nullable);
        columns.extend(absent.map(|c| new_null_array(&c.kind.arrow(), rows)));
        RecordBatch::try_new(self.arrow(), columns).map_err(|e| Error::bug(format!("a `{}` batch: {e}", self.name)))
    }
    /// Adds missing columns as nulls to rows that were stored under an earlier version of this schema.
    ///
    /// # Errors
    /// As [`Schema::batch`].
    pub fn conform(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let column = |c: &Column| match rows.column_by_name(c.name) {
            Some(there) => Arc::clone(there),
            None => new_null_array(&c.kind.arrow(), rows.num_rows()),
        };
        self.batch(self.columns.iter().map(column).collect())
    }
    /// A batch without rows.
    pub fn empty(&self) -> RecordBatch {
        RecordBatch::new_empty(self.arrow())
    }
    /// Names of required columns that `other` lacks.
    pub fn missing_in(&self, other: &Schema) -> Vec<&'static str> {
        let lacks = |c: &&Column| !c.nullable && !other.columns.iter().any(|o| o.name == c.name && o.kind == c.kind);
        self.columns.iter().filter(lacks).map(|c| c.name).collect()
    }
}

const fn column(name: &'static str, kind: Type, about: &'static str) -> Column {
    Column { name, kind, nullable: false, about }
}
const fn nullable(name: &'static str, kind: Type, about: &'static str) -> Column {
    Column { name, kind, nullable: true, about }
}

#[rustfmt::skip]
macro_rules! schemas {
    ($($(#[$doc:meta])* $id:ident = $name:literal, $about:literal, [$($column:expr),* $(,)?];)*) => {
        $($(#[$doc])* pub static $id: Schema = Schema { name: $name, about: $about, columns: &[$($column),*] };)*
        /// Every named schema.
        pub static ALL: &[&Schema] = &[$(&$id),*];
    };
}

/// The named schemas.
pub mod named {
    use super::{Schema, Type, column, nullable};

    /// Description of the column `prompt_messages`.
    const MESSAGES: &str = "the conversation before the answer, where it is more than one message of a user; `prompt` is then its transcript";

    schemas! {
        /// Plain text.
        TEXT = "text", "a document to train on; the loss is on all of its tokens but those of the context", [
            column("context", Type::Text, "text that is read but not learnt, before the rest; may be empty"),
            column("text", Type::Text, "text that is learnt"),
        ];
        /// Instruction-response pairs.
        IFT = "ift", "an instruction and a good response to it (instruction fine-tuning)", [
            column("prompt", Type::Text, "the instruction; of a conversation its transcript"),
            column("response", Type::Text, "the response; the loss is on its tokens"),
            nullable("prompt_messages", Type::Messages, MESSAGES),
        ];
        /// Judged responses.
        EFT = "eft", "a response with a judgement of it (evaluation fine-tuning)", [
            column("prompt", Type::Text, "the instruction"),
            column("response", Type::Text, "the response that is judged"),
            column("judgement", Type::Text, "the judge's reasons and score; the loss is on its tokens"),
            column("score", Type::Float, "the score that the judgement ends with"),
        ];
        /// Instructions to answer.
        PROMPTS = "prompts", "an instruction to answer", [
            column("prompt_id", Type::Text, "hash of the text and its lineage, 32 hex digits"),
            column("prompt", Type::Text, "the instruction; of a conversation its transcript"),
            column("origin", Type::Text, "the step that made it"),
            column("parents", Type::Texts, "ids of the example prompts it was written after; empty for given prompts"),
            nullable("model", Type::Text, "hash of the model that wrote it; null for given prompts"),
            nullable("prompt_messages", Type::Messages, MESSAGES),
        ];
        /// Sampled answers.
        RESPONSES = "responses", "one sampled answer to a prompt", [
            column("prompt_id", Type::Text, "the prompt's id"),
            column("prompt", Type::Text, "the prompt's text; of a conversation its transcript"),
            column("response_id", Type::Text, "hash of the prompt's id, the model, the sample number and the tokens"),
            column("sample", Type::UInt, "which of the prompt's answers, from 0"),
            column("response", Type::Text, "the answer's text, without the token that ended it"),
            column("finish", Type::Text, "why it ended: stop (the model ended it) or length (max_tokens cut it)"),
            column("prompt_tokens", Type::Tokens, "token ids of the rendered prompt"),
            column("response_tokens", Type::Tokens, "token ids as sampled, with the end token where finish is stop"),
            column("logprobs", Type::Floats, "natural log-probability of each sampled token at temperature 1 over the full vocabulary"),
            column("model", Type::Text, "hash of the model that wrote it"),
            nullable("tokenizer", Type::Text, "hash of the tokenizer and chat template that the token ids are of; null where it is not known"),
            nullable("prompt_messages", Type::Messages, MESSAGES),
        ];
        /// Judged answers.
        SCORES = "scores", "one answer with its score", [
            column("prompt_id", Type::Text, "the prompt's id"),
            column("prompt", Type::Text, "the prompt's text; of a conversation its transcript"),
            column("response_id", Type::Text, "the answer's id"),
            column("sample", Type::UInt, "which of the prompt's answers, from 0; the rank of a ranked answer"),
            column("response", Type::Text, "the answer's text"),
            column("finish", Type::Text, "why the answer ended: stop or length"),
            column("prompt_tokens", Type::Tokens, "token ids of the rendered prompt; empty for ranked answers"),
            column("response_tokens", Type::Tokens, "token ids of the answer, as sampled; empty for ranked answers"),
            column("logprobs", Type::Floats, "log-probability of each token of the answer, natural, temperature 1"),
            column("model", Type::Text, "hash of the model that wrote the answer; given for ranked answers"),
            nullable("score", Type::Float, "mean of the readable judgements' scores; of a pairwise judge, share of wins on the scale; null if nothing was readable"),
            column("judgements", Type::Judgements, "each judgement, retries too: its text, its outcome (score, no_match, ambiguous, out_of_range, truncated, too_long, error), its score; for an expected score the mass that lay on the scores; where they are kept its tokens and their log-probabilities"),
            column("judge", Type::Text, "hash of the model that judged, or the rule's name"),
            nullable("judge_prompt", Type::Text, "the judge's prompt, where judgements keep their tokens"),
            nullable("score_before", Type::Float, "the score before `rescore` read the judgements again"),
            nullable("changes", Type::Texts, "what `rescore` made of judgements otherwise than before, e.g. no_match -> score"),
            nullable("judge_prompt_tokens", Type::Tokens, "token ids of the judge's rendered prompt, where judgements keep theirs"),
            nullable("tokenizer", Type::Text, "hash of the tokenizer and chat template that the answer's token ids are of; null where it is not known"),
            nullable("judge_tokenizer", Type::Text, "hash of the tokenizer and chat template that the judge's token ids are of; null where it is not known"),
            nullable("prompt_messages", Type::Messages, MESSAGES),
        ];
        /// Ranked answers.
        RANKED = "ranked", "one of several answers to a prompt, with its rank among them", [
            column("prompt_id", Type::Text, "the prompt's id; rows of one prompt stand together"),
            column("prompt", Type::Text, "the prompt's text; of a conversation its transcript"),
            column("response_id", Type::Text, "the answer's id"),
            column("response", Type::Text, "the answer's text"),
            column("rank", Type::UInt, "0 for the best; answers of the same rank are as good as each other"),
            nullable("score", Type::Float, "the score that the rank comes from, where there is one; higher is better"),
            nullable("prompt_messages", Type::Messages, MESSAGES),
        ];
        /// Preferences given as text.
        PREFERENCES = "preferences", "a preferred and a rejected answer to one prompt as text only: from an external source, without token ids; training tokenises them with the policy's template", [
            column("prompt_id", Type::Text, "the prompt's id"),
            column("prompt", Type::Messages, "the conversation up to the answer"),
            column("chosen", Type::Messages, "the preferred answer"),
            column("rejected", Type::Messages, "the other answer"),
            column("chosen_id", Type::Text, "the preferred answer's id"),
            column("rejected_id", Type::Text, "the other answer's id"),
            nullable("chosen_score", Type::Float, "score of the preferred answer, where there is one"),
            nullable("rejected_score", Type::Float, "score of the other answer, where there is one"),
        ];
        /// Preference pairs.
        PAIRS = "pairs", "a preferred and a rejected answer to one prompt, in TRL's conversational form", [
            column("prompt_id", Type::Text, "the prompt's id"),
            column("prompt", Type::Messages, "the conversation up to the answer"),
            column("chosen", Type::Messages, "the preferred answer"),
            column("rejected", Type::Messages, "the other answer"),
            column("chosen_id", Type::Text, "response id of the preferred answer"),
            column("rejected_id", Type::Text, "response id of the other answer"),
            column("chosen_score", Type::Float, "mean score of the preferred answer"),
            column("rejected_score", Type::Float, "mean score of the other answer"),
            column("margin", Type::Float, "chosen_score - rejected_score, less the length penalty where `select` has one"),
            column("prompt_tokens", Type::Tokens, "token ids of the rendered prompt"),
            column("chosen_tokens", Type::Tokens, "token ids of the preferred answer, as sampled"),
            column("rejected_tokens", Type::Tokens, "token ids of the other answer, as sampled"),
            column("chosen_logprobs", Type::Floats, "log-probability of each preferred token under the model that sampled it"),
            column("rejected_logprobs", Type::Floats, "log-probability of each other token under the model that sampled it"),
            column("model", Type::Text, "hash of the model that wrote both answers"),
            nullable("consistency", Type::Float, "(Kendall's tau + 1) / 2 between the judge's ranking of the prompt's answers and another's, C of CREAM; null if there is no other"),
            nullable("tokenizer", Type::Text, "hash of the tokenizer and chat template that the token ids are of; null where it is not known"),
        ];
        /// Log-probabilities of pairs under a training's reference model.
        REFERENCE = "reference", "the log-probabilities of a pair's answers under the reference model of a training", [
            column("prompt_id", Type::Text, "the prompt's id"),
            column("chosen_id", Type::Text, "response id of the preferred answer"),
            column("rejected_id", Type::Text, "response id of the other answer"),
            column("chosen_logprobs", Type::Floats, "log-probability of each preferred token under the reference: natural, temperature 1, full vocabulary"),
            column("rejected_logprobs", Type::Floats, "log-probability of each other token under the reference"),
            column("chosen_logprob", Type::Double, "sum of chosen_logprobs"),
            column("rejected_logprob", Type::Double, "sum of rejected_logprobs"),
            column("model", Type::Text, "hash of the reference's weights"),
            column("source", Type::Text, "recorded (while sampling, by the same weights) or computed"),
            nullable("audit", Type::Double, "where the pair was in the audit: mean absolute difference per token between recorded and computed, in nats"),
        ];
        /// Model announcements.
        MODELS = "models", "a model that a step made; the weights stay in the directory", [
            column("name", Type::Text, "name, as in models/NAME"),
            column("path", Type::Text, "directory of the model, relative to the run's"),
            column("hash", Type::Text, "hash of its weights"),
            column("version", Type::UInt, "the iteration whose policy it is"),
        ];
        /// Two answers to one prompt, compared.
        COMPARISONS = "comparisons", "two answers to one prompt, and which is the better", [
            column("prompt_id", Type::Text, "the prompt's id"),
            column("prompt", Type::Text, "the prompt's text; of a conversation its transcript"),
            column("sample", Type::UInt, "the sample number that both answers have, or which of the prompt's pairs it is, from 0"),
            column("first_id", Type::Text, "response id of the first answer"),
            nullable("second_id", Type::Text, "response id of the second answer; null if the other dataset has none to this prompt and sample"),
            column("first", Type::Text, "the first answer's text"),
            nullable("second", Type::Text, "the second answer's text"),
            nullable("first_score", Type::Float, "the first answer's score, where scores are compared"),
            nullable("second_score", Type::Float, "the second answer's score, where scores are compared"),
            nullable("first_shown_first", Type::Text, "win, tie or loss of the first answer when the judge read it first; null if nothing was readable, or no judge was asked"),
            nullable("second_shown_first", Type::Text, "win, tie or loss of the first answer when the judge read it second"),
            column("outcome", Type::Text, "win, tie or loss of the first answer, a tie where the orders disagree; null (the word) where it is not known"),
            nullable("expected", Type::Text, "win, tie or loss of the first answer by given ranks, where both answers have one"),
            column("judgements_first", Type::Judgements, "what the judge said when it read the first answer first; a score is the first answer's share of the win: 1, 0.5 or 0"),
            column("judgements_second", Type::Judgements, "the same when it read the first answer second"),
            column("judge", Type::Text, "hash of the model that compared, or \"score\""),
        ];
        /// Figures of an iteration.
        MEASURES = "measures", "a figure of a step's rows in an iteration, with its interval", [
            column("step", Type::Text, "the step whose rows were measured"),
            column("name", Type::Text, "the measure; `reflux operators measure` describes each"),
            nullable("value", Type::Double, "the figure; null if nothing enters it"),
            nullable("low", Type::Double, "lower end of its bootstrap interval; null without one"),
            nullable("high", Type::Double, "upper end of its bootstrap interval"),
            column("n", Type::UInt, "number of comparisons, pairs, prompts or answers that it is computed from"),
        ];
        /// Decision inputs of a selection.
        CANDIDATES = "candidates", "a scored answer with the decision inputs of `select`; one row per row of the scores, stored next to the pairs as STEP.candidates", [
            column("response_hash", Type::Hash, "the answer's id as 16 bytes; of an id that is not 32 hex digits, a hash of it"),
            column("prompt_hash", Type::Hash, "the prompt's id, in the same way"),
            nullable("score", Type::Float, "the answer's score"),
            column("answer", Type::UInt, "which of the prompt's answers, from 0; those of the same tokens have the same number"),
            nullable("length", Type::UInt, "its length, in tokens or characters, where a rule asks for it"),
            nullable("variance", Type::UInt, "variance of its judgements' scores, in millionths of a squared point, where a rule asks for it"),
            nullable("response_id", Type::Text, "the answer's id, where that is not what `response_hash` spells"),
            nullable("prompt_id", Type::Text, "the prompt's id, where that is not what `prompt_hash` spells"),
        ];
        /// Changes of pairs by corrections.
        CHANGES = "changes", "a pair that `revise` has withdrawn or added", [
            column("change", Type::Text, "withdrawn or added; a changed pair is both"),
            column("iteration", Type::UInt, "iteration of the loop; 0 before it"),
            column("microbatch", Type::UInt, "microbatch within the iteration"),
            column("prompt_id", Type::Text, "the prompt's id"),
            column("chosen_id", Type::Text, "the preferred answer's id"),
            column("rejected_id", Type::Text, "the other answer's id"),
            column("chosen_score", Type::Float, "score of the preferred answer: of a withdrawn pair as it was, of an added one as it is"),
            column("rejected_score", Type::Float, "score of the other answer, in the same way"),
            column("margin", Type::Float, "difference of the scores, as the pair has it"),
            nullable("reason", Type::Text, "of a withdrawn pair whose prompt now gives none: why, as `errors` has it"),
            nullable("consistency", Type::Float, "how far two judges agree, where the pair has it"),
        ];
        /// Training metrics.
        METRICS = "metrics", "one optimizer step of SFT or DPO, with TRL's names", [
            column("step", Type::UInt, "optimizer step, from 1"),
            column("epoch", Type::Double, "passes over the data so far"),
            column("loss", Type::Double, "mean loss of the step's rows"),
            column("grad_norm", Type::Double, "global norm of the gradient before clipping"),
            column("learning_rate", Type::Double, "learning rate of the step"),
            column("num_tokens", Type::Double, "tokens seen so far, prompts counted"),
            nullable("rewards/chosen", Type::Double, "mean of beta x (policy - reference) log-probability of the chosen answers"),
            nullable("rewards/rejected", Type::Double, "the same of the rejected answers"),
            nullable("rewards/margins", Type::Double, "mean of rewards/chosen - rewards/rejected"),
            nullable("rewards/accuracies", Type::Double, "share of pairs whose chosen reward is above the rejected one"),
            nullable("logps/chosen", Type::Double, "mean summed log-probability of the chosen answers under the policy"),
            nullable("logps/rejected", Type::Double, "the same of the rejected answers"),
            nullable("nll_loss", Type::Double, "negative log-likelihood per token of the chosen answers, where nll_weight is used"),
            nullable("replay_loss", Type::Double, "loss of the replayed SFT rows, where replay is used"),
            nullable("eval_loss", Type::Double, "loss on the held-out rows after the step, where it was measured"),
            nullable("eval_rewards/chosen", Type::Double, "as rewards/chosen, of the held-out pairs after the step"),
            nullable("eval_rewards/rejected", Type::Double, "as rewards/rejected, of the held-out pairs after the step"),
            nullable("eval_rewards/margins", Type::Double, "as rewards/margins, of the held-out pairs after the step"),
            nullable("eval_rewards/accuracies", Type::Double, "as rewards/accuracies, of the held-out pairs after the step"),
            nullable("pairs", Type::Texts, "the pairs that the step was taken on, each chosen_id>rejected_id, in their order; null for SFT, and where a training's steps have more than 4194304 pairs in all"),
        ];
        /// Results of a study's runs.
        STUDY = "study", "a figure of one run of a study, as in the loop table of its summary", [
            column("variant", Type::Text, "the variant of the pipeline"),
            column("seed", Type::UInt, "the run's seed"),
            column("iteration", Type::UInt, "iteration of the loop"),
            column("policy", Type::Text, "the policy of the iteration"),
            column("measure", Type::Text, "what is measured, as truth mean"),
            column("value", Type::Double, "its value"),
        ];
        /// Rows that were left out.
        ERRORS = "errors", "a row that a step left out: it could not handle it, or dropped it on purpose", [
            column("step", Type::Text, "the step"),
            column("iteration", Type::UInt, "iteration of the loop; 0 before it"),
            column("microbatch", Type::UInt, "microbatch within the iteration"),
            column("row", Type::Text, "id of the row, or where it stands"),
            column("kind", Type::Text, "failed (the step could not handle it) or dropped (left out on purpose: by a filter, by a tie)"),
            column("code", Type::Text, "short code of the reason, e.g. empty_prompt, prompt_too_long, no_match, tie"),
            column("message", Type::Text, "what went wrong, and what to do"),
        ];
    }
}
pub use named::ALL;
