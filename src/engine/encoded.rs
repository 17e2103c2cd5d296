//! Requests with their prompts encoded, and finished sequences as tokens.

use std::sync::Arc;

use super::request::{Finish, RequestError};
use super::sampling::Sampling;
use crate::data::RngKey;

/// A valid request with its prompt encoded.
pub struct EncodedRequest {
    /// Its index in the call.
    pub row: usize,
    /// Token ids of the prompt.
    pub prompt: Arc<[u32]>,
    /// How tokens are drawn.
    pub sampling: Arc<Sampling>,
    /// Key of the draws, see [`Request::key`](super::Request::key).
    pub key: RngKey,
    /// Asks for the log-probabilities of these tokens after the prompt, instead of an answer.
    pub wanted: Option<Arc<[u32]>>,
}

/// The tokens of a finished sequence, or the tokens whose log-probabilities were asked for.
pub struct SampledTokens {
    /// Token ids, see [`Completion::tokens`](super::Completion::tokens).
    pub tokens: Vec<u32>,
    /// Natural log-probability of each token at temperature 1 over the full vocabulary.
    pub logprobs: Vec<f32>,
    /// Why it ended.
    pub finish: Finish,
}

/// The index of a request in its call, and its result.
pub type RowResult = (usize, std::result::Result<SampledTokens, RequestError>);

/// Asks for the log-probabilities of given tokens.
pub struct ScoreRequest {
    /// Its index in the call.
    pub row: usize,
    /// The tokens. Those before `from` are only read.
    pub tokens: Arc<[u32]>,
    /// Index of the first token that is scored. The token at index 0 has no log-probability: nothing precedes it.
    pub from: usize,
    /// How many of the likeliest tokens to list for each scored token.
    pub top: usize,
}

/// Scores of tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenScores {
    /// Natural log-probability of each scored token at temperature 1 over the full vocabulary.
    pub logprobs: Vec<f32>,
    /// For each scored token the likeliest tokens in its place with their log-probabilities, likeliest first, lower ids
    /// first among equals.
    pub top: Vec<Vec<(u32, f32)>>,
}

/// The index of a request in its call, and its scores.
pub type ScoreResult = (usize, std::result::Result<TokenScores, RequestError>);

/// A token that was just drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NewToken {
    /// Index of the request in its call.
    pub row: usize,
    /// The token id.
    pub token: u32,
    /// Its log-probability, see [`SampledTokens::logprobs`].
    pub logprob: f32,
}

/// Receives each token as soon as it is drawn. It is called on the engine's thread and must return at once.
pub type TokenListener = Arc<dyn Fn(NewToken) + Send + Sync>;
