//! [`Sequential`]: models of other families, one sequence at a time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::answer;
use super::backend::{ModelSize, TokenEngine};
use super::codec::Codec;
use super::config::EngineConfig;
use super::encoded::{EncodedRequest, RowResult, SampledTokens, ScoreRequest, ScoreResult, TokenScores};
use super::request::{Finish, RequestError};
use super::sampling::Scratch;
use super::stats::{Counters, Stats, add};
use crate::cancel::CancelFlag;
use crate::error::{Error, ErrorKind, Result};
use crate::model::families::{InferenceModel, Network};

/// A model of a family that reflux runs but does not train. Callers take turns, a prompt at a time. Requests of a
/// call with the same prompt share its computation if the family allows it.
pub struct Sequential {
    model: InferenceModel,
    pool: Option<Arc<rayon::ThreadPool>>,
    counters: Counters,
    /// Locked while a thread uses the device.
    turn: Mutex<()>,
}

impl Sequential {
    /// An engine for the model. Only `pool` of the settings has an effect: sequences are computed one after the other.
    pub fn new(model: InferenceModel, config: &EngineConfig) -> Self {
        let (pool, turn) = (config.pool.clone(), Mutex::default());
        Self { model, pool, counters: Counters::default(), turn }
    }

    fn eos(&self) -> &[u32] {
        self.model.tokenizer.eos_ids()
    }

    /// The maximum number of tokens of an answer.
    fn limit(&self, request: &EncodedRequest) -> usize {
        request.sampling.max_tokens.min(self.model.positions().saturating_sub(request.prompt.len()))
    }

    /// Why the model cannot take a request, if it cannot.
    fn unfit(&self, request: &EncodedRequest) -> Option<RequestError> {
        answer::unfit(&request.prompt, self.model.vocab_size(), self.model.positions())
    }

    /// Answers requests that have the same prompt.
    fn answer(&self, requests: Vec<EncodedRequest>, cancel: &CancelFlag, done: &mut Vec<RowResult>) -> Result<()> {
        let mut taken = Vec::with_capacity(requests.len());
        for request in requests {
            match (self.unfit(&request), self.limit(&request)) {
                (Some(error), _) => done.push((request.row, Err(error))),
                (None, 0) => {
                    let nothing = SampledTokens { tokens: Vec::new(), logprobs: Vec::new(), finish: Finish::Length };
                    done.push((request.row, Ok(nothing)));
                }
                (None, _) => taken.push(request),
            }
        }
        let Some(first) = taken.first() else { return Ok(()) };
        let prompt = first.prompt.clone();
        let most = taken.iter().map(|r| self.limit(r)).max().unwrap_or(0);
        let before = |rows: usize| {
            if cancel.is_set() {
                return Err(Error::cancelled());
            }
            add(&self.counters.steps, 1);
            add(&self.counters.rows, rows);
            Ok(())
        };
        let mut network = self.model.network(prompt.len() + most)?;
        let mut read: Option<Vec<f32>> = None;
        let mut scratch = Scratch::default();
        for request in taken {
            add(&self.counters.prompt_tokens, prompt.len());
            let logits = match read.take() {
                Some(logits) => {
                    add(&self.counters.cached_prompt_tokens, prompt.len());
                    logits
                }
                None => {
                    network.clear();
                    network.push(&prompt, before)?
                }
            };
            // No token follows the last one, so its keys and values are never needed.
            let result = match network.fork(self.limit(&request) - 1) {
                Some(mut branch) => {
                    read = Some(logits.clone());
                    self.sample(&request, &mut branch, logits, before, &mut scratch)
                }
                None => self.sample(&request, &mut network, logits, before, &mut scratch),
            };
            done.push((request.row, result?));
        }
        Ok(())
    }

    /// Scores tokens, one after the other.
    fn scores(
        &self,
        wanted: &ScoreRequest,
        cancel: &CancelFlag,
    ) -> Result<std::result::Result<TokenScores, RequestError>> {
        let tokens = &wanted.tokens;
        if let Some(error) = answer::unfit_to_score(tokens, self.model.vocab_size(), self.model.positions()) {
            return Ok(Err(error));
        }
        let mut scores = TokenScores { logprobs: Vec::new(), top: Vec::new() };
        let mut network = self.model.network(tokens.len())?;
        network.clear();
        add(&self.counters.prompt_tokens, tokens.len() - 1);
        let before = |rows: usize| {
            if cancel.is_set() {
                return Err(Error::cancelled());
            }
            add(&self.counters.steps, 1);
            add(&self.counters.rows, rows);
            Ok(())
        };
        let from = wanted.from.max(1);
        // Everything before the first scored token is a prompt.
        let mut at = from.min(tokens.len()) - 1;
        if at + 1 < tokens.len() && at > 0 {
            network.push(&tokens[..at], before)?;
        }
        while at + 1 < tokens.len() {
            let logits = network.push(&tokens[at..=at], before)?;
            at += 1;
            match answer::scores(&logits, tokens[at], wanted.top) {
                Ok((logprob, top)) => {
                    scores.logprobs.push(logprob);
                    scores.top.push(top);
                }
                Err(e) => return Ok(Err(e)),
            }
        }
        Ok(Ok(scores))
    }

    /// Runs `work` on the engine's threads when it is the caller's turn.
    fn in_turn<T: Send>(&self, cancel: &CancelFlag, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if cancel.is_set() {
            return Err(Error::cancelled());
        }
        let start = Instant::now();
        let result = match &self.pool {
            Some(pool) => pool.install(work),
            None => work(),
        };
        let value =
            result.map_err(|e| if e.kind() == ErrorKind::Cancelled { e } else { e.doing("the model failed") })?;
        self.counters.busy(start.elapsed(), 0.);
        Ok(value)
    }

    /// Draws tokens until the answer ends. `network` has read the prompt, and `logits` follow it.
    fn sample(
        &self,
        request: &EncodedRequest,
        network: &mut Network,
        mut logits: Vec<f32>,
        before: impl Fn(usize) -> Result<()>,
        scratch: &mut Scratch,
    ) -> Result<std::result::Result<SampledTokens, RequestError>> {
        let (rng, limit) = (request.key.rng(), self.limit(request));
        let (prompt, sampling) = (&request.prompt, &*request.sampling);
        if let Some(ids) = &request.wanted {
            return Ok(answer::wanted(&logits, ids));
        }
        let (mut tokens, mut logprobs) = (Vec::new(), Vec::new());
        loop {
            let drawn = answer::next_token(&logits, sampling, prompt, &tokens, self.eos(), &rng, scratch);
            add(&self.counters.generated_tokens, 1);
            let Some((token, logprob)) = drawn else { return Ok(Err(answer::no_token(&logits))) };
            tokens.push(token);
            logprobs.push(logprob);
            if let Some(finish) = answer::finish(&tokens, sampling, limit, &self.model.tokenizer) {
                return Ok(Ok(SampledTokens { tokens, logprobs, finish }));
            }
            logits = network.push(&[token], &before)?;
        }
    }
}

impl TokenEngine for Sequential {
    fn codec(&self) -> &dyn Codec {
        &self.model.tokenizer
    }
    /// Runs rows, prompt by prompt.
    fn run(&self, rows: Vec<EncodedRequest>, cancel: &CancelFlag) -> Result<Vec<RowResult>> {
        let mut done = Vec::with_capacity(rows.len());
        let mut by_prompt: BTreeMap<Arc<[u32]>, Vec<EncodedRequest>> = BTreeMap::new();
        for row in rows {
            by_prompt.entry(row.prompt.clone()).or_default().push(row);
        }
        for rows in by_prompt.into_values() {
            self.in_turn(cancel, || self.answer(rows, cancel, &mut done))?;
        }
        Ok(done)
    }
    /// A pass for each token.
    fn score(&self, rows: Vec<ScoreRequest>, cancel: &CancelFlag) -> Result<Vec<ScoreResult>> {
        let each = |row: ScoreRequest| Ok((row.row, self.in_turn(cancel, || self.scores(&row, cancel))?));
        rows.into_iter().map(each).collect()
    }
    fn size(&self) -> Option<ModelSize> {
        Some(ModelSize { context: self.model.positions(), vocab: self.model.vocab_size() })
    }
    fn count(&self, requests: usize) {
        add(&self.counters.requests, requests);
    }
    fn id(&self) -> &str {
        &self.model.hash
    }
    fn tokenizer(&self) -> Option<&str> {
        Some(self.model.tokenizer.hash())
    }
    fn stats(&self) -> Stats {
        self.counters.read()
    }
}
