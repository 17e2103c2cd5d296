//! Answers a stream of prompts in its order, with a bounded number of requests in flight.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvError, TryRecvError, never, select, unbounded};

use super::backend::Engine;
use super::request::{Answer, Request};
use super::sampling::Sampling;
use crate::cancel::CancelFlag;
use crate::data::{Id, RngKey};
use crate::error::{Error, Result};
use crate::model::Message;
use crate::threads;

/// A new call is made while fewer requests than this have no answer. It is twice the number of rows that a local engine
/// decodes together by default, so that a request is always ready to take the place of one that ended.
const MAX_IN_FLIGHT: usize = 512;
/// Maximum requests of a call, unless one prompt alone has more. It is small because a prompt waits for its whole call.
const CALL: usize = 32;
/// Maximum calls at a time, including answered ones that wait for an earlier one. A call in flight has a thread.
const CALLS: usize = 64;
/// Time between two checks of the cancel flag.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Options of the requests for the prompts of a stream.
#[derive(Clone, Debug)]
pub struct RequestOptions {
    /// Put before conversations that have no system message.
    pub system: Option<String>,
    /// Answers to each prompt.
    pub samples: u32,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// The draws depend on it.
    pub seed: u64,
}

/// Turns prompts into requests.
///
/// The draws of an answer depend on the seed, the conversation, the sample's number, and the number of earlier
/// prompts with the same conversation. So a prompt's answers do not depend on the other prompts of the stream, and a
/// repeated prompt gets new answers.
pub struct RequestBuilder {
    options: RequestOptions,
    seen: HashMap<Id, u32>,
}

impl RequestBuilder {
    /// A builder with these options.
    pub fn new(options: RequestOptions) -> Self {
        Self { options, seen: HashMap::new() }
    }

    /// A request for each sample.
    pub fn requests(&mut self, mut messages: Vec<Message>) -> Vec<Request> {
        if let Some(system) = &self.options.system
            && messages.first().is_none_or(|m| m.role != "system")
        {
            messages.insert(0, Message::new("system", system));
        }
        let keys: Vec<_> =
            messages.iter().map(|m| m.keys.clone().map(|keys| serde_json::Value::from(keys).to_string())).collect();
        let parts = messages.iter().zip(&keys).flat_map(|(m, keys)| [&m.role, &m.content].into_iter().chain(keys));
        let id = Id::from_parts(parts);
        // Equal prompts need other draws, or a dataset with repeated prompts would get repeated answers.
        let occurrence = self.seen.entry(id).or_default();
        let row = format!("{id}/{occurrence}");
        *occurrence = occurrence.saturating_add(1);
        let request = |sample| Request {
            messages: messages.clone(),
            sampling: self.options.sampling.clone(),
            key: RngKey::new(self.options.seed, "generate", 0, &row, sample),
        };
        (0..self.options.samples).map(request).collect()
    }
}

/// A prompt of a stream: the caller's tag, and its requests. A prompt without requests only keeps its place.
pub struct PromptRequests<T> {
    /// Given back with the answers.
    pub tag: T,
    /// Answered together.
    pub requests: Vec<Request>,
}

/// Receives the answers to a stream.
pub trait Listener<T> {
    /// Takes the answers to a prompt. Returns whether to continue.
    ///
    /// # Errors
    /// An error ends the stream and is returned.
    fn answered(&mut self, tag: T, answers: Vec<Answer>) -> Result<bool>;

    /// Called when nothing happened for a moment, for example to show the engine's progress.
    fn waiting(&mut self) {}
}

impl<T, F: FnMut(T, Vec<Answer>) -> Result<bool>> Listener<T> for F {
    fn answered(&mut self, tag: T, answers: Vec<Answer>) -> Result<bool> {
        self(tag, answers)
    }
}

/// The prompts of a call, each with its number of requests.
type Tags<T> = Vec<(T, usize)>;

/// Answers the prompts that come through `prompts` until its other end is dropped, and gives each with its answers to
/// the `listener`, in the order in which they came and as soon as the prompts before it are answered. Returns when
/// all are, or when the listener says false, or fails: `cancel` is set then, to end what is still at work.
///
/// # Errors
/// Cancelled, the engine failed, or what came through `prompts` or from the listener.
pub fn answer_in_order<T: Send>(
    engine: &dyn Engine,
    prompts: &Receiver<Result<PromptRequests<T>>>,
    cancel: &CancelFlag,
    listener: &mut impl Listener<T>,
) -> Result<()> {
    std::thread::scope(|scope| {
        let mut work = || -> Result<()> {
            let (done, answered) = unbounded::<(u64, usize, Result<(Tags<T>, Vec<Answer>)>)>();
            let (mut waiting, mut begun, mut given, mut at_work) = (BTreeMap::new(), 0u64, 0u64, 0usize);
            // An error of the stream is returned only after all prompts before it are answered.
            let (mut open, mut broken) = (true, None);
            loop {
                if cancel.is_set() {
                    return Err(Error::cancelled());
                }
                if !open && begun == given {
                    return broken.map_or(Ok(()), Err);
                }
                // Both are bounded: requests keep the engine busy, calls hold a thread each.
                let room = open && at_work < MAX_IN_FLIGHT && begun - given < CALLS as u64;
                let none = never();
                select! {
                    recv(if room { prompts } else { &none }) -> prompt => {
                        let (tags, requests);
                        (tags, requests, open, broken) = gather(prompt, prompts);
                        let (number, count, done) = (begun, requests.len(), done.clone());
                        begun += 1;
                        at_work += count;
                        let body = move || {
                            let answers = call(engine, requests, cancel);
                            // The receiver is gone once the stream has failed.
                            let _ = done.send((number, count, answers.map(|a| (tags, a))));
                        };
                        let start = || std::thread::Builder::new().spawn_scoped(scope, body);
                        threads::check_memory(1, threads::STACK).and_then(|()| start()).map_err(|e| Error::no_thread("a thread that waits for answers", e))?;
                    },
                    recv(answered) -> call => if let Ok((number, count, result)) = call {
                        at_work -= count;
                        // Calls may finish in any order, so each waits for those before it.
                        waiting.insert(number, result?);
                    },
                    default(POLL_INTERVAL) => listener.waiting(),
                }
                while let Some((tags, answers)) = waiting.remove(&given) {
                    given += 1;
                    let mut answers = answers.into_iter();
                    for (tag, count) in tags {
                        if !listener.answered(tag, answers.by_ref().take(count).collect())? {
                            cancel.set();
                            return Ok(());
                        }
                    }
                }
            }
        };
        // The scope waits for its threads, so a stream that failed must stop them.
        work().inspect_err(|_| cancel.set())
    })
}

/// Collects the prompts of a call: the first one and those that are already queued. Also returns whether more may
/// follow, or the error that ended the stream.
fn gather<T>(
    first: Result<Result<PromptRequests<T>>, RecvError>,
    prompts: &Receiver<Result<PromptRequests<T>>>,
) -> (Tags<T>, Vec<Request>, bool, Option<Error>) {
    let (mut tags, mut requests) = (Vec::new(), Vec::new());
    let mut next = first.map_err(|_| TryRecvError::Disconnected);
    loop {
        match next {
            Ok(Ok(asked)) => {
                tags.push((asked.tag, asked.requests.len()));
                requests.extend(asked.requests);
            }
            Ok(Err(e)) => return (tags, requests, false, Some(e)),
            Err(TryRecvError::Empty) => return (tags, requests, true, None),
            Err(TryRecvError::Disconnected) => return (tags, requests, false, None),
        }
        if requests.len() >= CALL || tags.len() >= CALL {
            return (tags, requests, true, None);
        }
        next = prompts.try_recv();
    }
}

fn call(engine: &dyn Engine, requests: Vec<Request>, cancel: &CancelFlag) -> Result<Vec<Answer>> {
    if requests.is_empty() {
        return Ok(Vec::new());
    }
    // If the thread ended without sending a result, the stream would wait for it forever.
    let work = AssertUnwindSafe(|| engine.generate(requests, cancel));
    catch_unwind(work).unwrap_or_else(|_| Err(Error::bug("the engine panicked")))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::engine::{ChoiceRequest, Completion, Finish, Probabilities, Stats};

    /// Answers with the question after a time that is longer for earlier calls, and notes how many requests it holds.
    #[derive(Default)]
    struct Slow {
        held: AtomicUsize,
        most: AtomicUsize,
        calls: AtomicUsize,
    }
    impl Engine for Slow {
        fn generate(&self, requests: Vec<Request>, cancel: &CancelFlag) -> Result<Vec<Answer>> {
            let held = self.held.fetch_add(requests.len(), Ordering::SeqCst) + requests.len();
            self.most.fetch_max(held, Ordering::SeqCst);
            let call = self.calls.fetch_add(1, Ordering::SeqCst);
            for _ in 0..(7 - call % 7) {
                if cancel.is_set() {
                    return Err(Error::cancelled());
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            self.held.fetch_sub(requests.len(), Ordering::SeqCst);
            let answer = |r: Request| {
                let text = r.messages[0].content.clone();
                let (tokens, logprobs) = (Vec::new(), Vec::new());
                Ok(Completion { text, tokens, logprobs, finish: Finish::Stop, prompt_tokens: [].into() })
            };
            Ok(requests.into_iter().map(answer).collect())
        }
        fn choose(&self, _: Vec<ChoiceRequest>, _: &CancelFlag) -> Result<Vec<Probabilities>> {
            Ok(Vec::new())
        }
        fn id(&self) -> &str {
            "slow"
        }
        fn stats(&self) -> Stats {
            Stats::default()
        }
    }

    fn builder(samples: u32, system: Option<&str>) -> RequestBuilder {
        RequestBuilder::new(RequestOptions {
            system: system.map(str::to_owned),
            samples,
            sampling: Sampling::default(),
            seed: 1,
        })
    }
    /// Sends that many prompts, every tenth without a request, and a failure after them if there is one.
    fn send(count: usize, samples: u32, fails: bool) -> Receiver<Result<PromptRequests<usize>>> {
        let (sender, prompts) = crossbeam_channel::bounded(50);
        std::thread::spawn(move || {
            let mut builder = builder(samples, None);
            for tag in 0..count {
                let messages = vec![Message::new("user", tag.to_string())];
                let requests = if tag % 10 == 9 { Vec::new() } else { builder.requests(messages) };
                if sender.send(Ok(PromptRequests { tag, requests })).is_err() {
                    return;
                }
            }
            if fails {
                let _ = sender.send(Err(Error::user("the file ends in the middle")));
            }
        });
        prompts
    }

    #[test]
    fn order_and_bounds() {
        let engine = Slow::default();
        let mut next = 0;
        let all = answer_in_order(
            &engine,
            &send(3000, 3, false),
            &CancelFlag::new(),
            &mut |tag: usize, answers: Vec<Answer>| {
                assert_eq!(tag, next);
                next += 1;
                assert_eq!(answers.len(), if tag % 10 == 9 { 0 } else { 3 });
                assert!(answers.iter().all(|a| a.as_ref().unwrap().text == tag.to_string()));
                Ok(true)
            },
        );
        assert!(all.is_ok() && next == 3000);
        let most = engine.most.into_inner();
        assert!(most > CALL && most < MAX_IN_FLIGHT + CALL + 3, "{most} requests at a time");
    }

    #[test]
    fn a_stream_ends_early() {
        let engine = Slow::default();
        let mut seen = 0;
        let cancel = CancelFlag::new();
        answer_in_order(&engine, &send(3000, 1, false), &cancel, &mut |_, _: Vec<Answer>| {
            seen += 1;
            Ok(seen < 40)
        })
        .unwrap();
        assert!(seen == 40 && cancel.is_set());
        let of = |fails, result: fn() -> Result<bool>| {
            answer_in_order(&engine, &send(30, 1, fails), &CancelFlag::new(), &mut |_, _: Vec<Answer>| result())
                .unwrap_err()
                .to_string()
        };
        assert_eq!(of(false, || Err(Error::system("the disk is full"))), "the disk is full");
        assert_eq!(of(true, || Ok(true)), "the file ends in the middle");
        let cancel = CancelFlag::new();
        let (_sender, silent) = crossbeam_channel::bounded::<Result<PromptRequests<()>>>(1);
        cancel.set();
        let e = answer_in_order(&engine, &silent, &cancel, &mut |(), _: Vec<Answer>| Ok(true)).unwrap_err();
        assert_eq!(e.kind(), crate::error::ErrorKind::Cancelled);
    }

    #[test]
    fn draws_depend_on_the_conversation_and_its_occurrence() {
        let ask = |builder: &mut RequestBuilder, text: &str| builder.requests(vec![Message::new("user", text)]);
        let keys = |requests: Vec<Request>| requests.into_iter().map(|r| r.key).collect::<Vec<_>>();
        let mut one = builder(2, None);
        let (a, b, again) = (keys(ask(&mut one, "a")), keys(ask(&mut one, "b")), keys(ask(&mut one, "a")));
        let mut other = builder(3, None);
        let (b2, a2) = (keys(ask(&mut other, "b")), keys(ask(&mut other, "a")));
        assert!(a == a2[..2] && b == b2[..2]);
        let mut all = [a, b, again].concat();
        all.extend(keys(ask(&mut builder(1, Some("s")), "a")));
        assert!((1..all.len()).all(|i| !all[..i].contains(&all[i])), "{all:?}");
    }

    #[test]
    fn a_system_message_is_put_where_there_is_none() {
        let mut builder = builder(1, Some("be kind"));
        let first = |r: Vec<Request>| r[0].messages.iter().map(|m| m.content.clone()).collect::<Vec<_>>();
        assert_eq!(first(builder.requests(vec![Message::new("user", "a")])), ["be kind", "a"]);
        let own = vec![Message::new("system", "be brief"), Message::new("user", "a")];
        assert_eq!(first(builder.requests(own)), ["be brief", "a"]);
    }
}
