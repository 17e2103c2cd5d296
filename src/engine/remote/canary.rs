//! [`Canary`]: what a model's weights say about a few tokens, to be compared with what a server says that claims to have
//! these weights.

use std::sync::Arc;

use super::connection::{Connection, NoReplies, SharedReplies};
use super::tokens::TokenServer;
use crate::cancel::CancelFlag;
use crate::data::RngKey;
use crate::engine::backend::TokenEngine;
use crate::engine::encoded::{EncodedRequest, SampledTokens};
use crate::engine::sampling::Sampling;
use crate::error::{Error, Result};
use crate::model::{Message, Tokenizer};

/// The conversation whose tokens are compared.
const QUESTION: &str = "Name a colour and an animal of that colour.";
/// Number of places in it at which the next token is compared.
const PLACES: usize = 8;

/// The distribution of the next token at a few places of a prompt, by the weights themselves.
pub struct Canary(Vec<CanaryPlace>);

struct CanaryPlace {
    prompt: Arc<[u32]>,
    /// The log-probability of every token.
    logprobs: Vec<f32>,
}

/// How far a server is from the weights, at the place where it is farthest.
#[derive(Clone, Debug, PartialEq)]
pub struct CanaryReading {
    /// The difference. Between two computations whose log-probabilities differ by at most x, it is at most x.
    pub difference: f32,
    /// Both figures, in words.
    pub words: String,
    /// The hash of the server's weights, if it tells it.
    pub reported_weights: Option<String>,
}

impl Canary {
    /// Computes the distributions.
    ///
    /// # Errors
    /// Cancelled; the model cannot be asked.
    pub fn new(local: &dyn TokenEngine, tokenizer: &Tokenizer, cancel: &CancelFlag) -> Result<Self> {
        let tokens = tokenizer.encode_chat(&[Message::new("user", QUESTION)], true)?;
        let size = local.size().ok_or_else(|| Error::bug("a local engine does not know its size"))?;
        let vocabulary: Arc<[u32]> = (0..u32::try_from(size.vocab).unwrap_or(u32::MAX)).collect();
        let first = tokens.len().saturating_sub(PLACES).max(1);
        let prompts: Vec<Arc<[u32]>> = (first..=tokens.len()).map(|end| tokens[..end].into()).collect();
        let ask = |prompt: &Arc<[u32]>| request(prompt, Some(Arc::clone(&vocabulary)));
        let logprobs = in_order(local, prompts.iter().map(ask).collect(), cancel)?;
        let places = prompts.into_iter().zip(logprobs);
        Ok(Self(places.map(|(prompt, sampled)| CanaryPlace { prompt, logprobs: sampled.logprobs }).collect()))
    }

    /// Compares a server with the weights. At each place, the server says its likeliest token and that token's
    /// log-probability.
    ///
    /// # Errors
    /// Cancelled; the server gives no log-probabilities of the model's own distribution, or refuses.
    pub fn compare(
        &self,
        connection: &Arc<Connection>,
        tokenizer: &Tokenizer,
        cancel: &CancelFlag,
    ) -> Result<CanaryReading> {
        if !connection.facts.exact {
            return Err(Error::user("the server gives no log-probabilities of the model's own distribution").help(
                "its weights cannot be checked without them; vLLM gives them with --logprobs-mode raw_logprobs",
            ));
        }
        let replies = Arc::new(NoReplies) as SharedReplies;
        let server = TokenServer::new(Arc::clone(connection), tokenizer.clone(), replies);
        let requests = self.0.iter().map(|place| request(&place.prompt, None)).collect();
        let mut farthest: Option<CanaryReading> = None;
        for (place, said) in self.0.iter().zip(in_order(&server, requests, cancel)?) {
            let (Some(&token), Some(&there)) = (said.tokens.first(), said.logprobs.first()) else {
                return Err(Error::user("the server gives no token"));
            };
            let reading = place.read(token, there);
            if farthest.as_ref().is_none_or(|far| reading.difference > far.difference) {
                farthest = Some(reading);
            }
        }
        let reading = farthest.ok_or_else(|| Error::bug("a canary without places"))?;
        Ok(CanaryReading { reported_weights: connection.facts.weights.clone(), ..reading })
    }
}

impl CanaryPlace {
    /// Judges the likeliest token of the server. If it is not the likeliest by the weights, the gap between the two
    /// counts half: two computations that are off by x each way can disagree about a gap of 2x.
    fn read(&self, token: u32, there: f32) -> CanaryReading {
        let here = self.logprobs.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
        let best = self.logprobs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let difference = (there - here).abs().max((best - here) / 2.);
        let place = self.prompt.len();
        let words = format!(
            "after {place} tokens, its likeliest token is {token} with log-probability {there:.6}; by the weights, that \
             token has {here:.6} and the likeliest {best:.6}"
        );
        CanaryReading { difference, words, reported_weights: None }
    }
}

fn request(prompt: &Arc<[u32]>, wanted: Option<Arc<[u32]>>) -> EncodedRequest {
    let sampling = Arc::new(Sampling { temperature: 0., max_tokens: 1, ..Sampling::default() });
    EncodedRequest { row: 0, prompt: Arc::clone(prompt), sampling, key: RngKey([0; 32]), wanted }
}

/// Sends requests and returns the results in their order.
fn in_order(
    engine: &dyn TokenEngine,
    requests: Vec<EncodedRequest>,
    cancel: &CancelFlag,
) -> Result<Vec<SampledTokens>> {
    let requests = requests.into_iter().enumerate().map(|(row, request)| EncodedRequest { row, ..request }).collect();
    let mut results = engine.run(requests, cancel)?;
    results.sort_by_key(|(row, _)| *row);
    let read = results.into_iter().map(|(_, result)| result.map_err(|e| Error::user(e.message)));
    read.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_is_that_of_the_computations() {
        let place = CanaryPlace { prompt: [1].into(), logprobs: vec![-3., -0.5, -0.6] };
        assert_eq!(place.read(1, -0.5).difference, 0.);
        assert!((place.read(1, -0.7).difference - 0.2).abs() < 1e-6);
        // Nearly a tie: both are 0.05 off.
        assert!((place.read(2, -0.55).difference - 0.05).abs() < 1e-6);
        // A token that the weights find unlikely, with the log-probability that they give it.
        assert!((place.read(0, -3.).difference - 1.25).abs() < 1e-6);
        assert!(place.read(9, -0.5).difference.is_infinite());
    }
}
