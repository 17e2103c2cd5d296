//! A request with its prompts encoded, and its answers.

use std::sync::Arc;

use super::api_error::ApiError;
use super::options::CompletionOptions;
use super::state::ServerState;
use crate::cancel::CancelFlag;
use crate::engine::{
    Completion, EncodedRequest, Finish, RowResult, SampledTokens, ScoreRequest, TokenScores, completion,
};
use crate::error::Error;

type Result<T> = std::result::Result<T, ApiError>;

/// Maximum number of values in a reply: token ids and log-probabilities.
const MAX_VALUES: usize = 1 << 21;

/// Which interface a request came through.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Interface {
    Completions,
    Chat,
}

/// A prompt.
pub(super) struct EncodedPrompt {
    pub ids: Arc<[u32]>,
    /// The text, or none if it came as token ids.
    pub text: Option<String>,
}

/// A request that can be run.
pub(super) struct ServeJob {
    pub interface: Interface,
    /// Made from the request, so that equal requests get equal bytes.
    pub id: String,
    pub prompts: Vec<EncodedPrompt>,
    /// Whether answers begin with their prompt.
    pub echo: bool,
    pub options: CompletionOptions,
}

/// The likeliest tokens in place of each token of an answer.
type Likeliest = Vec<Vec<(u32, f32)>>;

/// What the engine gave for a job. Answers are in order of their prompts.
pub(super) struct JobOutcome {
    pub answers: Vec<Completion>,
    /// For each answer. Empty if they are not asked for.
    pub likeliest: Vec<Likeliest>,
    /// Scores of each prompt's tokens, if they are asked for.
    pub echoed: Vec<TokenScores>,
    /// The log-probabilities that each prompt was asked for.
    pub wanted: Vec<Vec<f32>>,
}

impl ServeJob {
    /// Checks prompts and the size of the reply.
    pub fn check(&self, state: &ServerState) -> Result<()> {
        let context = state.size.context;
        let draws = self.options.sampling.max_tokens > 0 || self.options.wanted.is_some();
        for prompt in &self.prompts {
            let tokens = prompt.ids.len();
            if tokens == 0 {
                return Err(ApiError::field("prompt", "the prompt has no tokens").code("empty_prompt"));
            }
            if tokens >= context + usize::from(!draws) {
                return Err(ApiError::too_long(tokens, context));
            }
        }
        let listed = self.options.logprobs.map_or(0, |top| 1 + top);
        let tokens = |prompt: &EncodedPrompt| {
            let room = self.options.sampling.max_tokens.min(context.saturating_sub(prompt.ids.len()));
            room + if self.echo { prompt.ids.len() } else { 0 }
        };
        let wanted = self.options.wanted.as_ref().map_or(0, |ids| ids.len());
        let values = self.prompts.iter().map(|p| tokens(p) * (1 + listed) + wanted).sum::<usize>() * self.options.n;
        if values > MAX_VALUES {
            let message = format!(
                "the reply may have {values} token ids and log-probabilities, at most {MAX_VALUES} are allowed; ask for \
                 fewer answers, tokens or log-probabilities in one request"
            );
            return Err(ApiError::field("max_tokens", message));
        }
        Ok(())
    }

    /// The rows of all answers.
    pub fn rows(&self) -> Vec<EncodedRequest> {
        let n = self.options.n;
        let row = |row: usize| EncodedRequest {
            row,
            prompt: self.prompts[row / n].ids.clone(),
            sampling: self.options.sampling.clone(),
            key: self.options.keys.key(row / n, n, row % n),
            wanted: None,
        };
        (0..self.prompts.len() * n).map(row).collect()
    }

    /// Decodes the answers from the rows' results.
    pub fn answers(&self, state: &ServerState, results: Vec<RowResult>) -> Result<Vec<Completion>> {
        let mut rows = in_order(results, self.prompts.len() * self.options.n)?.into_iter();
        let mut answers = Vec::with_capacity(rows.len());
        for prompt in &self.prompts {
            for sampled in rows.by_ref().take(self.options.n) {
                answers.push(completion(state.engine.codec(), &prompt.ids, &self.options.sampling, sampled));
            }
        }
        Ok(answers)
    }

    /// Runs the job and blocks the calling thread.
    pub fn run(&self, state: &ServerState, cancel: &CancelFlag) -> Result<JobOutcome> {
        state.engine.count(self.prompts.len() * self.options.n);
        let echoed = match (self.echo, self.options.logprobs) {
            (true, Some(top)) => {
                let prompts = self.prompts.iter().map(|p| (p.ids.clone(), 1, top));
                score(state, prompts, cancel)?
            }
            _ => Vec::new(),
        };
        let mut rows = self.rows();
        let answers = rows.len();
        if let Some(ids) = &self.options.wanted {
            let first = rows.len();
            for (i, prompt) in self.prompts.iter().enumerate() {
                rows.push(EncodedRequest {
                    row: first + i,
                    prompt: prompt.ids.clone(),
                    // A row that draws nothing still has to ask for a token.
                    sampling: Arc::default(),
                    key: self.options.keys.key(0, self.options.n, 0),
                    wanted: Some(ids.clone()),
                });
            }
        }
        let results = self.results(state, rows, answers, cancel)?;
        let (results, wanted): (Vec<_>, Vec<_>) = results.into_iter().partition(|(row, _)| *row < answers);
        let answers_made = self.answers(state, results)?;
        let wanted = wanted.into_iter().map(|(row, result)| (row - answers, result)).collect();
        let wanted = if self.options.wanted.is_some() { in_order(wanted, self.prompts.len())? } else { Vec::new() };
        let likeliest = self.likeliest(state, &answers_made, cancel)?;
        let wanted = wanted.into_iter().map(|sampled| sampled.logprobs).collect();
        Ok(JobOutcome { answers: answers_made, likeliest, echoed, wanted })
    }

    /// Runs rows, of which the first `answers` are answers. Answers without a token are not run.
    fn results(
        &self,
        state: &ServerState,
        mut rows: Vec<EncodedRequest>,
        answers: usize,
        cancel: &CancelFlag,
    ) -> Result<Vec<RowResult>> {
        if self.options.sampling.max_tokens > 0 {
            return Ok(state.engine.run(rows, cancel)?);
        }
        let nothing = || SampledTokens { tokens: Vec::new(), logprobs: Vec::new(), finish: Finish::Length };
        let mut results: Vec<RowResult> = (0..answers).map(|row| (row, Ok(nothing()))).collect();
        rows.drain(..answers);
        if !rows.is_empty() {
            results.extend(state.engine.run(rows, cancel)?);
        }
        Ok(results)
    }

    /// The likeliest tokens in place of each token of the answers: the answers are scored once they are complete.
    fn likeliest(&self, state: &ServerState, answers: &[Completion], cancel: &CancelFlag) -> Result<Vec<Likeliest>> {
        let Some(top) = self.options.logprobs.filter(|&top| top > 0) else { return Ok(Vec::new()) };
        let rows = answers.iter().map(|answer| {
            let tokens: Vec<u32> = answer.prompt_tokens.iter().chain(&answer.tokens).copied().collect();
            (Arc::from(tokens), answer.prompt_tokens.len(), top)
        });
        Ok(score(state, rows, cancel)?.into_iter().map(|scores| scores.top).collect())
    }
}

/// Scores lists of tokens: tokens, the first that is scored, and the number of likeliest ones.
fn score(
    state: &ServerState,
    rows: impl Iterator<Item = (Arc<[u32]>, usize, usize)>,
    cancel: &CancelFlag,
) -> Result<Vec<TokenScores>> {
    let rows: Vec<ScoreRequest> =
        rows.enumerate().map(|(row, (tokens, from, top))| ScoreRequest { row, tokens, from, top }).collect();
    let count = rows.len();
    in_order(state.engine.score(rows, cancel)?, count)
}

/// The results of `count` rows in their order, or the first error.
fn in_order<T>(
    mut results: Vec<(usize, std::result::Result<T, crate::engine::RequestError>)>,
    count: usize,
) -> Result<Vec<T>> {
    results.sort_by_key(|(row, _)| *row);
    if !results.iter().map(|(row, _)| *row).eq(0..count) {
        return Err(Error::bug("the engine left a request without an answer").into());
    }
    results.into_iter().map(|(_, result)| result.map_err(ApiError::of_request)).collect()
}
