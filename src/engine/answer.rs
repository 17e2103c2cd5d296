//! Encoding of requests and decoding of answers, shared by the engines that have a model.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

use super::choice::ChoiceTree;
use super::codec::Codec;
use super::encoded::{EncodedRequest, RowResult, SampledTokens};
use super::request::{Answer, ChoiceRequest, Completion, Finish, Probabilities, Request, RequestError, problem};
use super::sampling::{self, Sampling, Scratch, TokenDraw, stop, unit};
use crate::error::{Error, Result};
use crate::model::Message;

/// Answers all requests. `run` runs encoded rows.
pub(super) fn generate(
    codec: &dyn Codec,
    requests: Vec<Request>,
    run: impl FnOnce(Vec<EncodedRequest>) -> Result<Vec<RowResult>>,
) -> Result<Vec<Answer>> {
    let mut answers: Vec<Option<Answer>> = vec![None; requests.len()];
    let rows = encode(codec, requests, &mut answers);
    let sent: BTreeMap<usize, (Arc<[u32]>, Arc<Sampling>)> =
        rows.iter().map(|r| (r.row, (r.prompt.clone(), r.sampling.clone()))).collect();
    if !rows.is_empty() {
        for (row, result) in run(rows)? {
            let Some((prompt, sampling)) = sent.get(&row) else { continue };
            answers[row] = Some(result.map(|s| completion(codec, prompt, sampling, s)));
        }
    }
    answers.into_iter().map(|a| a.ok_or_else(|| Error::bug("the engine left a request without an answer"))).collect()
}

/// Encodes the prompts, equal neighbours once. Invalid requests get their error in `answers` right away.
fn encode(codec: &dyn Codec, requests: Vec<Request>, answers: &mut [Option<Answer>]) -> Vec<EncodedRequest> {
    type Last = (Vec<Message>, std::result::Result<Arc<[u32]>, String>);
    let mut last: Option<Last> = None;
    let mut sampling: Option<Arc<Sampling>> = None;
    let mut rows = Vec::with_capacity(requests.len());
    for (row, request) in requests.into_iter().enumerate() {
        if let Some(error) = problem(&request) {
            answers[row] = Some(Err(error));
            continue;
        }
        let prompt = match &last {
            Some((messages, prompt)) if *messages == request.messages => prompt.clone(),
            _ => {
                let prompt = codec.encode(&request.messages).map(Arc::from).map_err(|e| e.to_string());
                last = Some((request.messages, prompt.clone()));
                prompt
            }
        };
        let options = match sampling.take() {
            Some(s) if *s == request.sampling => s,
            _ => Arc::new(request.sampling),
        };
        sampling = Some(options.clone());
        match prompt {
            Ok(prompt) => rows.push(EncodedRequest { row, prompt, sampling: options, key: request.key, wanted: None }),
            Err(message) => answers[row] = Some(Err(RequestError { code: "template", message })),
        }
    }
    rows
}

/// Why a model with this vocabulary and context length cannot take a prompt, if it cannot.
pub(super) fn unfit(prompt: &[u32], vocab: usize, context: usize) -> Option<RequestError> {
    let refuse = |code, message| Some(RequestError { code, message });
    if prompt.is_empty() {
        return refuse("empty_prompt", "the prompt has no tokens".into());
    }
    if let Some(id) = prompt.iter().find(|&&id| id as usize >= vocab) {
        return refuse("template", format!("token {id} of the prompt is beyond the model's vocabulary"));
    }
    let n = prompt.len();
    if n >= context {
        let message = format!("the prompt has {n} tokens, the model's context is {context}; shorten or drop the row");
        return refuse("prompt_too_long", message);
    }
    None
}

/// Why a model with this vocabulary and context length cannot score these tokens, if it cannot.
pub(super) fn unfit_to_score(tokens: &[u32], vocab: usize, context: usize) -> Option<RequestError> {
    // Unlike a prompt they may fill the context.
    unfit(tokens, vocab, context.saturating_add(1))
}

/// Draws the next token of an answer and returns it with its log-probability, see [`TokenDraw::token`]. `rng` is the
/// generator of the request's key.
pub(super) fn next_token(
    logits: &[f32],
    sampling: &Sampling,
    prompt: &[u32],
    tokens: &[u32],
    eos: &[u32],
    rng: &ChaCha8Rng,
    scratch: &mut Scratch,
) -> Option<(u32, f32)> {
    // Each token owns two words of the stream, so draw `i` does not depend on how many draws were made before it.
    let mut rng = rng.clone();
    rng.set_word_pos(2 * tokens.len() as u128);
    let draw = TokenDraw {
        logits,
        sampling,
        context: [prompt, tokens],
        banned: if tokens.len() < sampling.min_tokens { [eos, &sampling.stop_ids] } else { [&[], &[]] },
        uniform: unit(rng.next_u64()),
    };
    draw.token(scratch)
}

/// The log-probabilities that a request asks for instead of an answer.
pub(super) fn wanted(logits: &[f32], ids: &[u32]) -> std::result::Result<SampledTokens, RequestError> {
    let logprobs = sampling::logprobs(logits, ids).ok_or_else(not_finite)?;
    Ok(SampledTokens { tokens: ids.to_vec(), logprobs, finish: Finish::Stop })
}

/// The log-probability of `token`, and the `top` likeliest tokens with theirs.
pub(super) fn scores(
    logits: &[f32],
    token: u32,
    top: usize,
) -> std::result::Result<(f32, Vec<(u32, f32)>), RequestError> {
    let mut ids = vec![token];
    ids.extend(sampling::likeliest(logits, top));
    let logprobs = sampling::logprobs(logits, &ids).ok_or_else(not_finite)?;
    Ok((logprobs[0], ids.into_iter().zip(logprobs).skip(1).collect()))
}

/// Computes the probabilities of all choices. `run` runs encoded rows.
pub(super) fn choose(
    codec: &dyn Codec,
    choices: &[ChoiceRequest],
    run: impl FnOnce(Vec<EncodedRequest>) -> Result<Vec<RowResult>>,
) -> Result<Vec<Probabilities>> {
    let chains: Vec<std::result::Result<ChoiceTree, RequestError>> =
        choices.iter().map(|c| ChoiceTree::new(codec, c)).collect();
    let mut rows = Vec::new();
    for chain in chains.iter().flatten() {
        rows.extend(chain.rows(rows.len()));
    }
    let mut done: Vec<Option<std::result::Result<SampledTokens, RequestError>>> = rows.iter().map(|_| None).collect();
    if !rows.is_empty() {
        run(rows)?.into_iter().for_each(|(row, result)| done[row] = Some(result));
    }
    let mut done = done.into_iter();
    let chances = |chain: std::result::Result<ChoiceTree, RequestError>| -> Result<Probabilities> {
        let chain = match chain {
            Ok(chain) => chain,
            Err(e) => return Ok(Err(e)),
        };
        // Takes all rows of this tree even if one failed: the next tree's rows come right after them.
        let nodes: Vec<_> = done.by_ref().take(chain.len()).collect();
        let mut values = Vec::with_capacity(nodes.len());
        for node in nodes {
            match node.ok_or_else(|| Error::bug("the engine left a choice without an answer"))? {
                Ok(sampled) => values.push(sampled.logprobs),
                Err(e) => return Ok(Err(e)),
            }
        }
        Ok(Ok(chain.chances(&values)))
    };
    chains.into_iter().map(chances).collect()
}

/// The error of logits from which no token was drawn.
pub(super) fn no_token(logits: &[f32]) -> RequestError {
    if logits.iter().any(|logit| !logit.is_finite()) {
        return not_finite();
    }
    let message = "no token is left to draw: `min_tokens` excludes the tokens that end an answer, and they are all; \
                   name fewer of them, or set `min_tokens` to 0";
    RequestError { code: "no_token", message: message.into() }
}

/// The error of logits that are not numbers.
pub(super) fn not_finite() -> RequestError {
    let message = "the model's logits are not finite numbers".into();
    RequestError { code: "not_finite", message }
}

/// Whether the last token ends answers.
fn ended(tokens: &[u32], sampling: &Sampling, codec: &dyn Codec) -> bool {
    tokens.last().is_some_and(|t| codec.eos_ids().contains(t) || sampling.stop_ids.contains(t))
}

/// Why the answer ends with its last token, if it does. It may have `limit` tokens.
pub(super) fn finish(tokens: &[u32], sampling: &Sampling, limit: usize, codec: &dyn Codec) -> Option<Finish> {
    if ended(tokens, sampling, codec) || stop::reached(tokens, sampling, |t| codec.decode(t)) {
        Some(Finish::Stop)
    } else {
        (tokens.len() >= limit).then_some(Finish::Length)
    }
}

/// Decodes a finished sequence of a request with this prompt and these options.
pub fn completion(codec: &dyn Codec, prompt: &Arc<[u32]>, sampling: &Sampling, done: SampledTokens) -> Completion {
    let ended = ended(&done.tokens, sampling, codec);
    let said = &done.tokens[..done.tokens.len() - usize::from(ended)];
    let mut text = codec.decode(said);
    if let Some(at) = stop::cut(said, sampling, |t| codec.decode(t)) {
        text.truncate(at);
    }
    let prompt_tokens = prompt.clone();
    Completion { text, tokens: done.tokens, logprobs: done.logprobs, finish: done.finish, prompt_tokens }
}
