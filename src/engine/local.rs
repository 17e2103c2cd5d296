//! [`BatchedEngine`]: a Llama on this machine, run by one thread that all callers share.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use rayon::ThreadPool;

use super::answer::{self, Encoded, completion, encode};
use super::kv::{BLOCK, Shape};
use super::scheduler::{Limits, Scheduler, SequenceOutput, SequenceRequest};
use super::stats::{Counters, add};
use super::{Answer, ChoiceRequest, Engine, Probabilities, Request, Sampling, Stats};
use crate::cancel::CancelFlag;
use crate::error::{Context, Error, Result};
use crate::jinja::DateTime;
use crate::model::{Llama, Message, Model, Tokenizer};

/// What the engine needs of a tokenizer.
pub trait Codec: Send + Sync {
    /// Token ids of a conversation, up to where the answer begins.
    ///
    /// # Errors
    /// The chat template refused the messages.
    fn encode(&self, messages: &[Message]) -> Result<Vec<u32>>;
    /// Token ids of text that goes on within an answer. Never special ones.
    ///
    /// # Errors
    /// The tokenizer cannot encode it.
    fn encode_more(&self, text: &str) -> Result<Vec<u32>>;
    /// Token ids of text that begins the answer to a conversation. Never special ones.
    ///
    /// # Errors
    /// The chat template refused the messages, or the tokenizer cannot encode the text.
    fn encode_beginning(&self, messages: &[Message], text: &str) -> Result<Vec<u32>> {
        let _ = messages;
        self.encode_more(text)
    }
    /// The text of tokens, special ones left out.
    fn decode(&self, tokens: &[u32]) -> String;
    /// Tokens that end an answer.
    fn eos_ids(&self) -> &[u32];
    /// Hash of the tokenizer and its chat template, if it has one.
    fn hash(&self) -> Option<String> {
        None
    }
}

impl Codec for Tokenizer {
    fn encode(&self, messages: &[Message]) -> Result<Vec<u32>> {
        self.encode_chat(messages, true)
    }
    fn encode_more(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_later(text)
    }
    fn encode_beginning(&self, messages: &[Message], text: &str) -> Result<Vec<u32>> {
        self.encode_answer_beginning(messages, text)
    }
    fn decode(&self, tokens: &[u32]) -> String {
        Tokenizer::decode(self, tokens)
    }
    fn eos_ids(&self) -> &[u32] {
        Tokenizer::eos_ids(self)
    }
    fn hash(&self) -> Option<String> {
        Some(Tokenizer::hash(self).to_owned())
    }
}

/// Settings of a local engine. None but the date changes what a request gets.
#[derive(Clone, Debug)]
pub struct Config {
    /// Most rows of a step, and most sequences at once.
    pub max_rows: usize,
    /// Most prompt rows of a step.
    pub prefill_chunk: usize,
    /// Bytes for cached keys and values of all sequences together. A single sequence that needs more gets more.
    pub kv_memory: u64,
    /// What chat templates see as the present time, see [`Tokenizer::with_date`].
    pub date: Option<DateTime>,
    /// Threads that compute; rayon's global pool (one per core) if none are given. Engines may share them.
    pub pool: Option<Arc<ThreadPool>>,
}

impl Config {
    /// With this many threads of its own, started now, with the priority of whoever calls; `None` changes nothing.
    ///
    /// # Errors
    /// The threads could not be started.
    pub fn with_threads(self, threads: Option<usize>) -> Result<Self> {
        let Some(threads) = threads else { return Ok(self) };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.max(1)).build();
        let pool = pool.map_err(|e| Error::no_thread("the engine's threads", e))?;
        Ok(Self { pool: Some(Arc::new(pool)), ..self })
    }
}

impl Default for Config {
    fn default() -> Self {
        Self { max_rows: 256, prefill_chunk: 256, kv_memory: default_kv_memory(), date: None, pool: None }
    }
}

/// A quarter of the memory that this process can have now, at most 8 GiB; 1 GiB where the system does not say.
fn default_kv_memory() -> u64 {
    const GIB: u64 = 1 << 30;
    let text = |path: &str| std::fs::read_to_string(path).ok();
    let kib = |text: String, key: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(key))?.trim().strip_suffix("kB")?.trim().parse::<u64>();
        Some(line.ok()?.saturating_mul(1024))
    };
    let free = text("/proc/meminfo").and_then(|text| kib(text, "MemAvailable:"));
    // What a container may use, and what `ulimit -v` leaves.
    let group = text("/sys/fs/cgroup/memory.max").and_then(|text| text.trim().parse::<u64>().ok());
    let used = text("/sys/fs/cgroup/memory.current").and_then(|text| text.trim().parse::<u64>().ok());
    let group = group.map(|most| most.saturating_sub(used.unwrap_or(0)));
    let address = text("/proc/self/limits").and_then(|text| {
        let line = text.lines().find_map(|l| l.strip_prefix("Max address space"))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    });
    let mapped = text("/proc/self/status").and_then(|text| kib(text, "VmSize:"));
    let address = address.map(|most| most.saturating_sub(mapped.unwrap_or(0)));
    [free, group, address].into_iter().flatten().min().map_or(GIB, |bytes| (bytes / 4).min(8 * GIB))
}

/// A Llama on this machine. Dropping it ends its thread.
pub struct BatchedEngine {
    id: String,
    /// Hash of the tokenizer.
    tokenizer: Option<String>,
    codec: Arc<dyn Codec>,
    counters: Arc<Counters>,
    /// Why the thread ended early, if it did.
    failure: Arc<Mutex<Option<String>>>,
    calls: Option<Sender<Call>>,
    thread: Option<JoinHandle<()>>,
}

/// One call of [`Engine::generate`], with prompts encoded.
struct Call {
    rows: Vec<Encoded>,
    cancel: CancelFlag,
    reply: Sender<Result<Vec<SequenceOutput>>>,
}

/// A call whose requests are in the scheduler.
struct Open {
    cancel: CancelFlag,
    reply: Sender<Result<Vec<SequenceOutput>>>,
    left: usize,
    outcomes: Vec<SequenceOutput>,
}

impl BatchedEngine {
    /// Starts an engine for the model's weights as they are.
    ///
    /// # Errors
    /// The cache does not fit the device, or a thread could not be started.
    pub fn spawn(model: Model, config: Config) -> Result<Self> {
        let llama = model.llama.for_inference().doing(|| format!("model {}", model.name))?;
        Self::with_codec(Arc::new(llama), Arc::new(model.tokenizer), model.hash, &config)
    }

    /// As [`BatchedEngine::spawn`], from parts. `id` is what [`Engine::id`] returns.
    ///
    /// # Errors
    /// As [`BatchedEngine::spawn`].
    pub fn with_codec(llama: Arc<Llama>, codec: Arc<dyn Codec>, id: String, config: &Config) -> Result<Self> {
        let shape = Shape::of(llama.config());
        let (max_rows, positions) = (config.max_rows.max(1), llama.config().max_position_embeddings);
        // More than all rows at full length is never needed.
        let most = max_rows.saturating_mul(positions.div_ceil(BLOCK) + 1);
        let bytes = shape.block_bytes().max(1) as u64;
        let blocks = usize::try_from(config.kv_memory / bytes).unwrap_or(usize::MAX).min(most).min(u32::MAX as usize);
        if blocks == 0 {
            return Err(Error::user(format!(
                "kv_memory is {} bytes, not enough for one block of {BLOCK} tokens ({bytes} bytes)",
                config.kv_memory
            ))
            .help("raise engine.kv_memory"));
        }
        let limits = Limits { max_rows, prefill_chunk: config.prefill_chunk.max(1), blocks };
        let counters = Arc::new(Counters::default());
        let failure = Arc::new(Mutex::new(None));
        let scheduler = {
            let (codec, counters) = (codec.clone(), counters.clone());
            move || Scheduler::new(llama.clone(), codec.clone(), counters.clone(), limits)
        };
        let pool = config.pool.clone();
        let first = scheduler()?;
        let (calls, inbox) = unbounded();
        let noted = failure.clone();
        let thread = std::thread::Builder::new().name("engine".into()).spawn(move || {
            // Outside of what may panic, so that its callers are answered after the reason is noted.
            let mut open = BTreeMap::new();
            let work = AssertUnwindSafe(|| serve(first, &scheduler, pool.as_deref(), &inbox, &mut open));
            if let Err(payload) = catch_unwind(work) {
                let text = payload.downcast_ref::<&str>().map(ToString::to_string);
                let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
                *noted.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some(text.unwrap_or_else(|| "no message".into()));
            }
        });
        let thread = thread.map_err(|e| Error::no_thread("the engine's thread", e))?;
        let tokenizer = codec.hash();
        Ok(Self { id, tokenizer, codec, counters, failure, calls: Some(calls), thread: Some(thread) })
    }

    /// Hands rows to the thread and waits for what becomes of them.
    fn call(&self, rows: Vec<Encoded>, cancel: &CancelFlag) -> Result<Vec<SequenceOutput>> {
        let (reply, answer) = bounded(1);
        let calls = self.calls.as_ref().ok_or_else(|| self.gone())?;
        calls.send(Call { rows, cancel: cancel.clone(), reply }).map_err(|_| self.gone())?;
        answer.recv().map_err(|_| self.gone())?
    }

    fn gone(&self) -> Error {
        let reason = self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Error::bug(format!("the engine's thread panicked: {}", reason.as_deref().unwrap_or("no message")))
    }
}

impl Engine for BatchedEngine {
    fn generate(&self, requests: Vec<Request>, cancel: &CancelFlag) -> Result<Vec<Answer>> {
        add(&self.counters.requests, requests.len());
        let mut answers: Vec<Option<Answer>> = vec![None; requests.len()];
        let rows = encode(&*self.codec, requests, &mut answers);
        let sent: BTreeMap<usize, (Arc<[u32]>, Arc<Sampling>)> =
            rows.iter().map(|r| (r.row, (r.prompt.clone(), r.sampling.clone()))).collect();
        if !rows.is_empty() {
            for outcome in self.call(rows, cancel)? {
                let row = outcome.owner.1;
                let Some((prompt, sampling)) = sent.get(&row) else { continue };
                answers[row] = Some(outcome.result.map(|s| completion(&*self.codec, prompt, sampling, s)));
            }
        }
        answers
            .into_iter()
            .map(|a| a.ok_or_else(|| Error::bug("the engine left a request without an answer")))
            .collect()
    }
    fn choose(&self, choices: Vec<ChoiceRequest>, cancel: &CancelFlag) -> Result<Vec<Probabilities>> {
        add(&self.counters.requests, choices.len());
        answer::choose(&*self.codec, &choices, |rows| {
            Ok(self.call(rows, cancel)?.into_iter().map(|o| (o.owner.1, o.result)).collect())
        })
    }
    fn id(&self) -> &str {
        &self.id
    }
    fn tokenizer(&self) -> Option<&str> {
        self.tokenizer.as_deref()
    }
    fn stats(&self) -> Stats {
        self.counters.read()
    }
}

impl Drop for BatchedEngine {
    fn drop(&mut self) {
        self.calls = None;
        if let Some(thread) = self.thread.take() {
            // The thread catches its panics, so it ends well.
            let _ = thread.join();
        }
    }
}

/// The engine thread: takes calls, steps, answers; returns when the engine is dropped.
fn serve(
    mut scheduler: Scheduler,
    fresh: &impl Fn() -> Result<Scheduler>,
    pool: Option<&ThreadPool>,
    inbox: &Receiver<Call>,
    open: &mut BTreeMap<u64, Open>,
) {
    let mut number = 0;
    loop {
        if scheduler.is_idle() {
            match inbox.recv() {
                Ok(call) => accept(&mut scheduler, call, open, &mut number),
                Err(_) => return,
            }
        }
        while let Ok(call) = inbox.try_recv() {
            accept(&mut scheduler, call, open, &mut number);
        }
        let cancelled: Vec<u64> = open.iter().filter(|(_, o)| o.cancel.is_set()).map(|(&n, _)| n).collect();
        for n in cancelled {
            scheduler.remove(n);
            if let Some(o) = open.remove(&n) {
                // The caller waits for this, or is gone and needs nothing.
                let _ = o.reply.send(Err(Error::cancelled()));
            }
        }
        // Inside of the pool, so that a step's many parallel parts start without waking a thread for each.
        let result = match pool {
            Some(pool) => pool.install(|| scheduler.step()),
            None => rayon::scope(|_| scheduler.step()),
        };
        match result {
            Ok(outcomes) => outcomes.into_iter().for_each(|o| settle(o, open)),
            Err(e) => {
                // What the step left behind is unknown: everybody is told, and it starts afresh.
                for (_, o) in std::mem::take(open) {
                    let _ = o.reply.send(Err(Error::new(e.kind(), format!("the model failed: {e}"))));
                }
                match fresh() {
                    Ok(new) => scheduler = new,
                    Err(_) => return,
                }
            }
        }
    }
}

fn accept(scheduler: &mut Scheduler, call: Call, open: &mut BTreeMap<u64, Open>, number: &mut u64) {
    let n = *number;
    *number += 1;
    open.insert(n, Open { cancel: call.cancel, reply: call.reply, left: call.rows.len(), outcomes: Vec::new() });
    for Encoded { row, prompt, sampling, key, wanted } in call.rows {
        if let Some(outcome) = scheduler.submit(SequenceRequest { owner: (n, row), prompt, sampling, key, wanted }) {
            settle(outcome, open);
        }
    }
}

/// Files an outcome, and answers its call if it was the last.
fn settle(outcome: SequenceOutput, open: &mut BTreeMap<u64, Open>) {
    let n = outcome.owner.0;
    let Some(o) = open.get_mut(&n) else { return };
    o.outcomes.push(outcome);
    o.left -= 1;
    if o.left == 0
        && let Some(o) = open.remove(&n)
    {
        let _ = o.reply.send(Ok(o.outcomes));
    }
}
