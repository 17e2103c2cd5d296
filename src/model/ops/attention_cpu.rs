//! The inner part of [`super::Packed`] on the CPU: attention in tiles with a running softmax
//! (FlashAttention, arXiv 2205.14135). Its backward pass recomputes the weights instead of storing them.
//!
//! A row reads its keys in order (prefix, then own rows), in blocks of [`KEYS`] counted from the first. Its
//! result depends on nothing else, so its bits do not depend on the other rows of the batch.

use std::ops::Range;

use rayon::prelude::*;

use super::cpu::{self, Matrix, gemm};
use super::segment::Segment;

/// Query rows per tile.
const ROWS: usize = 16;
/// Keys per tile.
const KEYS: usize = 64;

/// Number of heads and their width.
#[derive(Clone, Copy)]
pub(in crate::model) struct HeadShape {
    pub heads: usize,
    pub kv_heads: usize,
    pub width: usize,
}

impl HeadShape {
    fn scale(self) -> f32 {
        1. / (self.width as f32).sqrt()
    }
    fn kv_head(self, head: usize) -> usize {
        head / (self.heads / self.kv_heads)
    }
    /// Index of the number at (row, head, 0) of `[N, heads, width]`.
    fn at(self, row: usize, head: usize) -> usize {
        (row * self.heads + head) * self.width
    }
}

/// Inputs and results of the forward pass.
pub(in crate::model) struct Forward<'a> {
    pub q: &'a [f32],
    pub k: &'a [f32],
    pub v: &'a [f32],
    pub y: &'a [f32],
    pub log_sums: &'a [f32],
}

/// The rows that a segment sees, in order.
fn keys(s: &Segment) -> impl Iterator<Item = usize> {
    s.prefix.clone().chain(s.rows.clone())
}

/// Copies the keys (or values) of one head into consecutive rows: `[T, width]`.
fn gather(s: &Segment, shape: HeadShape, from: &[f32], kv_head: usize) -> Vec<f32> {
    let d = shape.width;
    let mut out = Vec::with_capacity((s.prefix.len() + s.rows.len()) * d);
    keys(s).for_each(|row| out.extend_from_slice(&from[(row * shape.kv_heads + kv_head) * d..][..d]));
    out
}

/// Keys that are computed together. Computing a few keys in excess costs less than computing a few one by
/// one.
const GROUP: usize = 8;

/// Transposes `[T, width]` to `[width, T]`, padded with zeros to a multiple of [`GROUP`] columns.
fn transpose(rows: &[f32], width: usize) -> Vec<f32> {
    let t = (rows.len() / width).next_multiple_of(GROUP);
    let mut out = vec![0f32; t * width];
    for (i, row) in rows.chunks_exact(width).enumerate() {
        row.iter().enumerate().for_each(|(c, x)| out[c * t + i] = *x);
    }
    out
}

/// A tile of query rows: its segment, its rows of the batch, and the position of its first row in the
/// segment.
struct Tile {
    segment: usize,
    rows: Range<usize>,
    first: usize,
}

fn tiles(segments: &[Segment]) -> Vec<Tile> {
    let of = |(segment, s): (usize, &Segment)| {
        let s = s.clone();
        s.rows.clone().step_by(ROWS).map(move |start| Tile {
            segment,
            rows: start..s.rows.end.min(start + ROWS),
            first: s.prefix.len() + start - s.rows.start,
        })
    };
    segments.iter().enumerate().flat_map(of).collect()
}

/// Writes the result, `[N, heads, width]`, and, for the backward pass, the logarithms of the softmax's
/// sums, `[N, heads]`.
pub(in crate::model) fn forward(
    segments: &[Segment],
    shape: HeadShape,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    out: &mut [f32],
    log_sums: &mut [f32],
) {
    let row = shape.heads * shape.width;
    let packs: Vec<(Vec<f32>, Vec<f32>)> = (0..segments.len() * shape.kv_heads)
        .into_par_iter()
        .map(|i| {
            let (s, head) = (&segments[i / shape.kv_heads], i % shape.kv_heads);
            (transpose(&gather(s, shape, k, head), shape.width), gather(s, shape, v, head))
        })
        .collect();
    // Tiles cover the rows in order, so each tile can own a slice of the results.
    let mut jobs = Vec::new();
    let (mut out_rest, mut sums_rest) = (out, log_sums);
    for tile in tiles(segments) {
        let (part, rest) = out_rest.split_at_mut(tile.rows.len() * row);
        let (sums, sums_after) = sums_rest.split_at_mut(tile.rows.len() * shape.heads);
        jobs.push((tile, part, sums));
        (out_rest, sums_rest) = (rest, sums_after);
    }
    jobs.into_par_iter().for_each(|(tile, out, sums)| {
        let mut work = TileScratch::new(shape.width);
        for head in 0..shape.heads {
            let (kt, v) = &packs[tile.segment * shape.kv_heads + shape.kv_head(head)];
            forward_tile(&tile, head, shape, q, kt, v, &mut work, out, sums);
        }
    });
}

/// Scratch space of a tile.
struct TileScratch {
    scores: Vec<f32>,
    sums: Vec<f32>,
}
impl TileScratch {
    fn new(width: usize) -> Self {
        Self { scores: vec![0.; ROWS * KEYS], sums: vec![0.; ROWS * width] }
    }
}

#[allow(clippy::too_many_arguments, reason = "one loop body, extracted for readability")]
fn forward_tile(
    tile: &Tile,
    head: usize,
    shape: HeadShape,
    q: &[f32],
    kt: &[f32],
    v: &[f32],
    work: &mut TileScratch,
    out: &mut [f32],
    log_sums: &mut [f32],
) {
    let (d, n, t) = (shape.width, tile.rows.len(), v.len() / shape.width);
    let (row, t_row) = (shape.heads * d, t.next_multiple_of(GROUP));
    let (mut most, mut total) = ([f32::NEG_INFINITY; ROWS], [0f32; ROWS]);
    work.sums.fill(0.);
    // Number of keys that this row of the tile sees.
    let visible = tile.first + n;
    for start in (0..visible).step_by(KEYS) {
        let count = KEYS.min((visible - start).next_multiple_of(GROUP));
        work.scores.fill(0.);
        let queries = Matrix { numbers: &q[shape.at(tile.rows.start, head)..], row, column: 1 };
        gemm((n, count, d), queries, &kt[start..], t_row, &mut work.scores, KEYS);
        for i in 0..n {
            let scores = &mut work.scores[i * KEYS..][..KEYS];
            let seen = (tile.first + i + 1).saturating_sub(start).min(count);
            scores[seen..].fill(0.);
            if seen == 0 {
                continue;
            }
            scores[..seen].iter_mut().for_each(|s| *s *= shape.scale());
            let new = most[i].max(cpu::max(&scores[..seen]));
            let shrink = cpu::exp(most[i] - new);
            scores[..seen].iter_mut().for_each(|s| *s = cpu::exp(*s - new));
            total[i] = cpu::fma(total[i], shrink, cpu::sum(scores));
            if shrink != 1. {
                work.sums[i * d..][..d].iter_mut().for_each(|s| *s *= shrink);
            }
            most[i] = new;
        }
        let weights = Matrix { numbers: &work.scores, row: KEYS, column: 1 };
        gemm((n, d, count.min(t - start)), weights, &v[start * d..], d, &mut work.sums, d);
    }
    for i in 0..n {
        let scale = 1. / total[i];
        let sums = &work.sums[i * d..][..d];
        for (o, s) in out[i * row + head * d..][..d].iter_mut().zip(sums) {
            *o = s * scale;
        }
        log_sums[i * shape.heads + head] = most[i] + total[i].ln();
    }
}

/// Computes the gradients of q, k and v.
pub(in crate::model) fn backward(segments: &[Segment], shape: HeadShape, f: Forward, dy: &[f32]) -> [Vec<f32>; 3] {
    let parts: Vec<HeadGradients> = (0..segments.len() * shape.heads)
        .into_par_iter()
        .map(|i| backward_head(&segments[i / shape.heads], i % shape.heads, shape, &f, dy))
        .collect();
    let (mut dq, mut dk, mut dv) = (vec![0f32; f.q.len()], vec![0f32; f.k.len()], vec![0f32; f.v.len()]);
    let d = shape.width;
    // Several segments may see a key, and several heads share it. A fixed order of addition keeps the bits
    // stable.
    for (i, part) in parts.iter().enumerate() {
        let (s, head) = (&segments[i / shape.heads], i % shape.heads);
        for (from, row) in part.q.chunks_exact(d).zip(s.rows.clone()) {
            dq[shape.at(row, head)..][..d].copy_from_slice(from);
        }
        for (to, from) in [(&mut dk, &part.k), (&mut dv, &part.v)] {
            for (from, row) in from.chunks_exact(d).zip(keys(s)) {
                let to = &mut to[(row * shape.kv_heads + shape.kv_head(head)) * d..][..d];
                to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
            }
        }
    }
    [dq, dk, dv]
}

/// Gradients from one head of one segment: `[own, width]` for q, `[T, width]` each for k and v.
struct HeadGradients {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

/// Computes the gradients of one head. With weights P = exp(scale q k^T - log sum) and D = sum over a row
/// of dy y: dv = P^T dy, dS = P (dy v^T - D) scale, dq = dS k, dk = dS^T q.
fn backward_head(s: &Segment, head: usize, shape: HeadShape, f: &Forward, dy: &[f32]) -> HeadGradients {
    let d = shape.width;
    let row = shape.heads * d;
    let (k, v) = (gather(s, shape, f.k, shape.kv_head(head)), gather(s, shape, f.v, shape.kv_head(head)));
    let (kt, vt) = (transpose(&k, d), transpose(&v, d));
    let t = k.len() / d;
    let t_row = t.next_multiple_of(GROUP);
    let mut g = HeadGradients { q: vec![0.; s.rows.len() * d], k: vec![0.; t * d], v: vec![0.; t * d] };
    let (mut weights, mut slopes) = (vec![0f32; ROWS * KEYS], vec![0f32; ROWS * KEYS]);
    for tile in tiles(std::slice::from_ref(s)) {
        let n = tile.rows.len();
        let at = shape.at(tile.rows.start, head);
        let (queries, outer) = (&f.q[at..], &dy[at..]);
        let mut means = [0f32; ROWS];
        for (i, mean) in means.iter_mut().enumerate().take(n) {
            *mean = cpu::dot(&outer[i * row..][..d], &f.y[at + i * row..][..d]);
        }
        let dq = &mut g.q[(tile.rows.start - s.rows.start) * d..][..n * d];
        // Number of keys that this row of the tile sees.
        let visible = tile.first + n;
        for start in (0..visible).step_by(KEYS) {
            let (count, padded) = (KEYS.min(visible - start), KEYS.min((visible - start).next_multiple_of(GROUP)));
            weights.fill(0.);
            slopes.fill(0.);
            gemm((n, padded, d), Matrix { numbers: queries, row, column: 1 }, &kt[start..], t_row, &mut weights, KEYS);
            gemm((n, padded, d), Matrix { numbers: outer, row, column: 1 }, &vt[start..], t_row, &mut slopes, KEYS);
            for i in 0..n {
                let seen = (tile.first + i + 1).saturating_sub(start).min(count);
                let log_sum = f.log_sums[(tile.rows.start + i) * shape.heads + head];
                let (w, s) = (&mut weights[i * KEYS..][..KEYS], &mut slopes[i * KEYS..][..KEYS]);
                for (w, s) in w[..seen].iter_mut().zip(&mut s[..seen]) {
                    *w = cpu::exp(*w * shape.scale() - log_sum);
                    *s = *w * (*s - means[i]) * shape.scale();
                }
                w[seen..].fill(0.);
                s[seen..].fill(0.);
            }
            gemm((n, d, count), Matrix { numbers: &slopes, row: KEYS, column: 1 }, &k[start * d..], d, dq, d);
            let (down_w, down_s) =
                (Matrix { numbers: &weights, row: 1, column: KEYS }, Matrix { numbers: &slopes, row: 1, column: KEYS });
            gemm((count, d, n), down_w, outer, row, &mut g.v[start * d..], d);
            gemm((count, d, n), down_s, queries, row, &mut g.k[start * d..], d);
        }
    }
    g
}
