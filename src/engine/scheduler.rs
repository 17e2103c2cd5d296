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
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::answer;
use super::codec::Codec;
use super::encoded::{EncodedRequest, SampledTokens};
use super::kv::{self, BLOCK, BlockSpan, KvStore, Paged, StepPlan, StepRow};
use super::prefix::{Blocks, NodeId};
use super::request::{Finish, RequestError};
use super::sampling::Scratch;
use super::stats::{Counters, add};
use crate::error::{Context as _, Error, Result};
use crate::model::Llama;
use crate::model::ops::Floats;

/// Rows whose logits are held at once: bounds memory at this many times the vocabulary.
const LOGIT_ROWS: usize = 64;

/// The result of a request.
pub(super) struct SequenceOutput {
    /// The call, and the index in the call.
    pub owner: (u64, usize),
    pub result: std::result::Result<SampledTokens, RequestError>,
}

/// A running sequence.
struct Sequence {
    call: u64,
    request: EncodedRequest,
    rng: ChaCha8Rng,
    /// Maximum tokens of the answer: `max_tokens`, or fewer if the context ends before. 0 marks a finished sequence.
    limit: usize,
    /// The prompt's nodes.
    path: Vec<NodeId>,
    /// Blocks of the answer.
    own: Vec<u32>,
    /// Further blocks that are reserved for the answer.
    reserved: usize,
    /// Prompt rows computed for this sequence.
    computed: usize,
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
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
    waiting: VecDeque<(u64, EncodedRequest)>,
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
    pub fn submit(&mut self, call: u64, request: EncodedRequest) -> Option<SequenceOutput> {
        let owner = (call, request.row);
        let context = self.llama.config().max_position_embeddings;
        let limit = self.limit(&request);
        if let Some(error) = answer::unfit(&request.prompt, self.llama.config().vocab_size, context) {
            return Some(SequenceOutput { owner, result: Err(error) });
        }
        // Nothing can be sampled, so the request must not occupy a row.
        if limit == 0 {
            let result = Ok(SampledTokens { tokens: Vec::new(), logprobs: Vec::new(), finish: Finish::Length });
            return Some(SequenceOutput { owner, result });
        }
        self.waiting.push_back((call, request));
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
            let (_, next) = &self.waiting[0];
            // First come, first served: a short request behind a long one waits, or the long one might never
            // run.
            let Some(path) = self.blocks.admit(&next.prompt, reserved) else { return Ok(()) };
            let Some((call, request)) = self.waiting.pop_front() else { return Ok(()) };
            add(&self.counters.prompt_tokens, request.prompt.len());
            self.running.push(Sequence {
                rng: request.key.rng(),
                call,
                request,
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
            pack.prefill(i, s, &mut self.blocks, self.steps, until);
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
            self.sample(&hidden, rows, &mut outputs)?;
        }
        self.leave(&mut outputs);
        let rows = pack.ids.len();
        add(&self.counters.steps, 1);
        add(&self.counters.rows, rows);
        self.counters.busy(start.elapsed(), (rows - decoding) as f64 / rows as f64);
        Ok(outputs)
    }

    /// Draws the next token of the sequences that sample from the given rows: lists of (row, sequence), one for each
    /// row.
    fn sample(&mut self, hidden: &Tensor, rows: &[&[(usize, usize)]], outputs: &mut Vec<SequenceOutput>) -> Result<()> {
        let index: Vec<u32> = rows.iter().map(|r| r[0].0 as u32).collect();
        let logits = self.llama.logits(&hidden.index_select(&Tensor::new(index, hidden.device())?, 0)?)?;
        // Sampling runs on the CPU in f32 on every device, so its arithmetic is the same everywhere.
        let logits = logits.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
        let logits = Floats::of(&logits)?;
        let width = self.llama.config().vocab_size;
        let jobs: Vec<(usize, &[f32])> = rows
            .iter()
            .zip(logits.chunks(width))
            .flat_map(|(wants, logits)| wants.iter().map(move |&(_, sequence)| (sequence, logits)))
            .collect();
        let (running, eos) = (&self.running, self.codec.eos_ids());
        type Drawn = std::result::Result<std::result::Result<(u32, f32), SampledTokens>, RequestError>;
        let drawn: Vec<(usize, Drawn)> = jobs
            .into_par_iter()
            .map_init(Scratch::default, |scratch, (i, logits)| {
                let s = &running[i];
                let (prompt, sampling) = (&s.request.prompt, &s.request.sampling);
                if let Some(ids) = &s.request.wanted {
                    return (i, answer::wanted(logits, ids).map(Err));
                }
                // The random numbers depend on the sequence's own key, so neither the batch nor the thread
                // matters.
                let token = answer::next_token(logits, sampling, prompt, &s.tokens, eos, &s.rng, scratch);
                (i, token.map(Ok).ok_or_else(answer::not_finite))
            })
            .collect();
        add(&self.counters.generated_tokens, drawn.len());
        for (i, drawn) in drawn {
            let s = &mut self.running[i];
            if s.tokens.is_empty() {
                add(&self.counters.cached_prompt_tokens, s.request.prompt.len() - s.computed);
            }
            let result = match drawn {
                Err(e) => Err(e),
                Ok(Err(wanted)) => Ok(wanted),
                Ok(Ok((token, logprob))) => {
                    s.tokens.push(token);
                    s.logprobs.push(logprob);
                    match answer::finish(&s.tokens, &s.request.sampling, s.limit, &*self.codec) {
                        None => continue,
                        Some(finish) => {
                            let (tokens, logprobs) = (std::mem::take(&mut s.tokens), std::mem::take(&mut s.logprobs));
                            Ok(SampledTokens { tokens, logprobs, finish })
                        }
                    }
                }
            };
            // Removal waits until all rows are sampled, because the indices of the others must stay valid.
            s.limit = 0;
            outputs.push(SequenceOutput { owner: (s.call, s.request.row), result });
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

impl Sequence {
    /// The blocks of its keys and values: the prompt's nodes, then its own blocks.
    fn table(&self, blocks: &Blocks) -> Vec<BlockSpan> {
        let nodes = self.path.iter().map(|&id| {
            let node = blocks.node(id);
            BlockSpan { block: node.block, len: node.tokens().len() as u32 }
        });
        nodes.chain(self.own.iter().map(|&block| BlockSpan { block, len: BLOCK as u32 })).collect()
    }
}

/// The rows of a step while they are gathered.
#[derive(Default)]
struct StepRows {
    ids: Vec<u32>,
    positions: Vec<u32>,
    plan: StepPlan,
    /// (row, sequence): rows whose logits a sequence samples from.
    wanted: Vec<(usize, usize)>,
}

impl StepRows {
    fn push(&mut self, id: u32, position: usize, row: StepRow) {
        self.ids.push(id);
        self.positions.push(position as u32);
        self.plan.rows.push(row);
    }

    /// The row of a sequence's newest token.
    fn decode(&mut self, index: usize, s: &mut Sequence, blocks: &mut Blocks) {
        let Some(&token) = s.tokens.last() else { return };
        let done = s.tokens.len() - 1;
        // The blocks before are full, so the token opens a new one, which was reserved at admission.
        if done.is_multiple_of(BLOCK) {
            s.own.push(blocks.take_reserved());
            s.reserved -= 1;
        }
        let position = s.request.prompt.len() + done;
        let write = Some((s.own[done / BLOCK], (done % BLOCK) as u32));
        self.wanted.push((self.ids.len(), index));
        self.push(token, position, StepRow { table: self.plan.tables.len(), visible: position + 1, write });
        // Last, because `table` above is the index that this entry gets.
        self.plan.tables.push(s.table(blocks));
    }

    /// Adds the rows of a prompt that are not computed yet, until the step has `until` rows. Adds the last row again
    /// if the cache has its keys and values but not its logits.
    ///
    /// Rows that another sequence computes in the same step count as computed, because each layer writes all keys and
    /// values before any row attends.
    fn prefill(&mut self, index: usize, s: &mut Sequence, blocks: &mut Blocks, step: u64, until: usize) {
        let table = self.plan.tables.len();
        let before = self.ids.len();
        let mut first = 0;
        for &id in &s.path {
            let node = blocks.node_mut(id);
            let (len, block) = (node.tokens().len(), node.block);
            while node.filled < len && self.ids.len() < until {
                let (offset, row) = (node.filled, self.ids.len());
                let write = Some((block, offset as u32));
                self.push(node.tokens()[offset], first + offset, StepRow { table, visible: first + offset + 1, write });
                node.filled += 1;
                node.last = node.is_filled().then_some((step, row));
            }
            // Rows of later nodes would attend to positions that are not computed yet.
            if !node.is_filled() {
                break;
            }
            first += len;
        }
        let prompt = &s.request.prompt;
        if first == prompt.len()
            && let Some(tail) = s.path.last().map(|&id| blocks.node_mut(id))
        {
            // Hidden states are not cached, so logits need the last row again even if the cache has the
            // prompt.
            if tail.last.is_none_or(|(when, _)| when != step) && self.ids.len() < until {
                tail.last = Some((step, self.ids.len()));
                self.push(prompt[first - 1], first - 1, StepRow { table, visible: first, write: None });
            }
            if let Some((when, row)) = tail.last
                && when == step
            {
                self.wanted.push((row, index));
            }
        }
        s.computed += self.ids.len() - before;
        if self.ids.len() > before {
            self.plan.tables.push(s.table(blocks));
        }
    }
}
