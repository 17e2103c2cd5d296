//! What the engine's thread does for a row of a call: an answer, or the scores of given tokens.

use std::sync::Arc;

use super::encoded::{EncodedRequest, ScoreRequest, TokenListener};
use super::sampling::Sampling;
use crate::data::RngKey;

/// A row of a call.
pub(super) struct RowTask {
    /// The request. Of tokens to score, the prompt is all but the last one.
    pub request: EncodedRequest,
    /// The tokens to score instead of an answer.
    pub score: Option<Score>,
    /// Gets every token of the answer.
    pub listener: Option<TokenListener>,
}

/// Tokens that are scored.
pub(super) struct Score {
    pub tokens: Arc<[u32]>,
    /// See [`ScoreRequest::from`]; at least 1.
    pub from: usize,
    /// See [`ScoreRequest::top`].
    pub top: usize,
    /// The next position of the prompt whose row is to be computed.
    pub next: usize,
    /// The likeliest tokens in place of each token that is scored already.
    pub likeliest: Vec<Vec<(u32, f32)>>,
}

impl RowTask {
    pub fn answer(request: EncodedRequest, listener: Option<TokenListener>) -> Self {
        Self { request, score: None, listener }
    }

    pub fn score(wanted: ScoreRequest) -> Self {
        let ScoreRequest { row, tokens, from, top } = wanted;
        // The last token predicts nothing that is asked for.
        let prompt = tokens[..tokens.len().saturating_sub(1)].into();
        let sampling = Arc::new(Sampling { max_tokens: 1, ..Sampling::default() });
        let request = EncodedRequest { row, prompt, sampling, key: RngKey([0; 32]), wanted: None };
        let score = Score { tokens, from: from.max(1), top, next: 0, likeliest: Vec::new() };
        Self { request, score: Some(score), listener: None }
    }
}
