//! Requests with their prompts encoded, and finished sequences as tokens.

use std::sync::Arc;

use super::request::Finish;
use super::sampling::Sampling;
use crate::data::RngKey;

/// A valid request with its prompt encoded.
pub(super) struct EncodedRequest {
    /// Its index in the call.
    pub row: usize,
    pub prompt: Arc<[u32]>,
    pub sampling: Arc<Sampling>,
    pub key: RngKey,
    /// Asks for the log-probabilities of these tokens after the prompt, instead of an answer.
    pub wanted: Option<Arc<[u32]>>,
}

/// The tokens of a finished sequence, or the tokens whose log-probabilities were asked for.
pub(super) struct SampledTokens {
    pub tokens: Vec<u32>,
    pub logprobs: Vec<f32>,
    pub finish: Finish,
}
