//! Answers as server-sent events.

use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use serde_json::{Value, json};

use super::api_error::ApiError;
use super::completions::{echoed, usage};
use super::job::{Interface, ServeJob};
use super::logprobs::{ScoredToken, TokenNames};
use super::state::ServerState;
use crate::cancel::CancelFlag;
use crate::engine::{Completion, NewToken, RowResult, TokenListener};
use crate::error::{Error, Result};
use crate::threads;

/// Time between two looks at whether the server stops.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// What the engine's thread tells.
enum StreamEvent {
    Token(NewToken),
    Done(Result<Vec<RowResult>>),
}

/// An answer in progress.
#[derive(Default)]
struct AnswerProgress {
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
    /// The text that was sent.
    sent: String,
    /// How many tokens belong to it.
    sent_tokens: usize,
    /// Number of characters of these tokens.
    offset: usize,
}

/// Runs a job and sends its events. `send` returns whether the client still listens.
pub(super) fn run(state: &ServerState, job: &ServeJob, cancel: &CancelFlag, send: &dyn Fn(String) -> bool) {
    state.engine.count(job.prompts.len() * job.options.n);
    let outcome = std::thread::scope(|scope| {
        let (sender, events) = mpsc::channel();
        let tokens = sender.clone();
        let listener: TokenListener = Arc::new(move |token| {
            // Nobody listens once the client is gone.
            let _ = tokens.send(StreamEvent::Token(token));
        });
        let work = move || {
            let _ = sender.send(StreamEvent::Done(state.engine.run_streaming(job.rows(), listener, cancel)));
        };
        let start = || std::thread::Builder::new().name("stream".into()).spawn_scoped(scope, work);
        threads::check_memory(1, threads::STACK)
            .and_then(|()| start())
            .map_err(|e| ApiError::from(Error::no_thread("the thread of a stream", e)))?;
        follow(state, job, cancel, &events, send)
    });
    let failed = outcome.err().map(|e| e.body());
    if let Some(body) = failed {
        send(event(&body));
    }
    send("data: [DONE]\n\n".into());
}

/// Sends tokens as they come, and the ends of the answers.
fn follow(
    state: &ServerState,
    job: &ServeJob,
    cancel: &CancelFlag,
    events: &mpsc::Receiver<StreamEvent>,
    send: &dyn Fn(String) -> bool,
) -> std::result::Result<(), ApiError> {
    let mut open: BTreeMap<usize, AnswerProgress> = BTreeMap::new();
    let tell = |value: &Value| {
        if !send(event(value)) {
            cancel.set();
        }
    };
    for row in 0..job.prompts.len() * job.options.n {
        begin(state, job, row, &tell);
    }
    loop {
        if *state.stopping.borrow() {
            cancel.set();
        }
        let first = match events.recv_timeout(POLL_INTERVAL) {
            Ok(event) => event,
            Err(mpsc::RecvTimeoutError::Timeout) => continue,
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                return Err(Error::bug("the thread of a stream panicked").into());
            }
        };
        let mut changed = Vec::new();
        for next in std::iter::once(first).chain(events.try_iter()) {
            match next {
                StreamEvent::Token(new) => {
                    let progress = open.entry(new.row).or_default();
                    progress.tokens.push(new.token);
                    progress.logprobs.push(new.logprob);
                    changed.push(new.row);
                }
                StreamEvent::Done(results) => {
                    let answers = job.answers(state, results?)?;
                    for (row, answer) in answers.iter().enumerate() {
                        end(state, job, row, open.remove(&row).unwrap_or_default(), answer, &tell)?;
                    }
                    if job.options.stream_usage {
                        let mut last = frame(state, job, Vec::new());
                        last["usage"] = usage(job, &answers);
                        tell(&last);
                    }
                    return Ok(());
                }
            }
        }
        changed.sort_unstable();
        changed.dedup();
        for row in changed {
            if let Some(progress) = open.get_mut(&row) {
                go_on(state, job, row, progress, &tell);
            }
        }
    }
}

/// Sends what comes before the first token.
fn begin(state: &ServerState, job: &ServeJob, row: usize, tell: &dyn Fn(&Value)) {
    let prompt = &job.prompts[row / job.options.n];
    let mut choice = match job.interface {
        Interface::Chat => {
            json!({ "index": row, "delta": { "role": "assistant", "content": "" }, "finish_reason": null })
        }
        Interface::Completions if job.echo => {
            json!({ "index": row, "text": echoed(state, prompt), "logprobs": null, "finish_reason": null })
        }
        Interface::Completions => return,
    };
    if job.options.token_ids {
        choice["prompt_token_ids"] = json!(prompt.ids[..]);
    }
    tell(&frame(state, job, vec![choice]));
}

/// Sends the text that can no longer change.
fn go_on(state: &ServerState, job: &ServeJob, row: usize, progress: &mut AnswerProgress, tell: &dyn Fn(&Value)) {
    // The newest token may end the answer, and then has no text.
    let sure = progress.tokens.len().saturating_sub(1);
    let text = state.engine.codec().decode(&progress.tokens[..sure]);
    let whole = &text[..settled(&text, &job.options.sampling.stop)];
    let Some(new) = whole.strip_prefix(progress.sent.as_str()).filter(|new| !new.is_empty()) else { return };
    let sent = progress.sent_tokens..sure;
    let piece = AnswerPiece {
        text: new,
        tokens: &progress.tokens[sent.clone()],
        logprobs: &progress.logprobs[sent],
        offset: progress.offset,
        finish: None,
    };
    let (choice, offset) = piece.choice(state, job, row);
    progress.offset = offset;
    progress.sent_tokens = sure;
    progress.sent = whole.to_owned();
    tell(&frame(state, job, vec![choice]));
}

/// The length of the text before an incomplete character and before what may begin a stop string.
fn settled(text: &str, stop: &[String]) -> usize {
    let end = text.trim_end_matches('\u{fffd}').len();
    let mut least = end;
    for stop in stop {
        // A stop string may be in the text already, because the answer is told to end a moment later.
        if let Some(at) = text.find(stop.as_str()) {
            least = least.min(at);
        }
        let starts = text.char_indices().map(|(at, _)| at).filter(|at| text.len() - at < stop.len());
        if let Some(at) = starts.into_iter().find(|&at| stop.starts_with(&text[at..])) {
            least = least.min(at);
        }
    }
    least
}

/// Sends the end of an answer.
fn end(
    state: &ServerState,
    job: &ServeJob,
    row: usize,
    progress: AnswerProgress,
    answer: &Completion,
    tell: &dyn Fn(&Value),
) -> std::result::Result<(), ApiError> {
    let Some(rest) = answer.text.strip_prefix(progress.sent.as_str()) else {
        return Err(Error::system("the text of the answer changed after a part of it was sent").into());
    };
    let first = progress.sent_tokens.min(answer.tokens.len());
    let last = AnswerPiece {
        text: rest,
        tokens: &answer.tokens[first..],
        logprobs: &answer.logprobs[first..],
        offset: progress.offset,
        finish: Some(answer.finish.as_str()),
    };
    tell(&frame(state, job, vec![last.choice(state, job, row).0]));
    Ok(())
}

/// A part of an answer.
struct AnswerPiece<'a> {
    text: &'a str,
    tokens: &'a [u32],
    logprobs: &'a [f32],
    /// Number of characters of the tokens before these.
    offset: usize,
    finish: Option<&'static str>,
}

impl AnswerPiece<'_> {
    /// The piece as a choice of a frame, and the number of characters up to its end.
    fn choice(&self, state: &ServerState, job: &ServeJob, row: usize) -> (Value, usize) {
        let names = TokenNames { codec: state.engine.codec(), ids: job.options.names_are_ids };
        let scored = self.tokens.iter().zip(self.logprobs);
        let scored: Vec<ScoredToken<'_>> =
            scored.map(|(&id, &logprob)| ScoredToken { id, logprob: Some(logprob), listed: Vec::new() }).collect();
        let (mut logprobs, mut offset) = (Value::Null, self.offset);
        if job.options.logprobs.is_some() {
            match job.interface {
                Interface::Chat => logprobs = names.chat(&scored),
                Interface::Completions => (logprobs, offset) = names.completion(&scored, self.offset),
            }
        }
        let (text, finish) = (self.text, self.finish);
        let mut choice = match job.interface {
            Interface::Chat => {
                json!({ "index": row, "delta": { "content": text }, "logprobs": logprobs, "finish_reason": finish })
            }
            Interface::Completions => {
                json!({ "index": row, "text": text, "logprobs": logprobs, "finish_reason": finish })
            }
        };
        if job.options.token_ids {
            choice["token_ids"] = json!(self.tokens);
        }
        (choice, offset)
    }
}

fn frame(state: &ServerState, job: &ServeJob, choices: Vec<Value>) -> Value {
    let object = match job.interface {
        Interface::Chat => "chat.completion.chunk",
        Interface::Completions => "text_completion",
    };
    let (created, model) = (state.started, &state.name);
    json!({ "id": job.id, "object": object, "created": created, "model": model, "choices": choices })
}

fn event(value: &Value) -> String {
    format!("data: {value}\n\n")
}
