//! [`Connection`]: the servers of one model, what was found about them, and the replies that are already on disk.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde_json::{Map, Value};

use super::dialect::Dialect;
use super::reply;
use super::special::{SpecialTextRule, SpecialTexts};
use super::spelling::Spelling;
use super::transport::{Call, EndpointCounters, Fault, Transport, TransportConfig};
use super::usage::Usage;
use crate::cancel::CancelFlag;
use crate::engine::constraint::ConstraintForm;
use crate::engine::request::RequestError;
use crate::engine::sampling::Sampling;
use crate::engine::stats::{Counters, Stats, add};
use crate::error::{Error, Result};
use crate::model::Tokenizer;

/// How a model on servers is reached.
pub struct RemoteConfig {
    /// The endpoints, the key and the limits of requests.
    pub transport: TransportConfig,
    /// The model's name on the servers.
    pub name: String,
    /// The model's tokenizer. With it, token ids are sent instead of text.
    pub tokenizer: Option<Tokenizer>,
    /// What happens to text that may be taken for a special token, where text is sent.
    pub special_text: SpecialTextRule,
    /// Maximum number of tokens that the model may read and sample.
    pub max_tokens: Option<u64>,
    /// Prices of a token of a prompt and of an answer.
    pub price: Option<(f64, f64)>,
    /// Maximum cost at these prices.
    pub max_cost: Option<f64>,
    /// What earlier processes of the run have spent.
    pub spent_before: Usage,
    /// What identifies the model in rows, where it is known better than from the server.
    pub id: Option<String>,
}

/// Replies that outlive the process. A request that has one is not sent again.
pub trait ReplyStore: Send + Sync {
    /// The body of the reply to a request, by the hash of the request.
    fn find(&self, request: &[u8; 32]) -> Option<Vec<u8>>;
    /// Keeps a reply. It is on disk when this returns.
    ///
    /// # Errors
    /// The disk is full.
    fn keep(&self, request: &[u8; 32], body: &[u8], usage: Usage) -> Result<()>;
}

/// A store that keeps nothing, for commands without a run.
pub struct NoReplies;

impl ReplyStore for NoReplies {
    fn find(&self, _: &[u8; 32]) -> Option<Vec<u8>> {
        None
    }
    fn keep(&self, _: &[u8; 32], _: &[u8], _: Usage) -> Result<()> {
        Ok(())
    }
}

/// What the servers were found to do. See [`super::probe`].
#[derive(Clone, Debug)]
pub(super) struct Facts {
    pub dialect: Dialect,
    /// Identifies the model: the weights' hash if the server tells it, or names.
    pub id: String,
    /// The weights' hash, if the server tells it.
    pub weights: Option<String>,
    /// Maximum number of tokens of a prompt with its answer; `usize::MAX` if the server does not tell.
    pub context: usize,
    /// Whether answers carry token ids and log-probabilities of the model's own distribution.
    pub exact: bool,
    /// Whether it gives the log-probabilities of tokens that a request names.
    pub choices: bool,
    /// Sampling options that the server ignores, beside those that its dialect lacks.
    pub ignored: Vec<&'static str>,
}

impl Facts {
    /// An option that a request sets and the server ignores, in words.
    pub fn ignored_option(&self, sampling: &Sampling) -> Option<String> {
        let set = self.ignored.iter().filter(|_| sampling.min_tokens > 0).copied();
        let option = self.dialect.ignores(sampling).into_iter().chain(set).next()?;
        Some(format!("{} ignores `{option}`", self.dialect.name()))
    }
}

/// The servers of one model.
pub struct Connection {
    pub(super) config: RemoteConfig,
    pub(super) facts: Facts,
    pub(super) special: SpecialTexts,
    transport: Transport,
    counters: Counters,
    /// How the servers spell the forms of answers that they honour.
    spellings: Mutex<BTreeMap<ConstraintForm, Spelling>>,
    /// Tokens of prompts and of answers, those of replies from the store included.
    spent: [AtomicU64; 2],
    /// What each endpoint has counted for its replies.
    received: Mutex<Vec<Usage>>,
}

impl Connection {
    pub(super) fn new(config: RemoteConfig, transport: Transport, facts: Facts) -> Result<Self> {
        let special = SpecialTexts::new().map_err(|e| Error::bug(e.to_string()))?;
        let spent = [config.spent_before.prompt, config.spent_before.sampled].map(AtomicU64::new);
        Ok(Self {
            config,
            facts,
            special,
            transport,
            counters: Counters::default(),
            spellings: Mutex::default(),
            spent,
            received: Mutex::default(),
        })
    }

    /// What identifies the model in rows.
    pub fn id(&self) -> &str {
        &self.facts.id
    }

    /// Counters since the start.
    pub fn stats(&self) -> Stats {
        self.counters.read()
    }

    /// Counters of each endpoint. Replies from the store are not among them.
    pub fn endpoints(&self) -> Vec<EndpointCounters> {
        let received = self.received().clone();
        let usages = received.into_iter().chain(std::iter::repeat(Usage::default()));
        let with_tokens = |(counters, usage): (EndpointCounters, Usage)| EndpointCounters {
            prompt_tokens: usage.prompt,
            cached_prompt_tokens: usage.cached,
            generated_tokens: usage.sampled,
            ..counters
        };
        self.transport.counters().into_iter().zip(usages).map(with_tokens).collect()
    }

    fn received(&self) -> std::sync::MutexGuard<'_, Vec<Usage>> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the tokens of a reply for the endpoint that sent it.
    fn receive(&self, endpoint: usize, usage: Usage) {
        let mut received = self.received();
        if received.len() <= endpoint {
            received.resize(endpoint + 1, Usage::default());
        }
        received[endpoint] += usage;
    }

    fn spellings(&self) -> std::sync::MutexGuard<'_, BTreeMap<ConstraintForm, Spelling>> {
        self.spellings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the servers spell a form of answers; none if they do not honour it, or were not asked yet.
    pub(super) fn spelling(&self, form: ConstraintForm) -> Option<Spelling> {
        self.spellings().get(&form).copied()
    }

    pub(super) fn set_spelling(&self, form: ConstraintForm, spelling: Option<Spelling>) {
        let mut spellings = self.spellings();
        match spelling {
            Some(spelling) => _ = spellings.insert(form, spelling),
            None => _ = spellings.remove(&form),
        }
    }

    /// The fields of a request that hold its answer to a form; empty if it is free.
    pub(super) fn constraint(&self, sampling: &Sampling) -> std::result::Result<Map<String, Value>, RequestError> {
        let Some(constraint) = &sampling.constraint else { return Ok(Map::new()) };
        let fields = self.spelling(constraint.form()).and_then(|spelling| spelling.fields(constraint));
        fields.ok_or_else(|| {
            let form = constraint.form().name();
            let message = format!("the servers of `{}` do not hold answers to a {form}", self.config.name);
            RequestError { code: "bad_sampling", message }
        })
    }

    pub(super) fn count_requests(&self, requests: usize) {
        add(&self.counters.requests, requests);
    }

    /// Sends requests and returns what `read` makes of their replies. A request whose reply is in `replies` is not
    /// sent. Equal requests are sent once.
    ///
    /// # Errors
    /// Cancelled; a server refuses all requests; the budget is spent; the disk is full.
    pub(super) fn ask<T: Clone>(
        &self,
        path: &'static str,
        requests: Vec<(Value, u64)>,
        replies: &dyn ReplyStore,
        cancel: &CancelFlag,
        read: impl Fn(&Value) -> std::result::Result<T, RequestError>,
    ) -> Result<Vec<std::result::Result<T, RequestError>>> {
        let start = Instant::now();
        let mut results: Vec<Option<std::result::Result<T, RequestError>>> = requests.iter().map(|_| None).collect();
        let mut askers: Vec<Vec<usize>> = Vec::new();
        let (mut hashes, mut calls) = (Vec::new(), Vec::new());
        let mut known: BTreeMap<[u8; 32], usize> = BTreeMap::new();
        for (row, (body, affinity)) in requests.into_iter().enumerate() {
            let body = serde_json::to_vec(&body).map_err(|e| Error::bug(e.to_string()))?;
            let mut hasher = blake3::Hasher::new();
            let hash = *hasher.update(path.as_bytes()).update(&[0]).update(&body).finalize().as_bytes();
            if let Some(&call) = known.get(&hash) {
                askers[call].push(row);
            } else if let Some((result, usage)) = self.stored(replies, &hash, &read) {
                self.spend(usage);
                results[row] = Some(Ok(result));
            } else {
                known.insert(hash, calls.len());
                askers.push(vec![row]);
                hashes.push(hash);
                calls.push(Call { path, body: body.into(), affinity });
            }
        }
        self.within_budget()?;
        let mut stop = None;
        let sent = self.transport.send(calls, cancel, &mut |call, reply| {
            let result = match reply {
                Ok(reply) => match reply::json(&reply.body) {
                    Ok(json) => {
                        let result = read(&json);
                        let usage = reply::usage(&json);
                        self.spend(usage);
                        self.receive(reply.endpoint, usage);
                        // A reply that cannot be read is not kept: the next run may get a better one.
                        if result.is_ok() {
                            replies.keep(&hashes[call], &reply.body, usage)?;
                        }
                        result
                    }
                    Err(e) => Err(e),
                },
                Err(Fault::Row { code, message }) => Err(RequestError { code, message }),
                Err(Fault::Stop(e)) => {
                    stop = Some(e);
                    return Err(Error::cancelled());
                }
            };
            askers[call].iter().for_each(|&row| results[row] = Some(result.clone()));
            self.within_budget()
        });
        if let Some(stop) = stop {
            return Err(stop.doing(format!("model `{}`", self.config.name)));
        }
        sent?;
        self.counters.busy(start.elapsed(), 0.);
        results.into_iter().map(|r| r.ok_or_else(|| Error::bug("a request was left without a reply"))).collect()
    }

    /// What `read` makes of a stored reply. One that cannot be read is not used: the request is sent again.
    fn stored<T>(
        &self,
        replies: &dyn ReplyStore,
        request: &[u8; 32],
        read: impl Fn(&Value) -> std::result::Result<T, RequestError>,
    ) -> Option<(T, Usage)> {
        let json = reply::json(&replies.find(request)?);
        match json.and_then(|json| Ok((read(&json)?, reply::usage(&json)))) {
            Ok(stored) => Some(stored),
            Err(e) => {
                let model = &self.config.name;
                tracing::warn!(
                    "a stored reply of `{model}` cannot be used, and its request is sent again: {}",
                    e.message
                );
                None
            }
        }
    }

    /// Counts the tokens of a reply.
    fn spend(&self, usage: Usage) {
        self.spent[0].fetch_add(usage.prompt, Ordering::Relaxed);
        self.spent[1].fetch_add(usage.sampled, Ordering::Relaxed);
        let count = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        add(&self.counters.prompt_tokens, count(usage.prompt));
        add(&self.counters.cached_prompt_tokens, count(usage.cached.unwrap_or(0)));
        add(&self.counters.generated_tokens, count(usage.sampled));
    }

    /// Cost so far at the configured prices.
    pub fn cost(&self) -> Option<f64> {
        let (input, output) = self.config.price?;
        let [read, sampled] = [0, 1].map(|i| self.spent[i].load(Ordering::Relaxed) as f64);
        Some(read * input + sampled * output)
    }

    /// Refuses to go on when the budget is spent.
    fn within_budget(&self) -> Result<()> {
        let tokens = self.spent.iter().fold(0u64, |sum, n| sum.saturating_add(n.load(Ordering::Relaxed)));
        let spent = match (self.config.max_tokens, self.config.max_cost, self.cost()) {
            (Some(most), ..) if tokens >= most => format!("{tokens} of {most} tokens (max_tokens)"),
            (_, Some(most), Some(cost)) if cost >= most => format!("{cost:.2} of {most} (max_cost)"),
            _ => return Ok(()),
        };
        Err(Error::user(format!("the budget of model `{}` is spent: {spent}", self.config.name))
            .help("what is answered is stored: raise the limit in the pipeline file, and the same command goes on"))
    }
}

/// The hash by which prompts with a common head go to the same endpoint.
pub(super) fn affinity<'a>(head: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let mut hasher = blake3::Hasher::new();
    head.into_iter().for_each(|part| _ = hasher.update(part));
    let mut first = [0; 8];
    first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(first)
}

/// The seed of a request: 31 bits of its key, since some servers take no larger ones.
pub(super) fn seed(key: &crate::data::RngKey) -> u32 {
    let [a, b, c, d, ..] = key.0;
    u32::from_le_bytes([a, b, c, d]) >> 1
}

/// A store for engines that share a connection.
pub(super) type SharedReplies = Arc<dyn ReplyStore>;
