//! Attention over the paged cache in one pass, for f32 on the CPU.
//!
//! Every (row, kv head) is one task. Within it everything has a fixed order: scores key by key, each a sum over the
//! head's dimensions in order; the softmax in position order; the weighted sum of values in position order. Block
//! boundaries do not enter, so the result is the same however a sequence is laid out in blocks.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::super::numeric::{exp, fma, map_sum, max};
use super::{BLOCK, Plan, Row, Shape, Span, Store};
use crate::model::ops::Floats;

/// Per layer: keys as `[block, kv_head, head_dim, BLOCK]`, so that a query meets the keys of a block side by side, and
/// values as `[block, kv_head, BLOCK, head_dim]`.
pub(super) struct Fused {
    shape: Shape,
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
}

impl Fused {
    /// The pools are zeroed lazily by the operating system: memory is used as blocks are.
    pub fn new(shape: Shape, blocks: usize) -> Self {
        let pool = || (0..shape.layers).map(|_| vec![0.; blocks * shape.kv_heads * shape.head_dim * BLOCK]).collect();
        Self { shape, keys: pool(), values: pool() }
    }

    fn write(&mut self, plan: &Plan, layer: usize, k: &[f32], v: &[f32]) {
        let Shape { kv_heads, head_dim, .. } = self.shape;
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

impl Store for Fused {
    fn attend(&mut self, plan: &Plan, layer: usize, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
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
            let Row { table, visible, .. } = plan.rows[i / kv_heads];
            let pane = |span: &Span| (span.block as usize * kv_heads + i % kv_heads) * head_dim * BLOCK;
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
    table: &[Span],
    visible: usize,
    head_dim: usize,
    q: &[f32],
    out: &mut [f32],
    scores: &mut Vec<f32>,
    pane: impl Fn(&Span) -> (&'a [f32], &'a [f32]),
) {
    let group = q.len() / head_dim;
    let scale = 1. / (head_dim as f32).sqrt();
    scores.clear();
    scores.resize(group * visible, 0.);
    let spans = || {
        let mut done = 0;
        table.iter().map_while(move |span| {
            let (start, len) = (done, (visible - done).min(span.len as usize));
            done += len;
            (len > 0).then_some((span, start, len))
        })
    };
    for (span, start, len) in spans() {
        let (keys, _) = pane(span);
        let mut head = 0;
        while head < group {
            let q = &q[head * head_dim..];
            let mut put = |dots: &[[f32; BLOCK]]| {
                for (i, dots) in dots.iter().enumerate() {
                    let at = (head + i) * visible + start;
                    scores[at..at + len].iter_mut().zip(dots).for_each(|(s, d)| *s = d * scale);
                }
                head += dots.len();
            };
            match q.len() / head_dim {
                1 => put(&dots::<1>(q, head_dim, keys)),
                2 => put(&dots::<2>(q, head_dim, keys)),
                3 => put(&dots::<3>(q, head_dim, keys)),
                _ => put(&dots::<4>(q, head_dim, keys)),
            }
        }
    }
    for (scores, out) in scores.chunks_exact_mut(visible).zip(out.chunks_exact_mut(head_dim)) {
        let top = max(scores);
        let total = map_sum(scores, |s| exp(s - top)) as f32;
        for (span, start, len) in spans() {
            let (_, values) = pane(span);
            accumulate(&scores[start..start + len], values, out);
        }
        out.iter_mut().for_each(|o| *o /= total);
    }
}

/// Products of `G` queries with the [`BLOCK`] keys of a pane.
#[inline(always)]
fn dots<const G: usize>(q: &[f32], head_dim: usize, keys: &[f32]) -> [[f32; BLOCK]; G] {
    let mut sums = [[0f32; BLOCK]; G];
    for (d, column) in keys.as_chunks::<BLOCK>().0.iter().enumerate() {
        for (g, sums) in sums.iter_mut().enumerate() {
            let x = q[g * head_dim + d];
            for (sum, &key) in sums.iter_mut().zip(column) {
                *sum = fma(x, key, *sum);
            }
        }
    }
    sums
}

/// `out += weights . values`, key by key.
#[inline(always)]
fn accumulate(weights: &[f32], values: &[f32], out: &mut [f32]) {
    const WIDE: usize = 64;
    let head_dim = out.len();
    let (wide, rest) = out.as_chunks_mut::<WIDE>();
    for (c, out) in wide.iter_mut().enumerate() {
        let mut sums = *out;
        for (j, &w) in weights.iter().enumerate() {
            let at = j * head_dim + c * WIDE;
            for (sum, &v) in sums.iter_mut().zip(&values[at..at + WIDE]) {
                *sum = fma(w, v, *sum);
            }
        }
        *out = sums;
    }
    let done = head_dim - rest.len();
    for (j, &w) in weights.iter().enumerate() {
        let row = &values[j * head_dim + done..(j + 1) * head_dim];
        rest.iter_mut().zip(row).for_each(|(o, &v)| *o = fma(w, v, *o));
    }
}
