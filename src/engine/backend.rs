//! [`Engine`]: the trait that every backend implements, and [`TokenEngine`], for those that work on token ids.

use super::answer;
use super::codec::Codec;
use super::encoded::{EncodedRequest, NewToken, RowResult, ScoreRequest, ScoreResult, TokenListener};
use super::request::{Answer, ChoiceRequest, Probabilities, Request, RequestError};
use super::stats::Stats;
use crate::cancel::CancelFlag;
use crate::error::Result;

/// What an engine can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capabilities {
    /// Answers have the token ids of prompt and answer.
    pub token_ids: bool,
    /// Log-probabilities are those of the model as a training computes them, up to rounding.
    pub exact_logprobs: bool,
    /// [`Engine::choose`] works.
    pub choices: bool,
    /// Answers can be held to a form, where [`remote::honours`](super::remote::honours) says so. Other engines ignore
    /// [`Sampling::constraint`](super::Sampling), so callers check this first.
    pub constraints: bool,
}

impl Capabilities {
    /// What engines on this machine can do.
    pub const LOCAL: Self = Self { token_ids: true, exact_logprobs: true, choices: true, constraints: false };
}

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
    /// What it can do.
    fn capabilities(&self) -> Capabilities {
        Capabilities::LOCAL
    }
}

/// The sizes of a model that limit requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ModelSize {
    /// Maximum number of tokens of a prompt and its answer together.
    pub context: usize,
    /// Token ids are below it.
    pub vocab: usize,
}

/// A backend that completes token ids. It is an [`Engine`]: conversations are encoded and answers decoded with its
/// codec.
pub trait TokenEngine: Send + Sync {
    /// Converts conversations to token ids and back.
    fn codec(&self) -> &dyn Codec;
    /// Completes all rows and blocks the calling thread. The results come in any order, one for each row. Otherwise as
    /// [`Engine::generate`].
    ///
    /// # Errors
    /// As [`Engine::generate`].
    fn run(&self, rows: Vec<EncodedRequest>, cancel: &CancelFlag) -> Result<Vec<RowResult>>;
    /// As [`TokenEngine::run`], and calls `listener` with each token when it is drawn. An engine that cannot do so calls
    /// it with all tokens of an answer at the end.
    ///
    /// # Errors
    /// As [`Engine::generate`].
    fn run_streaming(
        &self,
        rows: Vec<EncodedRequest>,
        listener: TokenListener,
        cancel: &CancelFlag,
    ) -> Result<Vec<RowResult>> {
        let results = self.run(rows, cancel)?;
        for (row, sampled) in results.iter().filter_map(|(row, result)| Some((*row, result.as_ref().ok()?))) {
            for (&token, &logprob) in sampled.tokens.iter().zip(&sampled.logprobs) {
                listener(NewToken { row, token, logprob });
            }
        }
        Ok(results)
    }
    /// Computes the log-probabilities of given tokens. The results come in any order, one for each row. An engine that
    /// cannot do so answers each row with an error.
    ///
    /// # Errors
    /// As [`Engine::generate`].
    fn score(&self, rows: Vec<ScoreRequest>, _: &CancelFlag) -> Result<Vec<ScoreResult>> {
        let message = "this engine does not compute log-probabilities of given tokens";
        let refused = || RequestError { code: "no_scores", message: message.into() };
        Ok(rows.into_iter().map(|r| (r.row, Err(refused()))).collect())
    }
    /// The size of the model, or none if it is not known.
    fn size(&self) -> Option<ModelSize> {
        None
    }
    /// Counts requests, before they are encoded.
    fn count(&self, requests: usize);
    /// See [`Engine::id`].
    fn id(&self) -> &str;
    /// See [`Engine::tokenizer`].
    fn tokenizer(&self) -> Option<&str>;
    /// See [`Engine::stats`].
    fn stats(&self) -> Stats;
    /// See [`Engine::capabilities`].
    fn capabilities(&self) -> Capabilities {
        Capabilities::LOCAL
    }
}

impl<T: TokenEngine> Engine for T {
    fn generate(&self, requests: Vec<Request>, cancel: &CancelFlag) -> Result<Vec<Answer>> {
        self.count(requests.len());
        answer::generate(self.codec(), requests, |rows| self.run(rows, cancel))
    }
    fn choose(&self, choices: Vec<ChoiceRequest>, cancel: &CancelFlag) -> Result<Vec<Probabilities>> {
        self.count(choices.len());
        answer::choose(self.codec(), &choices, |rows| self.run(rows, cancel))
    }
    fn id(&self) -> &str {
        TokenEngine::id(self)
    }
    fn tokenizer(&self) -> Option<&str> {
        TokenEngine::tokenizer(self)
    }
    fn stats(&self) -> Stats {
        TokenEngine::stats(self)
    }
    fn capabilities(&self) -> Capabilities {
        TokenEngine::capabilities(self)
    }
}
