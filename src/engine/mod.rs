//! Text generation as a service: [`Engine`] and its backends.
//!
//! [`BatchedEngine`] runs a Llama on one device with continuous batching: requests join and leave at token granularity, prompts
//! are computed in chunks beside the decoding of others, and what prompts have in common is computed once.
//! [`Sequential`] runs models of other families, one sequence after the other. [`open`] takes the one that a model asks for.
//! [`Scripted`] answers from rules, without weights, for tests and for measuring overlap.
//!
//! What a request gets depends on its messages, its sampling options and its key: never on its batch-mates, on when it
//! came, or on the number of threads.

mod answer;
mod choice;
mod kv;
mod local;
mod numeric;
mod open;
mod prefix;
mod sampler;
mod scheduler;
mod scripted;
mod sequential;
mod stats;
mod stop;
mod stream;

use std::sync::Arc;

pub use crate::model::Message;
pub use choice::{AnswerPrefix, ChoiceRequest, Probabilities};
pub use local::{BatchedEngine, Codec, Config};
pub(crate) use open::has_template;
pub use open::{open, start};
pub use scripted::{Script, Scripted, scripted};
pub use sequential::Sequential;
pub use stats::Stats;
pub use stream::{Asked, Asking, Listener, RequestBuilder, answer_in_order};

use crate::cancel::CancelFlag;
use crate::data::RngKey;
use crate::error::Result;

/// How tokens are drawn. Applied in this order: repetition penalty, temperature, top-k, top-p, min-p.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; 0 takes the likeliest token (the lowest id among equals).
    pub temperature: f32,
    /// Nucleus sampling (arXiv 1904.09751): the smallest set of likeliest tokens whose mass is at least this; 1 is off.
    pub top_p: f32,
    /// Only this many likeliest tokens; 0 is off.
    pub top_k: usize,
    /// Only tokens at least this times as likely as the likeliest (arXiv 2407.01082); 0 is off.
    pub min_p: f32,
    /// Tokens that have occurred, in the prompt too, have positive logits divided and negative ones multiplied by it
    /// (arXiv 1909.05858); 1 is off.
    pub repetition_penalty: f32,
    /// At most this many new tokens.
    pub max_tokens: usize,
    /// No end token or stop id before this many new tokens, and no stop string that is complete before.
    pub min_tokens: usize,
    /// Texts that end the answer and are cut from it.
    pub stop: Vec<String>,
    /// Tokens that end the answer, beside the model's own.
    pub stop_ids: Vec<u32>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.,
            top_p: 1.,
            top_k: 0,
            min_p: 0.,
            repetition_penalty: 1.,
            max_tokens: 256,
            min_tokens: 0,
            stop: Vec::new(),
            stop_ids: Vec::new(),
        }
    }
}

impl Sampling {
    /// Says which option has a value that means nothing, if one does.
    pub fn problem(&self) -> Option<String> {
        let unit = |x: f32| (0. ..=1.).contains(&x);
        if !(self.temperature.is_finite() && self.temperature >= 0.) {
            Some(format!("temperature is {}, it must be 0 or more", self.temperature))
        } else if !unit(self.top_p) {
            Some(format!("top_p is {}, it must be between 0 and 1", self.top_p))
        } else if !unit(self.min_p) {
            Some(format!("min_p is {}, it must be between 0 and 1", self.min_p))
        } else if !(self.repetition_penalty.is_finite() && self.repetition_penalty > 0.) {
            Some(format!("repetition_penalty is {}, it must be above 0", self.repetition_penalty))
        } else if self.stop.iter().any(String::is_empty) {
            Some("a stop string is empty".into())
        } else {
            None
        }
    }
}

/// One completion to make.
#[derive(Clone, Debug)]
pub struct Request {
    /// The conversation so far; the answer is the next turn.
    pub messages: Vec<Message>,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// What the draws depend on: token `i` of the answer uses draw `i` of this key's generator.
    pub key: RngKey,
}

/// Why a completion ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Finish {
    /// The model ended it, or a stop string did.
    Stop,
    /// `max_tokens` or the end of the context cut it.
    Length,
}

impl Finish {
    /// `stop` or `length`, as in the `finish` column.
    pub fn as_str(self) -> &'static str {
        match self {
            Finish::Stop => "stop",
            Finish::Length => "length",
        }
    }
}

/// One sampled answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// The text, without the end token, cut before the stop string.
    pub text: String,
    /// Token ids as sampled, with the end token or stop id if that ended it, and with the stop string's tokens if that did.
    pub tokens: Vec<u32>,
    /// Natural log-probability of each token at temperature 1 over the full vocabulary, whatever the sampling options.
    pub logprobs: Vec<f32>,
    /// Why it ended.
    pub finish: Finish,
    /// Token ids of the rendered conversation; shared by requests with equal messages.
    pub prompt_tokens: Arc<[u32]>,
}

/// Why one request has no answer; its batch-mates have theirs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowError {
    /// Short code for the errors dataset: `empty_prompt`, `prompt_too_long`, `bad_sampling`, `template`,
    /// `not_finite`, `no_answer`.
    pub code: &'static str,
    /// What went wrong, and what to do.
    pub message: String,
}

/// The answer to one request.
pub type Answer = std::result::Result<Completion, RowError>;

/// Something that completes conversations.
pub trait Engine: Send + Sync {
    /// Answers all requests, in their order, blocking the calling thread; several threads may call at once and share
    /// batches. A request that cannot be answered is a [`RowError`], never an error of its batch-mates.
    ///
    /// # Errors
    /// Cancelled, or the engine itself failed.
    fn generate(&self, requests: Vec<Request>, cancel: &CancelFlag) -> Result<Vec<Answer>>;
    /// How likely each answer is to go on with each of a few texts, in the order of the choices; nothing is drawn. As
    /// [`Engine::generate`] otherwise.
    ///
    /// # Errors
    /// As [`Engine::generate`].
    fn choose(&self, choices: Vec<ChoiceRequest>, cancel: &CancelFlag) -> Result<Vec<Probabilities>>;
    /// Hash of the weights, or `script:` and the hash of the script.
    fn id(&self) -> &str;
    /// Hash of the tokenizer and chat template that its token ids are of; none where ids are made up.
    fn tokenizer(&self) -> Option<&str> {
        None
    }
    /// Counters since the start.
    fn stats(&self) -> Stats;
}

/// What is wrong with a request before any model is asked.
fn problem(request: &Request) -> Option<RowError> {
    if request.messages.last().is_none_or(|m| m.content.trim().is_empty()) {
        let message = "the prompt is empty; remove the row or give it a text".into();
        return Some(RowError { code: "empty_prompt", message });
    }
    request.sampling.problem().map(|message| RowError { code: "bad_sampling", message })
}
