//! Continuous batching: decides which sequences run, and which rows a step has.
//!
//! A step has one row for each sequence that is decoding, and fills up with rows of prompts in order of admission. A
//! sequence is admitted when all blocks that it may need are free or held by no sequence; the others wait in a queue,
//! so the cache never overflows. None of this changes a sequence's numbers: a row's result depends only on its
//! sequence.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::answer;
use super::codec::Codec;
use super::encoded::{EncodedRequest, SampledTokens};
use super::kv::{self, BLOCK, KvStore, Paged};
use super::prefix::Blocks;
use super::request::{Finish, RequestError};
use super::sampling::Scratch;
use super::sequence::{Drawn, Sequence, StepRows};
use super::stats::{Counters, add};
use super::task::RowTask;
use crate::error::{Error, ErrorContext as _, Result};
use crate::model::Llama;
use crate::model::ops::Floats;

/// Rows whose logits are held at once: bounds memory at this many times the vocabulary.
const LOGIT_ROWS: usize = 64;

/// The result of a request.
pub(super) struct SequenceOutput {
    /// The call, and the index in the call.
    pub owner: (u64, usize),
    pub result: std::result::Result<SampledTokens, RequestError>,
    /// The likeliest tokens in place of each token that was scored.
    pub likeliest: Vec<Vec<(u32, f32)>>,
}

/// Limits of the scheduler.
#[derive(Clone, Copy, Debug)]
pub(super) struct SchedulerLimits {
    pub max_rows: usize,
    pub prefill_chunk: usize,
    pub blocks: usize,
}

pub(super) struct Scheduler {
    llama: Arc<Llama>,
    codec: Arc<dyn Codec>,
    counters: Arc<Counters>,
    limits: SchedulerLimits,
    store: Box<dyn KvStore>,
    blocks: Blocks,
    /// Requests with their calls.
    waiting: VecDeque<(u64, RowTask)>,
    running: Vec<Sequence>,
    steps: u64,
}

impl Scheduler {
    pub fn new(
        llama: Arc<Llama>,
        codec: Arc<dyn Codec>,
        counters: Arc<Counters>,
        limits: SchedulerLimits,
    ) -> Result<Self> {
        let shape = kv::CacheShape::from_config(llama.config());
        let store = kv::store(shape, limits.blocks, llama.device())?;
        Ok(Self {
            blocks: Blocks::new(limits.blocks),
            waiting: VecDeque::new(),
            running: Vec::new(),
            steps: 0,
            llama,
            codec,
            counters,
            limits,
            store,
        })
    }

    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// The maximum number of tokens of an answer.
    fn limit(&self, request: &EncodedRequest) -> usize {
        let context = self.llama.config().max_position_embeddings;
        // A model has no positions after its context, so the answer ends there.
        request.sampling.max_tokens.min(context.saturating_sub(request.prompt.len()))
    }

    /// Queues a request of a call, or returns its result if it needs no step.
    pub fn submit(&mut self, call: u64, task: RowTask) -> Option<SequenceOutput> {
        let request = &task.request;
        let output = |result| Some(SequenceOutput { owner: (call, request.row), result, likeliest: Vec::new() });
        let config = self.llama.config();
        let (vocab, context) = (config.vocab_size, config.max_position_embeddings);
        let nothing = SampledTokens { tokens: Vec::new(), logprobs: Vec::new(), finish: Finish::Length };
        // Nothing can be sampled or scored, so the request must not occupy a row.
        let empty = match &task.score {
            Some(score) => match answer::unfit_to_score(&score.tokens, vocab, context) {
                Some(error) => return output(Err(error)),
                None => score.from >= score.tokens.len(),
            },
            None => match answer::unfit(&request.prompt, vocab, context) {
                Some(error) => return output(Err(error)),
                None => self.limit(request) == 0,
            },
        };
        if empty {
            return output(Ok(nothing));
        }
        self.waiting.push_back((call, task));
        None
    }

    /// Removes all requests of a call.
    pub fn remove(&mut self, call: u64) {
        self.waiting.retain(|(of, _)| *of != call);
        let (gone, stay) = std::mem::take(&mut self.running).into_iter().partition(|s| s.call == call);
        self.running = stay;
        for s in gone {
            // The prompt's blocks stay in the tree: a later call with the same prompt finds them.
            self.blocks.release(&s.path, &s.own, s.reserved);
        }
    }

    fn admit(&mut self) -> Result<()> {
        while self.running.len() < self.limits.max_rows {
            let Some((_, next)) = self.waiting.front() else { return Ok(()) };
            let next = &next.request;
            let limit = self.limit(next);
            // The last token's keys and values are never needed.
            let reserved = (limit - 1).div_ceil(BLOCK);
            let needed = Blocks::needed(next.prompt.len(), limit - 1);
            if needed > self.blocks.total() {
                // A cache that grows is a new one, and blocks in use cannot move: wait until nothing else runs.
                if !self.running.is_empty() {
                    return Ok(());
                }
                self.grow(needed)?;
            }
            let next = &self.waiting[0].1.request;
            // First come, first served: a short request behind a long one waits, or the long one might never
            // run.
            let Some(path) = self.blocks.admit(&next.prompt, reserved) else { return Ok(()) };
            let Some((call, RowTask { request, score, listener })) = self.waiting.pop_front() else { return Ok(()) };
            add(&self.counters.prompt_tokens, request.prompt.len());
            self.running.push(Sequence {
                rng: request.key.rng(),
                call,
                request,
                score,
                listener,
                limit,
                path,
                own: Vec::new(),
                reserved,
                computed: 0,
                tokens: Vec::new(),
                logprobs: Vec::new(),
            });
        }
        Ok(())
    }

    /// Makes the cache as large as a request needs. The memory budget may limit how many sequences are decoded
    /// together. It must not decide which rows get an answer, because it depends on the machine and its free memory.
    fn grow(&mut self, blocks: usize) -> Result<()> {
        assert!(self.running.is_empty(), "blocks that are in use cannot be moved");
        let shape = kv::CacheShape::from_config(self.llama.config());
        let device = self.llama.device();
        tracing::debug!(blocks, "the cache of keys and values grows to hold one long request");
        // The old cache is dropped first, so that memory never holds both.
        self.store = kv::store(shape, 1, device)?;
        self.blocks = Blocks::new(blocks);
        self.store = kv::store(shape, blocks, device)
            .doing(|| format!("room for keys and values of {} tokens", blocks * BLOCK))?;
        Ok(())
    }

    /// Runs one pass through the model and returns the outputs of the sequences that ended with it.
    ///
    /// # Errors
    /// The model failed. The scheduler must not be used after that.
    pub fn step(&mut self) -> Result<Vec<SequenceOutput>> {
        self.admit()?;
        self.steps += 1;
        let start = Instant::now();
        let mut pack = StepRows::default();
        // Decoding rows come first: each is one row, and a long prompt must not delay them.
        for (i, s) in self.running.iter_mut().enumerate().filter(|(_, s)| !s.tokens.is_empty()) {
            pack.decode(i, s, &mut self.blocks);
        }
        let decoding = pack.ids.len();
        // Bounded, so that a step takes about as long whatever prompts arrive.
        let until = (decoding + self.limits.prefill_chunk).min(self.limits.max_rows);
        for (i, s) in self.running.iter_mut().enumerate().filter(|(_, s)| s.tokens.is_empty()) {
            match s.score.is_some() {
                true => pack.score(i, s, &mut self.blocks, self.steps, until),
                false => pack.prefill(i, s, &mut self.blocks, self.steps, until),
            }
        }
        if pack.ids.is_empty() {
            return if self.running.is_empty() { Ok(Vec::new()) } else { Err(Error::bug("a step without rows")) };
        }
        let hidden = {
            let mut attention = Paged { store: &mut *self.store, plan: &pack.plan };
            self.llama.forward(&pack.ids, &pack.positions, &mut attention)?
        };
        // Sequences with equal prompts may need the same row. Sorting puts them side by side, so that the row's
        // logits are computed once.
        pack.wanted.sort_unstable();
        let mut outputs = Vec::new();
        let rows: Vec<&[(usize, usize)]> = pack.wanted.chunk_by(|a, b| a.0 == b.0).collect();
        // A row of logits is as long as the vocabulary, so not all of them fit into memory at once.
        for rows in rows.chunks(LOGIT_ROWS) {
            self.sample(&hidden, rows, &pack.positions, &mut outputs)?;
        }
        self.leave(&mut outputs);
        let rows = pack.ids.len();
        add(&self.counters.steps, 1);
        add(&self.counters.rows, rows);
        self.counters.busy(start.elapsed(), (rows - decoding) as f64 / rows as f64);
        Ok(outputs)
    }

    /// Draws the next token of the sequences that sample from the given rows: lists of (row, sequence), one for each
    /// row. `positions` are those of all rows.
    fn sample(
        &mut self,
        hidden: &Tensor,
        rows: &[&[(usize, usize)]],
        positions: &[u32],
        outputs: &mut Vec<SequenceOutput>,
    ) -> Result<()> {
        let index: Vec<u32> = rows.iter().map(|r| r[0].0 as u32).collect();
        let logits = self.llama.logits(&hidden.index_select(&Tensor::new(index, hidden.device())?, 0)?)?;
        // Sampling runs on the CPU in f32 on every device, so its arithmetic is the same everywhere.
        let logits = logits.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
        let logits = Floats::of(&logits)?;
        let width = self.llama.config().vocab_size;
        let jobs: Vec<(usize, usize, &[f32])> = rows
            .iter()
            .zip(logits.chunks(width))
            .flat_map(|(wants, logits)| wants.iter().map(move |&(row, sequence)| (row, sequence, logits)))
            .collect();
        let (running, eos) = (&self.running, self.codec.eos_ids());
        let drawn: Vec<(usize, std::result::Result<Drawn, RequestError>)> = jobs
            .into_par_iter()
            .map_init(Scratch::default, |scratch, (row, i, logits)| {
                (i, running[i].draw(logits, positions[row] as usize, eos, scratch))
            })
            .collect();
        let scored = drawn.iter().filter(|(_, drawn)| matches!(drawn, Ok(Drawn::Scored(..)))).count();
        add(&self.counters.generated_tokens, drawn.len() - scored);
        for (i, drawn) in drawn {
            let s = &mut self.running[i];
            // One of the rows that are scored together had an error.
            if s.limit == 0 {
                continue;
            }
            let first = s.tokens.is_empty();
            let Some(result) = s.take(drawn, &*self.codec) else {
                if first && s.score.is_none() {
                    add(&self.counters.cached_prompt_tokens, s.request.prompt.len() - s.computed);
                }
                continue;
            };
            if first {
                add(&self.counters.cached_prompt_tokens, s.request.prompt.len() - s.computed);
            }
            // Removal waits until all rows are sampled, because the indices of the others must stay valid.
            s.limit = 0;
            let likeliest = s.score.as_mut().map(|score| std::mem::take(&mut score.likeliest)).unwrap_or_default();
            outputs.push(SequenceOutput { owner: (s.call, s.request.row), result, likeliest });
        }
        Ok(())
    }

    /// Removes the finished sequences, which [`Scheduler::sample`] marked by a limit of 0.
    fn leave(&mut self, outputs: &mut [SequenceOutput]) {
        if outputs.is_empty() {
            return;
        }
        let blocks = &mut self.blocks;
        self.running.retain(|s| {
            if s.limit == 0 {
                blocks.release(&s.path, &s.own, s.reserved);
            }
            s.limit > 0
        });
    }
}
