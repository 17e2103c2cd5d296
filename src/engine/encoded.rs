//! Requests with their prompts encoded, and finished sequences as tokens.

use std::sync::Arc;

use super::request::Finish;
use super::sampling::Sampling;
use crate::data::RngKey;

/// A request that means something, with its prompt encoded.
pub(super) struct EncodedRequest {
    /// Its place in the call.
    pub row: usize,
    pub prompt: Arc<[u32]>,
    pub sampling: Arc<Sampling>,
    pub key: RngKey,
    /// Instead of an answer: the tokens whose log-probabilities after the prompt are wanted.
    pub wanted: Option<Arc<[u32]>>,
}

/// A finished sequence; or the tokens that were wanted.
pub(super) struct SampledTokens {
    pub tokens: Vec<u32>,
    pub logprobs: Vec<f32>,
    pub finish: Finish,
}
