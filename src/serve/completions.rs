//! `/v1/completions`.

use std::sync::PoisonError;

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::api_error::ApiError;
use super::fields::{RequestFields, token_id};
use super::job::{EncodedPrompt, Interface, JobOutcome, ServeJob};
use super::logprobs::{ScoredToken, TokenNames, value};
use super::options::{CompletionOptions, MAX_TOP, check_model};
use super::state::{ReadBody, ServerState};
use crate::engine::Completion;

type Result<T> = std::result::Result<T, ApiError>;

/// Maximum tokens of an answer if the request does not say, as in OpenAI's interface.
const DEFAULT_MAX_TOKENS: usize = 16;

/// A prompt as it was given.
enum Given {
    Text(String),
    Ids(Vec<u32>),
}

/// A request before its prompts are encoded.
struct ParsedRequest {
    id: String,
    prompts: Vec<Given>,
    /// Whether texts get the tokens that the tokenizer puts around every text.
    mark: bool,
    echo: bool,
    options: CompletionOptions,
}

/// Reads a request.
pub(super) fn job(state: &ServerState, body: ReadBody) -> Result<ServeJob> {
    let parsed = parse(state, body)?;
    let codec = state.engine.codec();
    let mut prompts = Vec::with_capacity(parsed.prompts.len());
    for given in parsed.prompts {
        prompts.push(match given {
            Given::Ids(ids) => EncodedPrompt { ids: ids.into(), text: None },
            Given::Text(text) => {
                EncodedPrompt { ids: codec.encode_prompt(&text, parsed.mark)?.into(), text: Some(text) }
            }
        });
    }
    let job = ServeJob {
        interface: Interface::Completions,
        id: parsed.id,
        prompts,
        echo: parsed.echo,
        options: parsed.options,
    };
    job.check(state)?;
    Ok(job)
}

fn parse(state: &ServerState, body: ReadBody) -> Result<ParsedRequest> {
    let _one = state.parsing.lock().unwrap_or_else(PoisonError::into_inner);
    let mut fields = RequestFields::parse(&body.bytes)?;
    check_model(&mut fields, state)?;
    let prompts = prompts(&mut fields, state.size.vocab)?;
    let max_tokens = fields.count("max_tokens", 0..=u64::MAX)?.unwrap_or(DEFAULT_MAX_TOKENS);
    let logprobs = fields.count("logprobs", 0..=MAX_TOP)?;
    let echo = fields.flag("echo", false)?;
    let mark = fields.flag("add_special_tokens", true)?;
    let options = CompletionOptions::read(&mut fields, state, prompts.len(), logprobs, max_tokens)?;
    if options.stream && echo && logprobs.is_some() {
        return Err(ApiError::field("stream", "log-probabilities of prompts are not streamed; leave out `stream`"));
    }
    fields.neutral("suffix", &[json!("")], "put it into the prompt")?;
    fields.finish()?;
    Ok(ParsedRequest { id: reply_id("cmpl", state, &body.bytes), prompts, mark, echo, options })
}

/// The id of the reply to a request.
pub(super) fn reply_id(kind: &str, state: &ServerState, body: &[u8]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(state.engine.id().as_bytes()).update(body);
    format!("{kind}-{}", &hasher.finalize().to_hex()[..24])
}

fn prompts(fields: &mut RequestFields, vocab: usize) -> Result<Vec<Given>> {
    let wanted = || {
        let message = format!(
            "`prompt` must be a text, a list of token ids below {vocab}, a list of texts, or a list of lists of token ids"
        );
        ApiError::field("prompt", message)
    };
    let ids = |list: &[Value]| list.iter().map(|id| token_id(id, vocab)).collect::<Option<Vec<u32>>>();
    let given = match fields.take("prompt") {
        None => return Err(ApiError::field("prompt", "`prompt` is missing")),
        Some(Value::String(text)) => Some(vec![Given::Text(text)]),
        Some(Value::Array(list)) => match list.first() {
            Some(Value::Number(_)) => ids(&list).map(|ids| vec![Given::Ids(ids)]),
            Some(Value::String(_)) => list.into_iter().map(|text| as_text(text).map(Given::Text)).collect(),
            Some(_) => list.iter().map(|list| list.as_array().and_then(|list| ids(list)).map(Given::Ids)).collect(),
            None => None,
        },
        Some(_) => None,
    };
    given.ok_or_else(wanted)
}

fn as_text(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        _ => None,
    }
}

/// The reply to a job.
pub(super) fn reply(state: &ServerState, job: &ServeJob, outcome: &JobOutcome) -> Value {
    let n = job.options.n;
    let choices: Vec<Value> =
        outcome.answers.iter().enumerate().map(|(i, answer)| choice(state, job, outcome, i, i / n, answer)).collect();
    json!({
        "id": job.id,
        "object": "text_completion",
        "created": state.started,
        "model": state.name,
        "system_fingerprint": state.fingerprint(),
        "choices": choices,
        "usage": usage(job, &outcome.answers),
    })
}

/// The numbers of tokens.
pub(super) fn usage(job: &ServeJob, answers: &[Completion]) -> Value {
    let prompt: usize = job.prompts.iter().map(|p| p.ids.len()).sum();
    let drawn: usize = answers.iter().map(|a| a.tokens.len()).sum();
    json!({ "prompt_tokens": prompt, "completion_tokens": drawn, "total_tokens": prompt + drawn })
}

fn choice(
    state: &ServerState,
    job: &ServeJob,
    outcome: &JobOutcome,
    index: usize,
    of: usize,
    answer: &Completion,
) -> Value {
    let (prompt, options) = (&job.prompts[of], &job.options);
    let text = if job.echo { echoed(state, prompt) + &answer.text } else { answer.text.clone() };
    let names = TokenNames { codec: state.engine.codec(), ids: options.names_are_ids };
    let logprobs = options.logprobs.map(|_| {
        let mut tokens = Vec::new();
        if let Some(scores) = outcome.echoed.get(of) {
            tokens.push(ScoredToken { id: prompt.ids[0], logprob: None, listed: Vec::new() });
            let scored = prompt.ids[1..].iter().zip(&scores.logprobs).zip(&scores.top);
            tokens.extend(scored.map(|((&id, &logprob), top)| ScoredToken {
                id,
                logprob: Some(logprob),
                listed: top.iter().collect(),
            }));
        }
        let wanted = wanted(job, outcome, of);
        tokens.extend(answer_tokens(outcome, &wanted, index, answer));
        names.completion(&tokens, 0).0
    });
    let mut choice =
        json!({ "index": index, "text": text, "logprobs": logprobs, "finish_reason": answer.finish.as_str() });
    if options.token_ids {
        choice["token_ids"] = json!(answer.tokens);
        choice["prompt_token_ids"] = json!(prompt.ids[..]);
    }
    if let Some(wanted) = outcome.wanted.get(of) {
        choice["logprob_token_ids"] = wanted.iter().map(|&logprob| value(logprob)).collect();
    }
    choice
}

/// The text of a prompt.
pub(super) fn echoed(state: &ServerState, prompt: &EncodedPrompt) -> String {
    prompt.text.clone().unwrap_or_else(|| state.engine.codec().spell(&prompt.ids))
}

/// The tokens that a prompt was asked for, with their log-probabilities.
pub(super) fn wanted(job: &ServeJob, outcome: &JobOutcome, prompt: usize) -> Vec<(u32, f32)> {
    match (&job.options.wanted, outcome.wanted.get(prompt)) {
        (Some(ids), Some(logprobs)) => ids.iter().copied().zip(logprobs.iter().copied()).collect(),
        _ => Vec::new(),
    }
}

/// The tokens of an answer. `wanted` are listed beside the first.
pub(super) fn answer_tokens<'a>(
    outcome: &'a JobOutcome,
    wanted: &'a [(u32, f32)],
    index: usize,
    answer: &Completion,
) -> Vec<ScoredToken<'a>> {
    let top = outcome.likeliest.get(index);
    let tokens = answer.tokens.iter().zip(&answer.logprobs).enumerate();
    tokens
        .map(|(at, (&id, &logprob))| {
            let mut listed: Vec<&(u32, f32)> = top.and_then(|top| top.get(at)).into_iter().flatten().collect();
            if at == 0 {
                let known: Vec<u32> = listed.iter().map(|(id, _)| *id).collect();
                listed.extend(wanted.iter().filter(|(id, _)| !known.contains(id)));
            }
            ScoredToken { id, logprob: Some(logprob), listed }
        })
        .collect()
}

/// Serializes a reply.
pub(super) fn bytes(reply: &Value) -> Result<Vec<u8>> {
    let failed = |e: serde_json::Error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string());
    serde_json::to_vec(reply).map_err(failed)
}
