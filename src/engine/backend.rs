//! [`Engine`]: the trait that every backend implements.

use super::request::{Answer, ChoiceRequest, Probabilities, Request};
use super::stats::Stats;
use crate::cancel::CancelFlag;
use crate::error::Result;

/// Something that completes conversations.
pub trait Engine: Send + Sync {
    /// Answers all requests, in their order, blocking the calling thread; several threads may call at once and share
    /// batches. A request that cannot be answered is a [`RequestError`], never an error of its batch-mates.
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
