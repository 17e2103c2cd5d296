//! The fields that completions and chat completions have in common.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::api_error::ApiError;
use super::fields::{RequestFields, shown};
use super::state::ServerState;
use crate::data::RngKey;
use crate::engine::Sampling;

type Result<T> = std::result::Result<T, ApiError>;

/// Maximum number of answers to one request.
const MAX_ANSWERS: usize = 4096;
/// Maximum number of stop strings, each of which is searched after every token, and of their bytes together.
const MAX_STOPS: usize = 256;
const MAX_STOP_BYTES: usize = 16 << 10;
/// Maximum number of likeliest tokens for each token.
pub(super) const MAX_TOP: u64 = 100;

/// How a request is to be answered.
pub(super) struct CompletionOptions {
    pub sampling: Arc<Sampling>,
    /// Answers to each prompt.
    pub n: usize,
    pub keys: Keys,
    /// How many likeliest tokens to list for each token, or none for no log-probabilities.
    pub logprobs: Option<usize>,
    /// Tokens whose log-probabilities at the first position of the answer are asked for.
    pub wanted: Option<Arc<[u32]>>,
    pub token_ids: bool,
    /// Tokens are written as `token_id:N`.
    pub names_are_ids: bool,
    pub stream: bool,
    /// The stream ends with the numbers of tokens.
    pub stream_usage: bool,
}

/// Where the keys of the draws come from.
pub(super) enum Keys {
    /// The field `seed`.
    Seed(u64),
    /// The field `reflux_key`: one for each answer.
    Given(Vec<RngKey>),
}

impl Keys {
    /// The key of sample `i` of `n` for a prompt.
    pub fn key(&self, prompt: usize, n: usize, i: usize) -> RngKey {
        match self {
            Keys::Seed(seed) => RngKey::new(seed.wrapping_add(i as u64), "serve", 0, "", 0),
            Keys::Given(keys) => keys[prompt * n + i],
        }
    }
}

/// Checks the model's name. Without the field, the only model is meant.
pub(super) fn check_model(fields: &mut RequestFields, state: &ServerState) -> Result<()> {
    match fields.text("model")? {
        Some(name) if name != state.name => {
            let message = format!("model `{}` not found; this server has `{}`", shown(&name), state.name);
            Err(ApiError::no_model(message))
        }
        _ => Ok(()),
    }
}

impl CompletionOptions {
    /// Reads the fields for `prompts` prompts.
    pub fn read(
        fields: &mut RequestFields,
        state: &ServerState,
        prompts: usize,
        logprobs: Option<usize>,
        max_tokens: usize,
    ) -> Result<Self> {
        let n = fields.count("n", 1..=MAX_ANSWERS as u64)?.unwrap_or(1);
        if n.saturating_mul(prompts) > MAX_ANSWERS {
            let message = format!("the request asks for {} answers, at most {MAX_ANSWERS} are allowed", n * prompts);
            return Err(ApiError::field("n", message));
        }
        let sampling = sampling(fields, state, max_tokens)?;
        let stream = fields.flag("stream", false)?;
        let stream_usage = stream_usage(fields, stream)?;
        let options = Self {
            sampling: Arc::new(sampling),
            n,
            keys: keys(fields, n * prompts)?,
            logprobs,
            wanted: fields.ids("logprob_token_ids", state.size.vocab)?.map(Arc::from),
            token_ids: fields.flag("return_token_ids", false)?,
            names_are_ids: fields.flag("return_tokens_as_token_ids", false)?,
            stream,
            stream_usage,
        };
        if options.wanted.is_some() && max_tokens > 1 {
            let message = "`logprob_token_ids` gives the first position only; set `max_tokens` to 0 or 1";
            return Err(ApiError::field("logprob_token_ids", message));
        }
        if stream && options.wanted.is_some() {
            return Err(ApiError::field("stream", "`logprob_token_ids` is not streamed; leave out `stream`"));
        }
        if stream && options.logprobs.is_some_and(|top| top > 0) {
            let message = "the likeliest tokens are known when an answer is complete, and are not streamed; leave out \
                           `stream`, or ask for 0 of them to get the log-probabilities of the drawn tokens";
            return Err(ApiError::field("stream", message));
        }
        refuse_unsupported(fields, n)?;
        Ok(options)
    }
}

fn sampling(fields: &mut RequestFields, state: &ServerState, max_tokens: usize) -> Result<Sampling> {
    let temperature = fields.number("temperature", 1.)?;
    let top_k = match fields.take("top_k") {
        // Others write -1 for all tokens.
        None => 0,
        Some(value) if value.as_i64() == Some(-1) => 0,
        Some(value) => value
            .as_u64()
            .and_then(|n| usize::try_from(n).ok())
            .ok_or_else(|| ApiError::field("top_k", "`top_k` must be a whole number; 0 or -1 takes all tokens"))?,
    };
    let sampling = Sampling {
        temperature,
        top_p: fields.number("top_p", 1.)?,
        top_k,
        min_p: fields.number("min_p", 0.)?,
        repetition_penalty: fields.number("repetition_penalty", 1.)?,
        max_tokens,
        min_tokens: fields.count("min_tokens", 0..=u64::MAX)?.unwrap_or(0),
        stop: stop(fields)?,
        stop_ids: fields.ids("stop_token_ids", state.size.vocab)?.map(distinct).unwrap_or_default(),
        constraint: None,
    };
    if sampling.min_tokens > max_tokens {
        let least = sampling.min_tokens;
        let message = format!("`min_tokens` is {least}, more than `max_tokens`, which is {max_tokens}");
        return Err(ApiError::field("min_tokens", message));
    }
    match sampling.problem() {
        None => Ok(sampling),
        Some(problem) => {
            let name = problem.split(' ').next().filter(|name| name.contains("temperature") || name.contains('_'));
            Err(ApiError::field(name.unwrap_or("stop").to_owned(), problem))
        }
    }
}

/// Reads the stop strings.
fn stop(fields: &mut RequestFields) -> Result<Vec<String>> {
    let stop = distinct(fields.texts("stop")?);
    let bytes: usize = stop.iter().map(String::len).sum();
    if stop.len() > MAX_STOPS || bytes > MAX_STOP_BYTES {
        let (texts, most) = (stop.len(), MAX_STOP_BYTES >> 10);
        let message =
            format!("`stop` has {texts} texts of {bytes} bytes; at most {MAX_STOPS} texts of {most} KiB are allowed");
        return Err(ApiError::field("stop", message));
    }
    Ok(stop)
}

/// The values without repetitions.
fn distinct<T: Ord + Clone>(mut values: Vec<T>) -> Vec<T> {
    let mut seen = BTreeSet::new();
    values.retain(|value| seen.insert(value.clone()));
    values
}

fn stream_usage(fields: &mut RequestFields, stream: bool) -> Result<bool> {
    let bad = |message: &str| Err(ApiError::field("stream_options", message));
    match fields.take("stream_options") {
        None => Ok(false),
        Some(_) if !stream => bad("`stream_options` has no effect without `stream`"),
        Some(Value::Object(options)) => match (options.len(), options.get("include_usage")) {
            (1, Some(Value::Bool(usage))) => Ok(*usage),
            _ => bad("the only field of `stream_options` is `include_usage`, true or false"),
        },
        Some(_) => bad("`stream_options` must be an object"),
    }
}

/// Reads the keys of `answers` answers.
fn keys(fields: &mut RequestFields, answers: usize) -> Result<Keys> {
    let given = fields.texts("reflux_key")?;
    let seed = match fields.take("seed") {
        None => None,
        Some(value) => {
            // Negative seeds are allowed elsewhere.
            let seed = value.as_u64().or_else(|| value.as_i64().map(i64::cast_unsigned));
            Some(seed.ok_or_else(|| ApiError::field("seed", "`seed` must be a whole number of 64 bits"))?)
        }
    };
    if given.is_empty() {
        return Ok(Keys::Seed(seed.unwrap_or(0)));
    }
    if seed.is_some() {
        return Err(ApiError::field("seed", "`seed` has no effect beside `reflux_key`; leave one of them out"));
    }
    if given.len() != answers {
        let message = format!("`reflux_key` has {} keys for {answers} answers; give one for each", given.len());
        return Err(ApiError::field("reflux_key", message));
    }
    let keys: Option<Vec<RngKey>> = given.iter().map(|text| Some(RngKey(parse_key(text)?))).collect();
    let wanted = "each `reflux_key` must have 64 hexadecimal digits";
    keys.map(Keys::Given).ok_or_else(|| ApiError::field("reflux_key", wanted))
}

fn parse_key(text: &str) -> Option<[u8; 32]> {
    let mut key = [0; 32];
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != 32 || !rest.is_empty() {
        return None;
    }
    for (byte, pair) in key.iter_mut().zip(pairs) {
        let digit = |c: u8| char::from(c).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
    }
    Some(key)
}

/// Refuses what other servers can and this one cannot, unless it is switched off.
fn refuse_unsupported(fields: &mut RequestFields, n: usize) -> Result<()> {
    // It names the end user and has no effect anywhere.
    fields.text("user")?;
    let zero = [json!(0)];
    let use_repetition = "use `repetition_penalty`";
    let leave_out = "leave it out";
    fields.neutral("presence_penalty", &zero, use_repetition)?;
    fields.neutral("frequency_penalty", &zero, use_repetition)?;
    fields.neutral("logit_bias", &[json!({})], leave_out)?;
    fields.neutral("best_of", &[json!(n)], "set it to `n`, or leave it out")?;
    fields.neutral("ignore_eos", &[json!(false)], "use `min_tokens`")?;
    fields.neutral("skip_special_tokens", &[json!(true)], "use `return_token_ids`")?;
    fields.neutral("spaces_between_special_tokens", &[json!(true), json!(false)], leave_out)?;
    fields.neutral("include_stop_str_in_output", &[json!(false)], leave_out)?;
    fields.neutral("use_beam_search", &[json!(false)], leave_out)
}
