//! [`Scripted`]: answers from rules instead of weights, with a latency that costs no compute. For tests of whole
//! pipelines and for measuring how stages overlap.
//!
//! ```toml
//! per_call_ms = 5          # what a call of `generate` takes, and what each of its requests adds
//! per_request_ms = 0.2
//! vocab_size = 256         # token ids are below it
//!
//! [[answer]]               # the first rule that fits the last message answers
//! match = "Score:"         # fits if the message contains it; `starts_with` if it begins so; neither: always
//! text = ["Fair.\nScore: {score}", "It is on topic.\nScore: {score}"]
//!
//! [[answer]]
//! text = "Write about the number {n}."
//! ```
//! A rule's `chances = { "4" = 0.5, "5" = 0.25 }` are the probabilities that [`Engine::choose`] returns. A candidate
//! that is not listed has probability 0.
//!
//! The request's key decides the text and the numbers `{n}` (0 to 999999) and `{score}` (0 to 5).
//!
//! A token is a word with the blanks before it, or the blanks at the end of the text. Its id is a hash of it modulo
//! `vocab_size`, and its log-probability is a made-up number that depends on the id.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::backend::Engine;
use super::request::{Answer, ChoiceRequest, Completion, Finish, Probabilities, Request, RequestError, problem};
use super::sampling::stop;
use super::stats::{Counters, Stats, add};
use crate::cancel::CancelFlag;
use crate::data::hash_hex;
use crate::error::{Error, Result};
use crate::model::Message;

/// Longest time between two checks of the cancel flag.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The contents of a script file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// Milliseconds that every call takes.
    #[serde(default)]
    per_call_ms: f64,
    /// Milliseconds that every request adds to its call.
    #[serde(default)]
    per_request_ms: f64,
    /// Token ids are below it.
    #[serde(default = "default_vocab")]
    vocab_size: u32,
    /// The rules, tried in order.
    answer: Vec<Rule>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    #[serde(rename = "match")]
    contains: Option<String>,
    starts_with: Option<String>,
    text: Texts,
    #[serde(default)]
    chances: BTreeMap<String, f64>,
}

/// One text, or several to choose from.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Many(Vec<String>),
}

fn default_vocab() -> u32 {
    256
}

impl Script {
    /// Reads a script.
    ///
    /// # Errors
    /// It is not TOML of the form above.
    pub fn parse(toml: &str) -> Result<Self> {
        let bad = |message: String| Error::user(format!("the script: {message}"));
        let script: Script = toml::from_str(toml).map_err(|e| bad(e.to_string()))?;
        let period = |ms: f64| (0. ..=3.6e6).contains(&ms);
        if !period(script.per_call_ms) || !period(script.per_request_ms) {
            return Err(bad("per_call_ms and per_request_ms must be between 0 and 3600000".into()));
        }
        if script.vocab_size == 0 {
            return Err(bad("vocab_size must be at least 1".into()));
        }
        let chances = |r: &Rule| {
            r.chances.values().all(|p| (0. ..=1.).contains(p)) && r.chances.values().sum::<f64>() <= 1. + 1e-9
        };
        if !script.answer.iter().all(chances) {
            return Err(bad("the chances of a rule are between 0 and 1, and at most 1 together".into()));
        }
        if script.answer.iter().any(|r| r.text.all().is_empty()) {
            return Err(bad("a rule has an empty list of texts".into()));
        }
        Ok(script)
    }
}

impl Texts {
    fn all(&self) -> &[String] {
        match self {
            Texts::One(text) => std::slice::from_ref(text),
            Texts::Many(texts) => texts,
        }
    }
}

/// An engine that plays a [`Script`]. Calls from several threads wait side by side.
pub struct Scripted {
    script: Script,
    id: String,
    counters: Counters,
}

/// An engine that plays the script in the given TOML text.
///
/// # Errors
/// As [`Script::parse`].
///
/// ```
/// use reflux::cancel::CancelFlag;
/// use reflux::data::RngKey;
/// use reflux::engine::{Engine, Message, Request, Sampling, scripted};
///
/// let engine = scripted("[[answer]]\ntext = \"The Danube.\"\n")?;
/// let request = Request {
///     messages: vec![Message::new("user", "Name a river.")],
///     sampling: Sampling::default(),
///     key: RngKey::new(17, "example", 1, "first request", 0),
/// };
/// let answers = engine.generate(vec![request], &CancelFlag::new())?;
/// assert_eq!(answers[0].as_ref().unwrap().text, "The Danube.");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn scripted(toml: &str) -> Result<Scripted> {
    let script = Script::parse(toml)?;
    Ok(Scripted { script, id: format!("script:{}", hash_hex([toml])), counters: Counters::default() })
}

impl Scripted {
    fn answer(&self, request: &Request) -> Answer {
        if let Some(error) = problem(request) {
            return Err(error);
        }
        let rule = self.rule(&request.messages)?;
        // The key is a hash, so its bytes are random enough as they are.
        let [a, b, c] =
            [0, 8, 16].map(|at| request.key.0[at..at + 8].iter().fold(0u64, |n, &byte| n << 8 | u64::from(byte)));
        let texts = rule.text.all();
        let mut text = texts[(a % texts.len() as u64) as usize].clone();
        if text.contains('{') {
            text = text.replace("{n}", &(b % 1_000_000).to_string()).replace("{score}", &(c % 6).to_string());
        }
        if let Some(at) = stop::find(&text, &request.sampling.stop, 0) {
            text.truncate(at);
        }
        let mut finish = Finish::Stop;
        let mut tokens: Vec<u32> = Vec::new();
        let mut end = 0;
        for word in words(&text) {
            if tokens.len() == request.sampling.max_tokens {
                finish = Finish::Length;
                break;
            }
            end += word.len();
            tokens.push(self.token(word));
        }
        text.truncate(end);
        let logprobs = tokens.iter().map(|&t| -0.125 * (1 + t % 16) as f32).collect();
        let prompt = request.messages.iter().flat_map(|m| words(&m.content)).map(|w| self.token(w));
        let prompt_tokens: Arc<[u32]> = prompt.collect();
        add(&self.counters.prompt_tokens, prompt_tokens.len());
        add(&self.counters.generated_tokens, tokens.len());
        Ok(Completion { text, tokens, logprobs, finish, prompt_tokens })
    }

    /// The rule that fits the last message.
    fn rule(&self, messages: &[Message]) -> std::result::Result<&Rule, RequestError> {
        let asked = messages.last().map_or("", |m| m.content.as_str());
        let fits = |r: &&Rule| {
            r.contains.as_ref().is_none_or(|c| asked.contains(c.as_str()))
                && r.starts_with.as_ref().is_none_or(|s| asked.starts_with(s.as_str()))
        };
        self.script.answer.iter().find(fits).ok_or_else(|| {
            let message = "no rule of the script fits the prompt; add one without `match`".into();
            RequestError { code: "no_answer", message }
        })
    }

    fn chances(&self, choice: &ChoiceRequest) -> Probabilities {
        let rule = self.rule(&choice.messages)?;
        if rule.chances.is_empty() {
            let message = "the script's rule for the prompt has no `chances`".into();
            return Err(RequestError { code: "no_answer", message });
        }
        Ok(choice.candidates.iter().map(|c| rule.chances.get(c).copied().unwrap_or(0.)).collect())
    }

    /// Waits as long as a call with this many requests takes.
    fn wait(&self, start: Instant, requests: usize, cancel: &CancelFlag) -> Result<()> {
        let ms = self.script.per_call_ms + self.script.per_request_ms * requests as f64;
        let until = start + Duration::from_secs_f64(ms / 1000.);
        loop {
            if cancel.is_set() {
                return Err(Error::cancelled());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            std::thread::sleep(left.min(POLL_INTERVAL));
        }
        add(&self.counters.requests, requests);
        add(&self.counters.steps, 1);
        self.counters.busy(start.elapsed(), 0.);
        Ok(())
    }

    /// FNV-1a, reduced to the vocabulary.
    fn token(&self, word: &str) -> u32 {
        let hash = word.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
        hash % self.script.vocab_size
    }
}

/// Words, each with the blanks before it. Blanks at the end are a word of their own.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let start = rest.find(|c: char| !c.is_whitespace()).unwrap_or(rest.len());
        let end = rest[start..].find(char::is_whitespace).map_or(rest.len(), |n| start + n);
        let (word, after) = rest.split_at(end);
        rest = after;
        (!word.is_empty()).then_some(word)
    })
}

impl Engine for Scripted {
    fn generate(&self, requests: Vec<Request>, cancel: &CancelFlag) -> Result<Vec<Answer>> {
        let start = Instant::now();
        let mut answers = Vec::with_capacity(requests.len());
        for (i, request) in requests.iter().enumerate() {
            if i % 256 == 0 && cancel.is_set() {
                return Err(Error::cancelled());
            }
            answers.push(self.answer(request));
        }
        self.wait(start, requests.len(), cancel)?;
        Ok(answers)
    }
    fn choose(&self, choices: Vec<ChoiceRequest>, cancel: &CancelFlag) -> Result<Vec<Probabilities>> {
        let start = Instant::now();
        let chances = choices.iter().map(|c| self.chances(c)).collect();
        self.wait(start, choices.len(), cancel)?;
        Ok(chances)
    }
    fn id(&self) -> &str {
        &self.id
    }
    fn stats(&self) -> Stats {
        self.counters.read()
    }
}
