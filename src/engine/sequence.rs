//! A running sequence, and the rows that running sequences put into a step.

use rand_chacha::ChaCha8Rng;

use super::answer;
use super::codec::Codec;
use super::encoded::{EncodedRequest, NewToken, SampledTokens, TokenListener};
use super::kv::{BLOCK, BlockSpan, StepPlan, StepRow};
use super::prefix::{Blocks, NodeId};
use super::request::{Finish, RequestError};
use super::sampling::Scratch;
use super::task::Score;

/// What a row of logits gave its sequence.
pub(super) enum Drawn {
    /// The next token and its log-probability.
    Token(u32, f32),
    /// The log-probabilities that were asked for instead of an answer.
    Wanted(SampledTokens),
    /// The log-probability of a given token, and the likeliest tokens in its place.
    Scored(f32, Vec<(u32, f32)>),
}

/// A running sequence.
pub(super) struct Sequence {
    pub call: u64,
    pub request: EncodedRequest,
    pub score: Option<Score>,
    pub listener: Option<TokenListener>,
    pub rng: ChaCha8Rng,
    /// Maximum tokens of the answer: `max_tokens`, or fewer if the context ends before. 0 marks a finished sequence.
    pub limit: usize,
    /// The prompt's nodes.
    pub path: Vec<NodeId>,
    /// Blocks of the answer.
    pub own: Vec<u32>,
    /// Further blocks that are reserved for the answer.
    pub reserved: usize,
    /// Prompt rows computed for this sequence.
    pub computed: usize,
    pub tokens: Vec<u32>,
    pub logprobs: Vec<f32>,
}

impl Sequence {
    /// What the logits of the row at `position` give the sequence.
    pub fn draw(
        &self,
        logits: &[f32],
        position: usize,
        eos: &[u32],
        scratch: &mut Scratch,
    ) -> std::result::Result<Drawn, RequestError> {
        if let Some(score) = &self.score {
            let (logprob, likeliest) = answer::scores(logits, score.tokens[position + 1], score.top)?;
            return Ok(Drawn::Scored(logprob, likeliest));
        }
        let (prompt, sampling) = (&self.request.prompt, &self.request.sampling);
        if let Some(ids) = &self.request.wanted {
            return answer::wanted(logits, ids).map(Drawn::Wanted);
        }
        // The random numbers depend on the sequence's own key, so neither the batch nor the thread matters.
        let token = answer::next_token(logits, sampling, prompt, &self.tokens, eos, &self.rng, scratch);
        token.map(|(token, logprob)| Drawn::Token(token, logprob)).ok_or_else(|| answer::no_token(logits))
    }

    /// Adds what was drawn, and returns the result if that was the last.
    pub fn take(
        &mut self,
        drawn: std::result::Result<Drawn, RequestError>,
        codec: &dyn Codec,
    ) -> Option<std::result::Result<SampledTokens, RequestError>> {
        let finish = match drawn {
            Err(e) => return Some(Err(e)),
            Ok(Drawn::Wanted(wanted)) => return Some(Ok(wanted)),
            Ok(Drawn::Scored(logprob, likeliest)) => {
                self.logprobs.push(logprob);
                let score = self.score.as_mut()?;
                score.likeliest.push(likeliest);
                (self.logprobs.len() == score.tokens.len() - score.from).then_some(Finish::Stop)?
            }
            Ok(Drawn::Token(token, logprob)) => {
                self.tokens.push(token);
                self.logprobs.push(logprob);
                if let Some(listener) = &self.listener {
                    listener(NewToken { row: self.request.row, token, logprob });
                }
                answer::finish(&self.tokens, &self.request.sampling, self.limit, codec)?
            }
        };
        let (tokens, logprobs) = (std::mem::take(&mut self.tokens), std::mem::take(&mut self.logprobs));
        Some(Ok(SampledTokens { tokens, logprobs, finish }))
    }

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
pub(super) struct StepRows {
    pub ids: Vec<u32>,
    pub positions: Vec<u32>,
    pub plan: StepPlan,
    /// (row, sequence): rows whose logits a sequence samples from.
    pub wanted: Vec<(usize, usize)>,
}

impl StepRows {
    fn push(&mut self, id: u32, position: usize, row: StepRow) {
        self.ids.push(id);
        self.positions.push(position as u32);
        self.plan.rows.push(row);
    }

    /// The row of a sequence's newest token.
    pub fn decode(&mut self, index: usize, s: &mut Sequence, blocks: &mut Blocks) {
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
    pub fn prefill(&mut self, index: usize, s: &mut Sequence, blocks: &mut Blocks, step: u64, until: usize) {
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

    /// Adds the rows of tokens that are scored, until the step has `until` rows: those whose keys and values the cache
    /// lacks, and again those whose logits are wanted.
    pub fn score(&mut self, index: usize, s: &mut Sequence, blocks: &mut Blocks, step: u64, until: usize) {
        let Some(score) = &mut s.score else { return };
        let (table, before) = (self.plan.tables.len(), self.ids.len());
        let mut first = 0;
        for &id in &s.path {
            let node = blocks.node_mut(id);
            let (end, block) = (first + node.tokens().len(), node.block);
            while score.next < end && self.ids.len() < until {
                let (offset, row) = (score.next - first, self.ids.len());
                let (fills, wanted) = (offset == node.filled, score.next + 1 >= score.from);
                if wanted {
                    self.wanted.push((row, index));
                }
                if wanted || fills {
                    let write = fills.then_some((block, offset as u32));
                    self.push(node.tokens()[offset], score.next, StepRow { table, visible: score.next + 1, write });
                }
                if fills {
                    node.filled += 1;
                    node.last = node.is_filled().then_some((step, row));
                }
                score.next += 1;
            }
            if score.next < end {
                break;
            }
            first = end;
        }
        s.computed += self.ids.len() - before;
        if self.ids.len() > before {
            self.plan.tables.push(s.table(blocks));
        }
    }
}
