//! Finds out what a model's servers can do, with real requests: servers ignore fields without a word.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::Value;

use super::chat::ChatServer;
use super::connection::{Connection, Facts, NoReplies, RemoteConfig, SharedReplies};
use super::dialect::Dialect;
use super::reply;
use super::tokens::TokenServer;
use super::transport::{Endpoint, Reply, Transport};
use crate::cancel::CancelFlag;
use crate::data::RngKey;
use crate::engine::backend::{Engine as _, TokenEngine as _};
use crate::engine::encoded::{EncodedRequest, SampledTokens};
use crate::engine::open::has_template;
use crate::engine::request::{Completion, Request, RequestError};
use crate::engine::sampling::Sampling;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Message, Tokenizer};

/// The question of every probe.
const QUESTION: &str = "Name a colour.";
/// Largest difference of two log-probabilities of the same token that rounding makes. Servers in bf16 differ by this
/// much between batches.
const ROUNDING: f32 = 0.25;
/// Time between two looks at a server that is starting.
const WAIT: Duration = Duration::from_secs(1);
/// Time between two checks of the cancel flag.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A model as a server lists it.
struct ListedModel {
    owner: String,
    context: usize,
    /// The weights' hash, which `reflux serve` tells.
    weights: Option<String>,
    root: Option<String>,
}

/// Connects to a model's servers and probes them.
///
/// # Errors
/// A server cannot be reached, lacks the model, refuses the key, or ignores the seed or the temperature; with a
/// tokenizer, it does not take or return token ids.
pub fn connect(config: RemoteConfig, cancel: &CancelFlag) -> Result<Arc<Connection>> {
    if let Some(tokenizer) = &config.tokenizer {
        has_template(&config.name, tokenizer)?;
    }
    let transport = Transport::new(config.transport.clone())?;
    let listed = listed(&config, &transport, cancel)?;
    let dialect = Dialect::of(&listed.owner);
    let id = config.id.clone().or_else(|| listed.weights.clone()).unwrap_or_else(|| {
        let root = listed.root.as_ref().filter(|root| **root != config.name);
        let root = root.map(|root| format!(", {root}")).unwrap_or_default();
        let address = config.transport.endpoints.first().map_or("", |e| e.url());
        format!("server:{} ({}{root}, {address})", config.name, dialect.name())
    });
    let (context, weights) = (listed.context, listed.weights);
    let facts = Facts { dialect, id, weights, context, exact: false, choices: false, ignored: Vec::new() };
    let mut connection = Connection::new(config, transport, facts)?;
    match connection.config.tokenizer.clone() {
        Some(tokenizer) => {
            let probe = Arc::new(connection);
            let facts = probe_tokens(&probe, tokenizer, cancel)?;
            connection = Arc::into_inner(probe).ok_or_else(|| Error::bug("a probe is still in use"))?;
            connection.facts = facts;
            Ok(Arc::new(connection))
        }
        None => {
            let connection = Arc::new(connection);
            probe_chat(&connection, cancel)?;
            Ok(connection)
        }
    }
}

/// Reads every server's list of models, which must agree on the model.
fn listed(config: &RemoteConfig, transport: &Transport, cancel: &CancelFlag) -> Result<ListedModel> {
    let mut first: Option<ListedModel> = None;
    for (i, endpoint) in config.transport.endpoints.iter().enumerate() {
        let doing = || endpoint.url().to_owned();
        let body = models(config, transport, i, cancel).map_err(|e| e.doing(doing()))?;
        let json = reply::json(&body).map_err(|e| Error::user(e.message).doing(doing()))?;
        let models = json["data"].as_array().map_or(&[][..], Vec::as_slice);
        let Some(model) = models.iter().find(|m| m["id"] == config.name.as_str()) else {
            let names: Vec<String> =
                models.iter().filter_map(|m| m["id"].as_str()).take(20).map(reply::shortened).collect();
            let help = match names.is_empty() {
                true => "it lists no model".to_owned(),
                false => format!("it has {}", names.join(", ")),
            };
            return Err(Error::user(format!("the server has no model `{}`", config.name)).help(help).doing(doing()));
        };
        let listed = read_listed(model);
        if let Some(first) = &first
            && (&first.weights, &first.owner, &first.root) != (&listed.weights, &listed.owner, &listed.root)
        {
            return Err(Error::user(format!(
                "it does not run the same model as {}",
                config.transport.endpoints[0].url()
            ))
            .help("all addresses of `server` must run the same weights")
            .doing(doing()));
        }
        let context = first.as_ref().map_or(listed.context, |first| first.context.min(listed.context));
        first = Some(ListedModel { context, ..listed });
    }
    first.ok_or_else(|| Error::user(format!("model `{}` has no server", config.name)))
}

/// Requests a server's list of models, and waits for a server that is starting.
fn models(config: &RemoteConfig, transport: &Transport, endpoint: usize, cancel: &CancelFlag) -> Result<Bytes> {
    let url = config.transport.endpoints[endpoint].url();
    let path = path_of(url);
    let start = Instant::now();
    let mut told = false;
    loop {
        let problem = match transport.get(endpoint, &format!("{path}/models"), cancel) {
            Ok(reply) if (200..300).contains(&reply.status) => return Ok(reply.body),
            Ok(reply) => not_models(transport, &reply, path)?,
            Err(e) if e.kind() == ErrorKind::Cancelled => return Err(e),
            Err(e) => e,
        };
        if start.elapsed() >= config.transport.row_budget {
            return Err(problem.help("start the server; a run waits for it for `time_limit` seconds"));
        }
        if !std::mem::replace(&mut told, true) {
            tracing::warn!("waiting for {url}: {problem}");
        }
        let until = Instant::now() + WAIT;
        while Instant::now() < until && !cancel.is_set() {
            std::thread::sleep(POLL_INTERVAL);
        }
    }
}

/// The path of an address, such as `/v1`.
pub(super) fn path_of(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    url[host..].find('/').map_or("", |at| &url[host + at..])
}

/// Whether a server lists its models, which is when it takes requests. A server that is starting refuses connections, or
/// answers with an error.
pub fn is_ready(transport: &Transport, endpoint: &Endpoint, cancel: &CancelFlag) -> bool {
    let reply = transport.get(0, &format!("{}/models", path_of(endpoint.url())), cancel);
    reply.is_ok_and(|reply| (200..300).contains(&reply.status))
}

/// The problem of a server that does not list its models, if waiting may help.
///
/// # Errors
/// The same problem, if it stays.
fn not_models(transport: &Transport, reply: &Reply, path: &str) -> Result<Error> {
    let status = reply.status;
    let words = transport.words(&reply.body);
    let said = if words.is_empty() { String::new() } else { format!(": {words}") };
    let problem = Error::user(format!("the server answers with status {status}{said}"));
    Err(match status {
        408 | 409 | 425 | 429 | 500.. => return Ok(problem),
        300..=399 => Error::user(format!("the server redirects (status {status}), and redirects are not followed"))
            .help("give the final address in `server`, often with https:// in place of http://"),
        401 | 403 => Error::user(format!("the server refuses the key (status {status})"))
            .help("set `key = { env = \"NAME\" }` in the model's table, and the variable NAME in the shell"),
        404 => Error::user(format!("the server has no {path}/models (status 404)"))
            .help("an address of `server` is the part before /chat/completions, and mostly ends with /v1"),
        _ => problem.help("check the address in `server`"),
    })
}

fn read_listed(model: &Value) -> ListedModel {
    let text = |key: &str| model[key].as_str().map(reply::shortened);
    let context = model["max_model_len"].as_u64().or_else(|| model["meta"]["n_ctx"].as_u64());
    ListedModel {
        owner: text("owned_by").unwrap_or_default(),
        context: context.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX),
        weights: text("weights").filter(|hash| crate::data::is_hash(hash)),
        root: text("root"),
    }
}

/// The error for a server that ignores a field.
fn ignores(connection: &Connection, what: &str) -> Error {
    Error::user(format!("the server of `{}` ignores {what}", connection.config.name)).help(
        "samples would not be what the pipeline file says; use a server that honours it, such as vLLM, llama.cpp or \
         `reflux serve`",
    )
}

/// Probes servers that take and return token ids.
fn probe_tokens(connection: &Arc<Connection>, tokenizer: Tokenizer, cancel: &CancelFlag) -> Result<Facts> {
    let messages = [Message::new("user", QUESTION)];
    let prompt: Arc<[u32]> = tokenizer.encode_chat(&messages, true)?.into();
    let server = TokenServer::new(connection.clone(), tokenizer, Arc::new(NoReplies) as SharedReplies);
    let probe = |row: usize, sampling: &Sampling, key: u8| EncodedRequest {
        row,
        prompt: prompt.clone(),
        sampling: Arc::new(sampling.clone()),
        key: RngKey([key; 32]),
        wanted: None,
    };
    let greedy = Sampling { temperature: 0., max_tokens: 1, ..Sampling::default() };
    // Temperature and top_k leave the model's own distribution as it is.
    let flat = Sampling { temperature: 2., top_k: 1, ..greedy.clone() };
    // vLLM refuses a temperature above 2.
    let hot = Sampling { temperature: 2., max_tokens: 8, ..Sampling::default() };
    // All at once, since each takes as long as all of them.
    let rows = [(&greedy, 1), (&flat, 1), (&hot, 1), (&hot, 1), (&hot, 2), (&hot, 3)];
    let rows = rows.into_iter().enumerate().map(|(row, (sampling, key))| probe(row, sampling, key));
    let answers = all(&server, rows.collect(), cancel)?;
    let answers: Vec<_> =
        answers.into_iter().map(|a| a.map_err(|e| unusable(connection, &e))).collect::<Result<_>>()?;
    let [first, other, a, again, b, c] = answers.try_into().map_err(|_| Error::bug("a probe has no result"))?;
    let (token, likely) = (first.tokens[0], first.logprobs[0]);
    let exact = other.tokens[0] == token && (other.logprobs[0] - likely).abs() < ROUNDING;
    let [a, again, b, c] = [a, again, b, c].map(|answer| answer.tokens);
    if a == b && b == c {
        return Err(ignores(connection, "the temperature or the seed"));
    }
    if a != again {
        tracing::warn!("the server of `{}` does not repeat an answer with the same seed", connection.config.name);
    }
    let mut ignored = Vec::new();
    let least = Sampling { min_tokens: 3, max_tokens: 3, stop_ids: vec![token], ..greedy.clone() };
    let choice = EncodedRequest { wanted: Some(Arc::from([token, a[0]])), ..probe(0, &greedy, 1) };
    let mut rows = vec![choice];
    if connection.facts.dialect.ignores(&least).is_empty() {
        rows.push(probe(1, &least, 1));
    }
    let mut answers = all(&server, rows, cancel)?.into_iter();
    let choice = answers.next().and_then(Result::ok);
    let choices = choice.is_some_and(|choice| (choice.logprobs[0] - likely).abs() < ROUNDING);
    if let Some(least) = answers.next()
        && least.map_err(|e| unusable(connection, &e))?.tokens.len() < 3
    {
        ignored.push("min_tokens");
    }
    Ok(Facts { exact, choices, ignored, ..connection.facts.clone() })
}

/// The error for servers that refuse a request with token ids.
fn unusable(connection: &Connection, error: &RequestError) -> Error {
    let words = format!("the server of `{}` cannot be used with token ids: {}", connection.config.name, error.message);
    Error::user(words).help("take `tokenizer` out to send text, or use vLLM, llama.cpp or `reflux serve`")
}

/// The answers to probes that are sent at once, in the order of their row numbers.
fn all(
    server: &TokenServer,
    rows: Vec<EncodedRequest>,
    cancel: &CancelFlag,
) -> Result<Vec<std::result::Result<SampledTokens, RequestError>>> {
    let expected = rows.len();
    let mut answers = server.run(rows, cancel)?;
    answers.sort_by_key(|(row, _)| *row);
    match answers.len() == expected {
        true => Ok(answers.into_iter().map(|(_, answer)| answer).collect()),
        false => Err(Error::bug("a probe has no result")),
    }
}

/// Probes servers that take and return text.
fn probe_chat(connection: &Arc<Connection>, cancel: &CancelFlag) -> Result<()> {
    let server = ChatServer::new(connection.clone(), Arc::new(NoReplies) as SharedReplies);
    let sampling = Sampling { temperature: 1.5, max_tokens: 16, ..Sampling::default() };
    let messages = vec![Message::new("user", QUESTION)];
    let probe = |key: u8| Request { messages: messages.clone(), sampling: sampling.clone(), key: RngKey([key; 32]) };
    // All at once, since each takes as long as all of them.
    let answers: Vec<Completion> = server
        .generate([1, 2, 3, 4].map(probe).into(), cancel)?
        .into_iter()
        .collect::<std::result::Result<_, _>>()
        .map_err(|e| Error::user(format!("the server of `{}`: {}", connection.config.name, e.message)))?;
    if answers.windows(2).all(|pair| pair[0].text == pair[1].text) {
        return Err(ignores(connection, "the temperature or the seed"));
    }
    Ok(())
}
