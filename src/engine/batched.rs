//! [`BatchedEngine`]: a Llama on this machine, run by one thread that all callers share.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use rayon::ThreadPool;

use super::backend::{ModelSize, TokenEngine};
use super::codec::Codec;
use super::config::EngineConfig;
use super::encoded::{EncodedRequest, RowResult, ScoreRequest, ScoreResult, TokenListener, TokenScores};
use super::kv::{BLOCK, CacheShape};
use super::scheduler::{Scheduler, SchedulerLimits, SequenceOutput};
use super::stats::{Counters, Stats, add};
use super::task::RowTask;
use crate::cancel::CancelFlag;
use crate::error::{Error, ErrorContext, Result};
use crate::model::{Llama, Model};
use crate::threads;

/// A Llama on this machine. Dropping it ends its thread.
pub struct BatchedEngine {
    id: String,
    /// Hash of the tokenizer.
    tokenizer: Option<String>,
    codec: Arc<dyn Codec>,
    counters: Arc<Counters>,
    /// Why the thread ended early, if it did.
    failure: Arc<Mutex<Option<String>>>,
    size: ModelSize,
    calls: Option<Sender<EngineCall>>,
    thread: Option<JoinHandle<()>>,
}

/// A call of [`TokenEngine::run`] or [`TokenEngine::score`].
struct EngineCall {
    rows: Vec<RowTask>,
    cancel: CancelFlag,
    reply: Sender<Result<Vec<SequenceOutput>>>,
}

/// A call whose requests are in the scheduler.
struct OpenCall {
    cancel: CancelFlag,
    reply: Sender<Result<Vec<SequenceOutput>>>,
    left: usize,
    outputs: Vec<SequenceOutput>,
}

impl BatchedEngine {
    /// Starts an engine for the model's weights as they are.
    ///
    /// # Errors
    /// The cache does not fit the device, or a thread could not be started.
    pub fn spawn(model: Model, config: EngineConfig) -> Result<Self> {
        let llama = model.llama.for_inference().doing(|| format!("model {}", model.name))?;
        Self::with_codec(Arc::new(llama), Arc::new(model.tokenizer), model.hash, &config)
    }

    /// As [`BatchedEngine::spawn`], from parts. `id` is what [`TokenEngine::id`] returns.
    ///
    /// # Errors
    /// As [`BatchedEngine::spawn`].
    pub fn with_codec(llama: Arc<Llama>, codec: Arc<dyn Codec>, id: String, config: &EngineConfig) -> Result<Self> {
        let shape = CacheShape::from_config(llama.config());
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
        let limits = SchedulerLimits { max_rows, prefill_chunk: config.prefill_chunk.max(1), blocks };
        let size = ModelSize { context: positions, vocab: llama.config().vocab_size };
        let counters = Arc::new(Counters::default());
        let failure = Arc::new(Mutex::new(None));
        let scheduler = {
            let (codec, counters) = (codec.clone(), counters.clone());
            move || Scheduler::new(llama.clone(), codec.clone(), counters.clone(), limits)
        };
        let pool = config.pool.clone();
        // On the caller's thread, so that a cache that does not fit is an error of `spawn`.
        let first = scheduler()?;
        // Unbounded: each caller waits for its answer, so there are never more calls than callers.
        let (calls, inbox) = unbounded();
        let noted = failure.clone();
        let body = move || {
            // Outlives a panic, so that the callers' channels close only after the reason is recorded.
            let mut open = BTreeMap::new();
            let work = AssertUnwindSafe(|| serve(first, &scheduler, pool.as_deref(), &inbox, &mut open));
            if let Err(payload) = catch_unwind(work) {
                let text = payload.downcast_ref::<&str>().map(ToString::to_string);
                let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
                *noted.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some(text.unwrap_or_else(|| "no message".into()));
            }
        };
        let start = || std::thread::Builder::new().name("engine".into()).spawn(body);
        let thread = threads::check_memory(1, threads::STACK)
            .and_then(|()| start())
            .map_err(|e| Error::no_thread("the engine's thread", e))?;
        let tokenizer = codec.hash();
        Ok(Self { id, tokenizer, codec, counters, failure, size, calls: Some(calls), thread: Some(thread) })
    }

    /// Sends rows to the thread and waits for their outputs.
    fn outputs(&self, rows: Vec<RowTask>, cancel: &CancelFlag) -> Result<Vec<SequenceOutput>> {
        // The thread replies after the last output, so a call without rows would have no reply.
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        // A call gets exactly one reply, so sending it never blocks the engine.
        let (reply, answer) = bounded(1);
        let calls = self.calls.as_ref().ok_or_else(|| self.gone())?;
        calls.send(EngineCall { rows, cancel: cancel.clone(), reply }).map_err(|_| self.gone())?;
        answer.recv().map_err(|_| self.gone())?
    }

    fn answers(
        &self,
        rows: Vec<EncodedRequest>,
        listener: Option<&TokenListener>,
        cancel: &CancelFlag,
    ) -> Result<Vec<RowResult>> {
        let tasks = rows.into_iter().map(|row| RowTask::answer(row, listener.cloned())).collect();
        let outputs = self.outputs(tasks, cancel)?;
        Ok(outputs.into_iter().map(|o| (o.owner.1, o.result)).collect())
    }

    fn gone(&self) -> Error {
        let reason = self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Error::bug(format!("the engine's thread panicked: {}", reason.as_deref().unwrap_or("no message")))
    }
}

impl TokenEngine for BatchedEngine {
    fn codec(&self) -> &dyn Codec {
        &*self.codec
    }
    fn run(&self, rows: Vec<EncodedRequest>, cancel: &CancelFlag) -> Result<Vec<RowResult>> {
        self.answers(rows, None, cancel)
    }
    fn run_streaming(
        &self,
        rows: Vec<EncodedRequest>,
        listener: TokenListener,
        cancel: &CancelFlag,
    ) -> Result<Vec<RowResult>> {
        self.answers(rows, Some(&listener), cancel)
    }
    /// One pass over all tokens. Keys and values of a known beginning are not computed again.
    fn score(&self, rows: Vec<ScoreRequest>, cancel: &CancelFlag) -> Result<Vec<ScoreResult>> {
        let outputs = self.outputs(rows.into_iter().map(RowTask::score).collect(), cancel)?;
        let scores = |o: SequenceOutput| {
            let top = o.likeliest;
            (o.owner.1, o.result.map(|done| TokenScores { logprobs: done.logprobs, top }))
        };
        Ok(outputs.into_iter().map(scores).collect())
    }
    fn size(&self) -> Option<ModelSize> {
        Some(self.size)
    }
    fn count(&self, requests: usize) {
        add(&self.counters.requests, requests);
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
        // Closes the channel, which ends the thread's loop.
        self.calls = None;
        if let Some(thread) = self.thread.take() {
            // The thread catches its panics, so the join cannot fail.
            let _ = thread.join();
        }
    }
}

/// The loop of the engine thread: takes calls, runs steps, and sends replies. It returns when the engine is dropped.
fn serve(
    mut scheduler: Scheduler,
    fresh: &impl Fn() -> Result<Scheduler>,
    pool: Option<&ThreadPool>,
    inbox: &Receiver<EngineCall>,
    open: &mut BTreeMap<u64, OpenCall>,
) {
    let mut number = 0;
    loop {
        if scheduler.is_idle() {
            match inbox.recv() {
                Ok(call) => accept(&mut scheduler, call, open, &mut number),
                Err(_) => return,
            }
        }
        // All calls that have arrived join the next step together.
        while let Ok(call) = inbox.try_recv() {
            accept(&mut scheduler, call, open, &mut number);
        }
        let cancelled: Vec<u64> = open.iter().filter(|(_, o)| o.cancel.is_set()).map(|(&n, _)| n).collect();
        for n in cancelled {
            scheduler.remove(n);
            if let Some(o) = open.remove(&n) {
                // The send fails only if the caller is gone.
                let _ = o.reply.send(Err(Error::cancelled()));
            }
        }
        // Runs inside the pool: otherwise each parallel part of a step would have to wake a thread.
        let result = match pool {
            Some(pool) => pool.install(|| scheduler.step()),
            None => rayon::scope(|_| scheduler.step()),
        };
        match result {
            Ok(outputs) => outputs.into_iter().for_each(|o| settle(o, open)),
            Err(e) => {
                // The failed step may have left the scheduler in any state. All callers get the error, and a new
                // scheduler takes its place.
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

fn accept(scheduler: &mut Scheduler, call: EngineCall, open: &mut BTreeMap<u64, OpenCall>, number: &mut u64) {
    let n = *number;
    *number += 1;
    open.insert(n, OpenCall { cancel: call.cancel, reply: call.reply, left: call.rows.len(), outputs: Vec::new() });
    for request in call.rows {
        if let Some(output) = scheduler.submit(n, request) {
            settle(output, open);
        }
    }
}

/// Records an output, and replies to its call if it was the last one.
fn settle(output: SequenceOutput, open: &mut BTreeMap<u64, OpenCall>) {
    let n = output.owner.0;
    let Some(o) = open.get_mut(&n) else { return };
    o.outputs.push(output);
    o.left -= 1;
    if o.left == 0
        && let Some(o) = open.remove(&n)
    {
        let _ = o.reply.send(Ok(o.outputs));
    }
}
