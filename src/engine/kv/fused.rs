//! Attention over the paged cache in one pass, for f32 on the CPU.
//!
//! Every (row, kv head) is one task. Within it everything has a fixed order: scores key by key, each a sum over the
//! head's dimensions in order; the softmax in position order; the weighted sum of values in position order. Block
//! boundaries do not enter, so the result is the same however a sequence is laid out in blocks.

use candle_core::{Result, Tensor};
use rayon::prelude::*;
use wide::f32x16;

use super::super::sampling::numeric::{map_sum, max};
use super::plan::{BLOCK, BlockSpan, CacheShape, KvStore, StepPlan, StepRow};
use crate::model::ops::{Floats, fma};

/// Per layer: keys as `[block, kv_head, head_dim, BLOCK]`, so that a query meets the keys of a block side by side, and
/// values as `[block, kv_head, BLOCK, head_dim]`.
pub(super) struct FusedCache {
    shape: CacheShape,
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
}

impl FusedCache {
    /// The pools are zeroed lazily by the operating system: memory is used as blocks are.
    pub fn new(shape: CacheShape, blocks: usize) -> Self {
        let pool = || (0..shape.layers).map(|_| vec![0.; blocks * shape.kv_heads * shape.head_dim * BLOCK]).collect();
        Self { shape, keys: pool(), values: pool() }
    }

    fn write(&mut self, plan: &StepPlan, layer: usize, k: &[f32], v: &[f32]) {
        let CacheShape { kv_heads, head_dim, .. } = self.shape;
        let (keys, values) = (&mut self.keys[layer], &mut self.values[layer]);
        for (i, row) in plan.rows.iter().enumerate() {
            let Some((block, offset)) = row.write else { continue };
            for head in 0..kv_heads {
                let from = (i * kv_heads + head) * head_dim;
                let pane = (block as usize * kv_heads + head) * head_dim * BLOCK;
                let column = keys[pane..pane + head_dim * BLOCK].iter_mut().skip(offset as usize).step_by(BLOCK);
                column.zip(&k[from..from + head_dim]).for_each(|(to, &x)| *to = x);
                let at = pane + offset as usize * head_dim;
                values[at..at + head_dim].copy_from_slice(&v[from..from + head_dim]);
            }
        }
    }
}

impl KvStore for FusedCache {
    fn attend(&mut self, plan: &StepPlan, layer: usize, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let (n, heads, head_dim) = q.dims3()?;
        self.write(plan, layer, &Floats::of(&k.contiguous()?)?, &Floats::of(&v.contiguous()?)?);
        let kv_heads = self.shape.kv_heads;
        let group = heads / kv_heads * head_dim;
        let (keys, values) = (&self.keys[layer], &self.values[layer]);
        let mut out = vec![0f32; n * heads * head_dim];
        let contiguous = q.contiguous()?;
        let numbers = Floats::of(&contiguous)?;
        let tasks = out.par_chunks_mut(group).zip(numbers.par_chunks(group)).enumerate();
        tasks.for_each_init(Vec::new, |scores, (i, (out, q))| {
            let StepRow { table, visible, .. } = plan.rows[i / kv_heads];
            let pane = |span: &BlockSpan| (span.block as usize * kv_heads + i % kv_heads) * head_dim * BLOCK;
            attend_head(&plan.tables[table], visible, head_dim, q, out, scores, |span| {
                let at = pane(span)..pane(span) + head_dim * BLOCK;
                (&keys[at.clone()], &values[at])
            });
        });
        Tensor::from_vec(out, (n, heads, head_dim), q.device())
    }
}

/// The query heads of one row that share a kv head: `q` and `out` are `[group, head_dim]`; `pane` gives the keys and
/// values of a span's block for that kv head.
fn attend_head<'a>(
    table: &[BlockSpan],
    visible: usize,
    head_dim: usize,
    q: &[f32],
    out: &mut [f32],
    scores: &mut Vec<f32>,
    pane: impl Fn(&BlockSpan) -> (&'a [f32], &'a [f32]),
) {
    let mut done = 0;
    let spans = table.iter().map_while(|span| {
        let (start, len) = (done, (visible - done).min(span.len as usize));
        done += len;
        let (keys, values) = pane(span);
        (len > 0).then_some(SpanPart { start, len, keys, values })
    });
    let parts: Vec<SpanPart> = spans.collect();
    // A few heads at once, so that keys and values are loaded once for all of them.
    for (q, out) in q.chunks(HEADS * head_dim).zip(out.chunks_mut(HEADS * head_dim)) {
        match q.len() / head_dim {
            1 => attend::<1>(&parts, visible, head_dim, q, out, scores),
            2 => attend::<2>(&parts, visible, head_dim, q, out, scores),
            3 => attend::<3>(&parts, visible, head_dim, q, out, scores),
            _ => attend::<HEADS>(&parts, visible, head_dim, q, out, scores),
        }
    }
}

/// Maximum query heads that are processed at once: their sums must fit the registers.
const HEADS: usize = 4;

/// A span's positions in the sequence, and the block's keys and values.
struct SpanPart<'a> {
    start: usize,
    len: usize,
    keys: &'a [f32],
    values: &'a [f32],
}

fn attend<const G: usize>(
    parts: &[SpanPart],
    visible: usize,
    head_dim: usize,
    q: &[f32],
    out: &mut [f32],
    scores: &mut Vec<f32>,
) {
    let scale = f32x16::splat(1. / (head_dim as f32).sqrt());
    // Whole blocks are written. Values beyond a span are overwritten by the next block, or lie beyond the last
    // position.
    let line = visible + BLOCK;
    scores.clear();
    scores.resize(G * line, 0.);
    for part in parts {
        for (g, dots) in dots::<G>(q, head_dim, part.keys).into_iter().enumerate() {
            scores[g * line + part.start..][..BLOCK].copy_from_slice(&(dots * scale).to_array());
        }
    }
    let mut totals = [0f32; G];
    for (scores, total) in scores.chunks_exact_mut(line).zip(&mut totals) {
        let scores = &mut scores[..visible];
        let top = f32x16::splat(max(scores));
        *total = map_sum(scores, |s| (s - top).exp()) as f32;
    }
    let (mut from, weights) = (0, |g: usize, part: &SpanPart| &scores[g * line + part.start..][..part.len]);
    while from < head_dim {
        from += match head_dim - from {
            64.. => accumulate::<G, 4>(parts, weights, head_dim, from, out),
            16.. => accumulate::<G, 1>(parts, weights, head_dim, from, out),
            _ => accumulate_one::<G>(parts, weights, head_dim, from, out),
        };
    }
    for (out, total) in out.chunks_exact_mut(head_dim).zip(totals) {
        out.iter_mut().for_each(|o| *o /= total);
    }
}

/// Products of `G` queries with the [`BLOCK`] keys of a pane.
#[inline(always)]
fn dots<const G: usize>(q: &[f32], head_dim: usize, keys: &[f32]) -> [f32x16; G] {
    let queries: [&[f32]; G] = std::array::from_fn(|g| &q[g * head_dim..][..head_dim]);
    let mut sums = [f32x16::ZERO; G];
    for (d, column) in keys.as_chunks::<BLOCK>().0.iter().enumerate() {
        let column = f32x16::from(*column);
        for (sum, q) in sums.iter_mut().zip(&queries) {
            *sum = f32x16::splat(q[d]).mul_add(column, *sum);
        }
    }
    sums
}

/// `out = weights . values` for `16 N` dimensions from `from` on, position by position; returns how many dimensions.
#[inline(always)]
fn accumulate<'w, const G: usize, const N: usize>(
    parts: &[SpanPart],
    weights: impl Fn(usize, &SpanPart) -> &'w [f32],
    head_dim: usize,
    from: usize,
    out: &mut [f32],
) -> usize {
    let mut sums = [[f32x16::ZERO; N]; G];
    for part in parts {
        let weights: [&[f32]; G] = std::array::from_fn(|g| weights(g, part));
        for (j, row) in part.values.chunks_exact(head_dim).take(part.len).enumerate() {
            let (values, _) = row[from..from + 16 * N].as_chunks::<16>();
            let values: [f32x16; N] = std::array::from_fn(|n| f32x16::from(values[n]));
            for (sums, weights) in sums.iter_mut().zip(&weights) {
                let weight = f32x16::splat(weights[j]);
                for (sum, v) in sums.iter_mut().zip(values) {
                    *sum = weight.mul_add(v, *sum);
                }
            }
        }
    }
    for (sums, out) in sums.iter().zip(out.chunks_exact_mut(head_dim)) {
        out[from..from + 16 * N].copy_from_slice(sums.map(f32x16::to_array).as_flattened());
    }
    16 * N
}

/// The same for one dimension.
fn accumulate_one<'w, const G: usize>(
    parts: &[SpanPart],
    weights: impl Fn(usize, &SpanPart) -> &'w [f32],
    head_dim: usize,
    from: usize,
    out: &mut [f32],
) -> usize {
    for (g, out) in out.chunks_exact_mut(head_dim).enumerate() {
        out[from] = 0.;
        for part in parts {
            for (w, row) in weights(g, part).iter().zip(part.values.chunks_exact(head_dim)) {
                out[from] = fma(*w, row[from], out[from]);
            }
        }
    }
    1
}
