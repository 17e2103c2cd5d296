//! Log-probabilities of given tokens without holding all logits at once.

use std::ops::Range;
use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp2, D, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::cpu::{self, Floats, Matrix};
use super::float::{FloatSlice, FloatTensor, widened};
use super::product::product;

/// Maximum number of vocabulary tokens, and of rows, whose logits are held at once: 16 MiB of logits.
const TOKENS: usize = 4096;
const ROWS: usize = 1024;
/// Maximum number of logits that a forward keeps for its backward: 64 MiB, whatever the number of rows and
/// tokens.
const MAX_KEPT_LOGITS: usize = 1 << 24;

/// Computes `log softmax(hidden head^T)` at `targets`: `hidden` is `[N, D]`, `head` is `[V, D]`, the result
/// is `[N]`.
///
/// Logits are computed for one part of the vocabulary at a time, and again in the backward pass. With P the
/// probabilities, the gradient of the logits is `dy (onehot - P)`. A row's bits do not depend on the number
/// of rows. Half precision is widened: the result is f32.
///
/// # Errors
/// A target is outside the vocabulary, the shapes do not match, or candle fails.
pub fn log_prob_of(hidden: &Tensor, head: &Tensor, targets: &[u32]) -> Result<Tensor> {
    let (n, vocab) = (hidden.dim(0)?, head.dim(0)?);
    if targets.len() != n {
        candle_core::bail!("log-prob: {n} rows, {} targets", targets.len())
    }
    if let Some(t) = targets.iter().find(|t| **t as usize >= vocab) {
        candle_core::bail!("log-prob: token {t} is outside the vocabulary of {vocab}")
    }
    let hidden = &widened(hidden)?;
    if !cpu::applies(hidden) || n == 0 {
        return composed(hidden, head, targets);
    }
    let op = LogProb { targets: targets.to_vec(), log_sums: OnceLock::new() };
    hidden.contiguous()?.apply_op2(&head.contiguous()?, op)
}

/// Computes the same with candle's operations, all logits at once: the definition, used for other devices
/// and types.
///
/// # Errors
/// As [`log_prob_of`].
pub fn composed(hidden: &Tensor, head: &Tensor, targets: &[u32]) -> Result<Tensor> {
    let logits = super::linear::composed(hidden, head)?;
    let targets = Tensor::new(targets, hidden.device())?.unsqueeze(1)?;
    candle_nn::ops::log_softmax(&logits, D::Minus1)?.gather(&targets, 1)?.squeeze(1)
}

/// Divides `0..n` into runs of at most `size` numbers. All runs but one have equal length.
fn chunks(n: usize, size: usize) -> Vec<Range<usize>> {
    let count = n.div_ceil(size);
    (0..count).map(|i| i * n / count..(i + 1) * n / count).collect()
}

/// Rows and the output matrix, both of width `d`.
#[derive(Clone, Copy)]
pub(in crate::model) struct LogProbRows<'a> {
    pub hidden: &'a [f32],
    pub head: FloatSlice<'a>,
    pub targets: &'a [u32],
    pub d: usize,
}

impl LogProbRows<'_> {
    /// Visits the logits in blocks of rows and tokens: calls back with the rows, the tokens and their
    /// logits. Reads the blocks in `kept` instead of computing them, and adds computed blocks to `keep`
    /// while there is room.
    fn logits(
        &self,
        kept: Logits,
        keep: Option<&mut Logits>,
        mut f: impl FnMut(Range<usize>, Range<usize>, &mut [f32]),
    ) {
        let (d, vocab) = (self.d, self.head.len() / self.d);
        let (mut kept, mut keep) = (kept.0.into_iter(), keep);
        let mut work = Vec::new();
        for rows in chunks(self.targets.len(), ROWS) {
            let hidden = Matrix::rows(&self.hidden[rows.start * d..rows.end * d], d);
            for tokens in chunks(vocab, TOKENS) {
                let count = rows.len() * tokens.len();
                if let Some(mut logits) = kept.next() {
                    f(rows.clone(), tokens, &mut logits);
                    continue;
                }
                let head = self.head.part(tokens.start * d..tokens.end * d);
                let head = Matrix::rows(&head, d);
                if work.len() < count {
                    work.resize(count, 0.);
                }
                product((rows.len(), tokens.len(), d), hidden, head.t(), &mut work[..count], false);
                f(rows.clone(), tokens, &mut work[..count]);
                // The first blocks are the ones kept, so their positions need not be stored.
                keep = keep.filter(|keep| keep.size() + count <= MAX_KEPT_LOGITS);
                if let Some(keep) = &mut keep {
                    work.truncate(count);
                    keep.0.push(std::mem::take(&mut work));
                }
            }
        }
    }

    /// Returns the log-probability of each row's target and the logarithm of the softmax's sum. Stores the
    /// first logits in `keep`, for [`LogProbRows::backward`].
    pub fn forward(&self, keep: Option<&mut Logits>) -> (Vec<f32>, Vec<f32>) {
        // Greatest logit so far, sum of exponentials relative to it, and the target's logit.
        let mut state = vec![(f32::NEG_INFINITY, 0f32, 0f32); self.targets.len()];
        self.logits(Logits::default(), keep, |rows, tokens, logits| {
            let state = state[rows.clone()].par_iter_mut().zip(&self.targets[rows]);
            state.zip(logits.par_chunks_exact(tokens.len())).for_each(|(((most, total, at), target), logits)| {
                let new = most.max(cpu::max(logits));
                let sum = cpu::sum2(logits, logits, |x, _, s| s + cpu::exp(x - new));
                *total = cpu::fma(*total, cpu::exp(*most - new), sum);
                *most = new;
                if let Some(x) = (*target as usize).checked_sub(tokens.start).and_then(|i| logits.get(i)) {
                    *at = *x;
                }
            });
        });
        let log_sums: Vec<f32> = state.iter().map(|(most, total, _)| most + total.ln()).collect();
        (state.iter().zip(&log_sums).map(|((_, _, at), sum)| at - sum).collect(), log_sums)
    }

    /// Writes the gradients of the rows. Adds the gradient of the matrix, or writes it if `fresh`. The
    /// gradient of the logits is `dy (onehot - P)`.
    pub fn backward(
        &self,
        kept: Logits,
        log_sums: &[f32],
        dy: &[f32],
        mut to_hidden: Option<&mut [f32]>,
        mut to_head: Option<(&mut [f32], bool)>,
    ) {
        let d = self.d;
        self.logits(kept, None, |rows, tokens, slopes| {
            let count = tokens.len();
            cpu::rows(slopes, count, |i, slopes| {
                let row = rows.start + i;
                let (log_sum, dy) = (log_sums[row], dy[row]);
                for x in slopes.iter_mut() {
                    *x = -dy * cpu::exp(*x - log_sum);
                }
                let at = (self.targets[row] as usize).checked_sub(tokens.start);
                if let Some(x) = at.and_then(|t| slopes.get_mut(t)) {
                    *x += dy;
                }
            });
            let slopes = Matrix::rows(slopes, count);
            if let Some(to) = &mut to_hidden {
                let head = self.head.part(tokens.start * d..tokens.end * d);
                let head = Matrix::rows(&head, d);
                let to = &mut to[rows.start * d..rows.end * d];
                product((rows.len(), d, count), slopes, head, to, tokens.start > 0);
            }
            if let Some((to, fresh)) = &mut to_head {
                let hidden = Matrix::rows(&self.hidden[rows.start * d..rows.end * d], d);
                let to = &mut to[tokens.start * d..tokens.end * d];
                product((count, d, rows.len()), slopes.t(), hidden, to, rows.start > 0 || !*fresh);
            }
        });
    }
}

/// The first logits of a forward, block by block; the backward pass need not recompute them.
#[derive(Default)]
pub(in crate::model) struct Logits(Vec<Vec<f32>>);

impl Logits {
    fn size(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }
}

struct LogProb {
    targets: Vec<u32>,
    log_sums: OnceLock<Vec<f32>>,
}

impl CustomOp2 for LogProb {
    fn name(&self) -> &'static str {
        "log-prob"
    }

    fn cpu_fwd(&self, h: &CpuStorage, hl: &Layout, w: &CpuStorage, wl: &Layout) -> Result<(CpuStorage, Shape)> {
        let ((n, d), (_, dw)) = (hl.shape().dims2()?, wl.shape().dims2()?);
        if d != dw {
            candle_core::bail!("log-prob: rows of {d} do not fit a matrix of {:?}", wl.dims())
        }
        let hidden = cpu::slice(h, hl, self.name())?;
        let Some(head) = FloatSlice::of_storage(w, wl) else {
            candle_core::bail!("log-prob needs contiguous numbers of a float type")
        };
        let (out, log_sums) = LogProbRows { hidden, head, targets: &self.targets, d }.forward(None);
        let _ = self.log_sums.set(log_sums);
        Ok((CpuStorage::F32(out), Shape::from(n)))
    }

    fn bwd(&self, h: &Tensor, w: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let Some(log_sums) = self.log_sums.get() else { candle_core::bail!("log-prob: backward before forward") };
        let dy = dy.contiguous()?;
        let (hidden, head) = (Floats::of(h)?, FloatTensor::of(w)?);
        let rows = LogProbRows { hidden: &hidden, head: head.slice(), targets: &self.targets, d: h.dim(1)? };
        let place = |of: &Tensor| of.track_op().then(|| vec![0f32; of.elem_count()]);
        let (mut dh, mut dw) = (place(h), place(w));
        rows.backward(
            Logits::default(),
            log_sums,
            &Floats::of(&dy)?,
            dh.as_deref_mut(),
            dw.as_deref_mut().map(|dw| (dw, true)),
        );
        let tensor = |numbers: Option<Vec<f32>>, like: &Tensor| -> Result<Option<Tensor>> {
            let numbers = numbers.map(|n| Tensor::from_vec(n, like.shape(), like.device())?.to_dtype(like.dtype()));
            numbers.transpose()
        };
        Ok((tensor(dh, h)?, tensor(dw, w)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logits_that_are_kept_and_those_that_find_no_room_give_the_same_gradients() {
        let (n, vocab, d) = (1100, 16_400, 4);
        let numbers =
            |n: usize, s: usize| (0..n).map(|i| ((i * 7919 + s) % 997) as f32 / 500. - 1.).collect::<Vec<_>>();
        let (hidden, head, dy) = (numbers(n * d, 1), numbers(vocab * d, 2), numbers(n, 3));
        let targets: Vec<u32> = (0..n).map(|i| (i * 31 % vocab) as u32).collect();
        let rows = LogProbRows { hidden: &hidden, head: FloatSlice::F32(&head), targets: &targets, d };
        let mut kept = Logits::default();
        let (log_probs, log_sums) = rows.forward(Some(&mut kept));
        assert_eq!((log_probs, log_sums.clone()), rows.forward(None));
        let parts = chunks(n, ROWS).len() * chunks(vocab, TOKENS).len();
        assert!(
            !kept.0.is_empty() && kept.0.len() < parts && kept.size() <= MAX_KEPT_LOGITS,
            "{} of {parts}",
            kept.0.len()
        );
        let backward = |kept| {
            let (mut to_hidden, mut to_head) = (vec![0.; n * d], vec![0.; vocab * d]);
            rows.backward(kept, &log_sums, &dy, Some(&mut to_hidden), Some((&mut to_head, true)));
            (to_hidden, to_head)
        };
        assert!(backward(kept) == backward(Logits::default()));
    }
}
