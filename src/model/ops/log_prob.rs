//! Log-probabilities of given tokens without ever holding all logits.

use std::ops::Range;
use std::sync::OnceLock;

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp2, D, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::cpu::{self, Floats};
use super::linear::{least_rows, pad};

/// Tokens of the vocabulary whose logits are held at once, and rows: 16 MiB of logits.
const TOKENS: usize = 4096;
const ROWS: usize = 1024;

/// `log softmax(hidden head^T)` at `targets`: `hidden` is `[N, D]`, `head` is `[V, D]`, the result `[N]`.
///
/// Logits are computed for some of the vocabulary at a time, and again in the backward. With P the probabilities, the
/// gradient of the logits is `dy (onehot - P)`. A row's bits do not depend on how many rows there are.
///
/// # Errors
/// A target outside the vocabulary, shapes that do not fit, or whatever candle reports.
pub fn log_prob_of(hidden: &Tensor, head: &Tensor, targets: &[u32]) -> Result<Tensor> {
    let (n, vocab) = (hidden.dim(0)?, head.dim(0)?);
    if targets.len() != n {
        candle_core::bail!("log-prob: {n} rows, {} targets", targets.len())
    }
    if let Some(t) = targets.iter().find(|t| **t as usize >= vocab) {
        candle_core::bail!("log-prob: token {t} is outside the vocabulary of {vocab}")
    }
    if !cpu::applies(hidden) || n == 0 {
        return composed(hidden, head, targets);
    }
    // The parts of the vocabulary have nearly the same size; the smallest decides, see `least_rows`.
    let least = least_rows(chunks(vocab, TOKENS).iter().map(Range::len).min().unwrap_or(1), head.dim(1)?);
    if n < least {
        let mut more = targets.to_vec();
        more.resize(least, 0);
        return log_prob_of(&pad(hidden, least)?, head, &more)?.narrow(0, 0, n);
    }
    let op = LogProb { targets: targets.to_vec(), log_sums: OnceLock::new() };
    hidden.contiguous()?.apply_op2(&head.contiguous()?, op)
}

/// The same by candle's operations, all logits at once: the definition, and the way for other devices and types.
///
/// # Errors
/// As [`log_prob_of`].
pub fn composed(hidden: &Tensor, head: &Tensor, targets: &[u32]) -> Result<Tensor> {
    let logits = super::linear::composed(hidden, head)?;
    let targets = Tensor::new(targets, hidden.device())?.unsqueeze(1)?;
    candle_nn::ops::log_softmax(&logits, D::Minus1)?.gather(&targets, 1)?.squeeze(1)
}

struct LogProb {
    targets: Vec<u32>,
    log_sums: OnceLock<Vec<f32>>,
}

/// Runs of at most `size` numbers that cover `0..n`, of equal length but for one.
fn chunks(n: usize, size: usize) -> Vec<Range<usize>> {
    let count = n.div_ceil(size);
    (0..count).map(|i| i * n / count..(i + 1) * n / count).collect()
}

impl CustomOp2 for LogProb {
    fn name(&self) -> &'static str {
        "log-prob"
    }

    fn cpu_fwd(&self, h: &CpuStorage, hl: &Layout, w: &CpuStorage, wl: &Layout) -> Result<(CpuStorage, Shape)> {
        let ((n, d), (vocab, dw)) = (hl.shape().dims2()?, wl.shape().dims2()?);
        if d != dw {
            candle_core::bail!("log-prob: rows of {d} do not fit a matrix of {:?}", wl.dims())
        }
        // Greatest logit so far, sum of exponentials relative to it, the target's logit.
        let mut state = vec![(f32::NEG_INFINITY, 0f32, 0f32); n];
        for rows in chunks(n, ROWS) {
            let hidden = Layout::contiguous_with_offset((rows.len(), d), hl.start_offset() + rows.start * d);
            for Range { start: tokens, end } in chunks(vocab, TOKENS) {
                let count = end - tokens;
                let head = Layout::contiguous_with_offset((count, d), wl.start_offset() + tokens * d);
                let logits = h.matmul(w, (1, rows.len(), count, d), &hidden, &head.transpose(0, 1)?)?;
                let CpuStorage::F32(logits) = logits else { candle_core::bail!("log-prob needs f32 numbers") };
                let state = state[rows.clone()].par_iter_mut().zip(&self.targets[rows.clone()]);
                state.zip(logits.par_chunks_exact(count)).for_each(|(((most, total, at), target), logits)| {
                    let new = most.max(cpu::max(logits));
                    let sum = cpu::sum2(logits, logits, |x, _, s| s + cpu::exp(x - new));
                    *total = cpu::fma(*total, cpu::exp(*most - new), sum);
                    *most = new;
                    if let Some(x) = (*target as usize).checked_sub(tokens).and_then(|i| logits.get(i)) {
                        *at = *x;
                    }
                });
            }
        }
        let log_sums: Vec<f32> = state.iter().map(|(most, total, _)| most + total.ln()).collect();
        let out = state.iter().zip(&log_sums).map(|((_, _, at), sum)| at - sum).collect();
        let _ = self.log_sums.set(log_sums);
        Ok((CpuStorage::F32(out), Shape::from(n)))
    }

    fn bwd(&self, h: &Tensor, w: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let Some(log_sums) = self.log_sums.get() else { candle_core::bail!("log-prob: backward before forward") };
        let ((n, d), vocab) = (h.dims2()?, w.dim(0)?);
        let (to_h, to_w) = (h.track_op(), w.track_op());
        let (h, w, dy) = (h.detach(), w.detach(), dy.contiguous()?);
        let dy = Floats::of(&dy)?;
        let mut dh = vec![0f32; if to_h { n * d } else { 0 }];
        let mut dw = vec![0f32; if to_w { vocab * d } else { 0 }];
        for rows in chunks(n, ROWS) {
            let hidden = h.narrow(0, rows.start, rows.len())?;
            for Range { start: tokens, end } in chunks(vocab, TOKENS) {
                let count = end - tokens;
                let head = w.narrow(0, tokens, count)?;
                let slopes = self.slopes(&hidden.matmul(&head.t()?)?, rows.start, tokens, log_sums, &dy)?;
                if to_h {
                    add(&mut dh[rows.start * d..rows.end * d], &slopes.matmul(&head)?)?;
                }
                if to_w {
                    add(&mut dw[tokens * d..(tokens + count) * d], &slopes.t()?.matmul(&hidden)?)?;
                }
            }
        }
        let tensor = |numbers, like: &Tensor| Tensor::from_vec(numbers, like.shape(), like.device());
        Ok((to_h.then(|| tensor(dh, &h)).transpose()?, to_w.then(|| tensor(dw, &w)).transpose()?))
    }
}

impl LogProb {
    /// `dy (onehot - P)` of some rows and tokens, from their logits.
    fn slopes(&self, logits: &Tensor, row: usize, token: usize, log_sums: &[f32], dy: &[f32]) -> Result<Tensor> {
        let (rows, count) = logits.dims2()?;
        let logits = Floats::of(logits)?;
        let mut out = vec![0f32; rows * count];
        cpu::rows(&mut out, count, |i, out| {
            let (log_sum, dy) = (log_sums[row + i], dy[row + i]);
            for (o, x) in out.iter_mut().zip(&logits[i * count..][..count]) {
                *o = -dy * cpu::exp(x - log_sum);
            }
            if let Some(o) = (self.targets[row + i] as usize).checked_sub(token).and_then(|t| out.get_mut(t)) {
                *o += dy;
            }
        });
        Tensor::from_vec(out, (rows, count), &candle_core::Device::Cpu)
    }
}

fn add(to: &mut [f32], from: &Tensor) -> Result<()> {
    let from = Floats::of(from)?;
    const PART: usize = 1 << 16;
    to.par_chunks_mut(PART).zip(from.par_chunks(PART)).for_each(|(to, from)| {
        to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
    });
    Ok(())
}
