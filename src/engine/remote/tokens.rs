//! [`TokenServer`]: a model on servers that take and return token ids.

use std::sync::Arc;

use serde_json::{Value, json};

use super::connection::{Connection, SharedReplies, affinity, seed};
use super::dialect::Dialect;
use super::reply::{self, TokenReply};
use crate::cancel::CancelFlag;
use crate::engine::answer;
use crate::engine::backend::{Capabilities, TokenEngine};
use crate::engine::codec::Codec;
use crate::engine::encoded::{EncodedRequest, RowResult, SampledTokens};
use crate::engine::request::{Finish, RequestError};
use crate::engine::stats::Stats;
use crate::error::Result;
use crate::model::Tokenizer;

/// Tokens at the beginning of a prompt that choose its endpoint.
const HEAD: usize = 64;

/// A model on servers that take and return token ids. Conversations are rendered and encoded here, so text of a
/// message is never a special token.
pub struct TokenServer {
    connection: Arc<Connection>,
    tokenizer: Tokenizer,
    replies: SharedReplies,
}

impl TokenServer {
    pub(super) fn new(connection: Arc<Connection>, tokenizer: Tokenizer, replies: SharedReplies) -> Self {
        Self { connection, tokenizer, replies }
    }

    /// Why the model cannot take a request, if it cannot.
    fn unfit(&self, row: &EncodedRequest) -> Option<RequestError> {
        if let Some(message) = self.connection.facts.ignored_option(&row.sampling) {
            return Some(RequestError { code: "bad_sampling", message });
        }
        if let Err(error) = self.connection.constraint(&row.sampling) {
            return Some(error);
        }
        answer::unfit(&row.prompt, self.tokenizer.vocab_size(), self.connection.facts.context)
    }

    /// Maximum number of tokens of an answer.
    fn limit(&self, row: &EncodedRequest) -> usize {
        row.sampling.max_tokens.min(self.connection.facts.context.saturating_sub(row.prompt.len()))
    }

    fn body(&self, row: &EncodedRequest) -> Value {
        let dialect = self.connection.facts.dialect;
        let mut body = dialect.sampling(&row.sampling, self.limit(row), seed(&row.key));
        body.insert("model".into(), json!(self.connection.config.name));
        body.insert("prompt".into(), json!(&*row.prompt));
        body.insert("logprobs".into(), json!(1));
        match dialect {
            Dialect::LlamaCpp => {}
            Dialect::Reflux => {
                let key: String = row.key.0.iter().map(|byte| format!("{byte:02x}")).collect();
                // The whole key in place of the seed, which is a part of it: the draws are then those of an engine here.
                body.remove("seed");
                body.insert("reflux_key".into(), json!(key));
                body.insert("return_token_ids".into(), json!(true));
            }
            Dialect::Vllm | Dialect::Other => {
                body.insert("return_token_ids".into(), json!(true));
                body.insert("return_tokens_as_token_ids".into(), json!(true));
            }
        }
        if dialect != Dialect::LlamaCpp {
            let ends: Vec<u32> = self.tokenizer.eos_ids().iter().chain(&row.sampling.stop_ids).copied().collect();
            body.insert("stop_token_ids".into(), json!(ends));
        }
        // Rows without the fields that they need are unfit.
        body.extend(self.connection.constraint(&row.sampling).unwrap_or_default());
        if let Some(wanted) = &row.wanted {
            body.insert("max_tokens".into(), json!(1));
            body.insert("min_tokens".into(), json!(0));
            body.insert("temperature".into(), json!(0));
            body.insert("logprob_token_ids".into(), json!(&**wanted));
        }
        Value::Object(body)
    }

    /// The answer to a request. A server may go on after a token that ends the answer here.
    fn sampled(&self, row: &EncodedRequest, reply: &TokenReply) -> std::result::Result<SampledTokens, RequestError> {
        if reply.prompt.as_ref().is_some_and(|prompt| prompt[..] != row.prompt[..]) {
            return Err(reply::bad("is for another prompt"));
        }
        if let Some(wanted) = &row.wanted {
            let of = |id: &u32| reply.listed.iter().find(|(listed, _)| listed == id).map(|(_, logprob)| *logprob);
            let named = reply.named.clone().filter(|named| named.len() == wanted.len());
            let logprobs = named.or_else(|| wanted.iter().map(of).collect());
            let logprobs = logprobs.ok_or_else(|| reply::bad("lacks log-probabilities of the requested tokens"))?;
            return Ok(SampledTokens { tokens: wanted.to_vec(), logprobs, finish: Finish::Stop });
        }
        let (limit, vocabulary) = (self.limit(row), self.tokenizer.vocab_size());
        if reply.tokens.len() > limit {
            return Err(reply::bad(format!("has {} tokens, more than {limit}", reply.tokens.len())));
        }
        if reply.tokens.is_empty() {
            return Err(reply::bad("has no tokens"));
        }
        if let Some(id) = reply.tokens.iter().find(|&&id| id as usize >= vocabulary) {
            return Err(reply::bad(format!("has token {id}, beyond the tokenizer's vocabulary")));
        }
        let ends = |n: &usize| answer::finish(&reply.tokens[..*n], &row.sampling, limit, &self.tokenizer);
        let end = (1..=reply.tokens.len()).find_map(|n| Some((n, ends(&n)?)));
        let (n, finish) = end.unwrap_or((reply.tokens.len(), reply.finish));
        Ok(SampledTokens { tokens: reply.tokens[..n].to_vec(), logprobs: reply.logprobs[..n].to_vec(), finish })
    }
}

impl TokenEngine for TokenServer {
    fn codec(&self) -> &dyn Codec {
        &self.tokenizer
    }
    fn run(&self, rows: Vec<EncodedRequest>, cancel: &CancelFlag) -> Result<Vec<RowResult>> {
        let mut done = Vec::with_capacity(rows.len());
        let mut open = Vec::with_capacity(rows.len());
        for row in rows {
            match self.unfit(&row) {
                Some(error) => done.push((row.row, Err(error))),
                None if self.limit(&row) == 0 => {
                    let nothing = SampledTokens { tokens: Vec::new(), logprobs: Vec::new(), finish: Finish::Length };
                    done.push((row.row, Ok(nothing)));
                }
                None => open.push(row),
            }
        }
        let head = |row: &EncodedRequest| {
            let bytes: Vec<u8> = row.prompt.iter().take(HEAD).flat_map(|id| id.to_le_bytes()).collect();
            affinity([&bytes[..]])
        };
        let requests = open.iter().map(|row| (self.body(row), head(row))).collect();
        let replies = self
            .connection
            .ask("/completions", requests, &*self.replies, cancel, |r| reply::tokens(r).map(Arc::new))?;
        for (row, reply) in open.into_iter().zip(replies) {
            done.push((row.row, reply.and_then(|reply| self.sampled(&row, &reply))));
        }
        Ok(done)
    }
    fn count(&self, requests: usize) {
        self.connection.count_requests(requests);
    }
    fn id(&self) -> &str {
        self.connection.id()
    }
    fn tokenizer(&self) -> Option<&str> {
        Some(self.tokenizer.hash())
    }
    fn stats(&self) -> Stats {
        self.connection.stats()
    }
    fn capabilities(&self) -> Capabilities {
        let facts = &self.connection.facts;
        Capabilities { token_ids: true, exact_logprobs: facts.exact, choices: facts.choices, constraints: true }
    }
}
