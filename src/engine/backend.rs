//! [`Engine`]: the trait that every backend implements.

use super::request::{Answer, ChoiceRequest, Probabilities, Request};
use super::stats::Stats;
use crate::cancel::CancelFlag;
use crate::error::Result;

/// A backend that completes conversations.
pub trait Engine: Send + Sync {
    /// Answers all requests, in their order, and blocks the calling thread. Several threads may call at once and share
    /// batches. A request that cannot be answered gets a [`RequestError`](super::RequestError); the others get their
    /// answers.
    ///
    /// # Errors
    /// Cancelled, or the engine itself failed.
    fn generate(&self, requests: Vec<Request>, cancel: &CancelFlag) -> Result<Vec<Answer>>;
    /// Computes how likely each answer is to continue with each candidate, in the order of the choices. Nothing is
    /// drawn. Otherwise as [`Engine::generate`].
    ///
    /// # Errors
    /// As [`Engine::generate`].
    fn choose(&self, choices: Vec<ChoiceRequest>, cancel: &CancelFlag) -> Result<Vec<Probabilities>>;
    /// The hash of the weights, or `script:` and the hash of the script.
    fn id(&self) -> &str;
    /// The hash of the tokenizer and chat template that the token ids belong to, or none if the ids are made up.
    fn tokenizer(&self) -> Option<&str> {
        None
    }
    /// Counters since the start.
    fn stats(&self) -> Stats;
}
