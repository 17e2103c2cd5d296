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
pub struct RequestError {
    /// Short code for the errors dataset: `empty_prompt`, `prompt_too_long`, `bad_sampling`, `template`,
    /// `not_finite`, `no_answer`.
    pub code: &'static str,
    /// What went wrong, and what to do.
    pub message: String,
}

/// The answer to one request.
pub type Answer = std::result::Result<Completion, RequestError>;

/// Asks how an answer would go on.
#[derive(Clone, Debug)]
pub struct ChoiceRequest {
    /// The conversation; the answer is the next turn.
    pub messages: Vec<Message>,
    /// How the answer begins.
    pub prefix: AnswerPrefix,
    /// What may come next: texts of at least one token, all different.
    pub candidates: Arc<[String]>,
}

/// The beginning of an answer.
#[derive(Clone, Debug)]
pub enum AnswerPrefix {
    /// This text.
    Text(String),
    /// The text of these tokens, an earlier answer's, up to a byte of it.
    Tokens(Vec<u32>, usize),
}

/// The probability of each candidate, at temperature 1 over the full vocabulary; or why there is none.
pub type Probabilities = std::result::Result<Vec<f64>, RequestError>;

/// What is wrong with a request before any model is asked.
pub(super) fn problem(request: &Request) -> Option<RequestError> {
    if request.messages.last().is_none_or(|m| m.content.trim().is_empty()) {
        let message = "the prompt is empty; remove the row or give it a text".into();
        return Some(RequestError { code: "empty_prompt", message });
    }
    request.sampling.problem().map(|message| RequestError { code: "bad_sampling", message })
}
