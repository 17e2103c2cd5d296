//! Requests to an engine, and their answers.

use std::sync::Arc;

use super::sampling::Sampling;
use crate::data::RngKey;
use crate::model::Message;

/// One completion to make.
#[derive(Clone, Debug)]
pub struct Request {
    /// The conversation so far; the answer is the next turn.
    pub messages: Vec<Message>,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Key of the draws: token `i` of the answer uses draw `i` of this key's generator.
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
    /// Token ids as sampled, with the end token or stop id if that ended it, and with the stop string's tokens if
    /// that did.
    pub tokens: Vec<u32>,
    /// Natural log-probability of each token at temperature 1 over the full vocabulary, whatever the sampling options.
    pub logprobs: Vec<f32>,
    /// Why it ended.
    pub finish: Finish,
    /// Token ids of the rendered conversation; shared by requests with equal messages.
    pub prompt_tokens: Arc<[u32]>,
}

/// Why a request has no answer. The other requests of its batch are not affected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestError {
    /// Short code for the errors dataset: `empty_prompt`, `prompt_too_long`, `bad_sampling`, `template`,
    /// `not_finite`, `no_token`, `no_answer`.
    pub code: &'static str,
    /// What went wrong, and what to do.
    pub message: String,
}

/// The answer to one request.
pub type Answer = std::result::Result<Completion, RequestError>;

/// Asks for the probabilities of continuations of an answer.
#[derive(Clone, Debug)]
pub struct ChoiceRequest {
    /// The conversation; the answer is the next turn.
    pub messages: Vec<Message>,
    /// The beginning of the answer.
    pub prefix: AnswerPrefix,
    /// The continuations: different texts of at least one token.
    pub candidates: Arc<[String]>,
}

/// The beginning of an answer.
#[derive(Clone, Debug)]
pub enum AnswerPrefix {
    /// This text.
    Text(String),
    /// The text of these tokens of an earlier answer, up to this byte.
    Tokens(Vec<u32>, usize),
}

/// The probability of each candidate, at temperature 1 over the full vocabulary, or why it cannot be computed.
pub type Probabilities = std::result::Result<Vec<f64>, RequestError>;

/// The problem of a request that no model can answer.
pub(super) fn problem(request: &Request) -> Option<RequestError> {
    if request.messages.last().is_none_or(|m| m.content.trim().is_empty()) {
        let message = "the prompt is empty; remove the row or give it a text".into();
        return Some(RequestError { code: "empty_prompt", message });
    }
    request.sampling.problem().map(|message| RequestError { code: "bad_sampling", message })
}
