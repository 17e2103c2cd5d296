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
