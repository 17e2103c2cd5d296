//! RMSNorm (arXiv 1910.07467): `y = x / sqrt(mean(x^2) + eps) * w` over the last dimension.

use candle_core::{CpuStorage, CustomOp2, D, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::cpu::{self, Floats};
use super::float::widened;

/// Applies RMSNorm to `[N, D]` with the weight `[D]`. Half precision is widened: the result is f32.
///
/// # Errors
/// The shapes do not match, or candle fails.
pub fn rms_norm(x: &Tensor, w: &Tensor, eps: f64) -> Result<Tensor> {
    let (x, w) = (widened(x)?, widened(w)?);
    if !cpu::applies(&x) {
        return composed(&x, &w, eps);
    }
    x.contiguous()?.apply_op2(&w.contiguous()?, RmsNorm { eps: eps as f32 })
}

/// Computes the same with candle's operations: the definition, used for other devices and types.
///
/// # Errors
/// As [`rms_norm`].
pub fn composed(x: &Tensor, w: &Tensor, eps: f64) -> Result<Tensor> {
    let (x, w) = (widened(x)?, widened(w)?);
    let scale = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    x.broadcast_div(&scale)?.broadcast_mul(&w)
}

/// `1 / sqrt(mean(x^2) + eps)` of a row.
fn scale(x: &[f32], eps: f32) -> f32 {
    1. / (cpu::dot(x, x) / x.len() as f32 + eps).sqrt()
}

/// Normalises the rows of `x`, each as long as `w`.
pub(in crate::model) fn forward(x: &[f32], w: &[f32], eps: f32, out: &mut [f32]) {
    let d = w.len();
    cpu::rows(out, d, |i, y| {
        let x = &x[i * d..][..d];
        let s = scale(x, eps);
        for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
            *y = x * s * w;
        }
    });
}

/// Replaces the gradient of the result with the gradient of the rows, in place. With n = x s, s the row's
/// scale: dx = s (dy w - n mean(dy w n)).
pub(in crate::model) fn to_x(x: &[f32], w: &[f32], eps: f32, dy: &mut [f32]) {
    let d = w.len();
    cpu::rows(dy, d, |i, dx| {
        let x = &x[i * d..][..d];
        let s = scale(x, eps);
        for (o, w) in dx.iter_mut().zip(w) {
            *o *= w;
        }
        let mean = cpu::dot(dx, x) * s * s / d as f32;
        for (o, x) in dx.iter_mut().zip(x) {
            *o = s * (*o - mean * x);
        }
    });
}

/// Adds the gradient of the weight: dw = sum over rows of dy n. Blocks of rows are summed in a fixed order.
pub(in crate::model) fn to_w(x: &[f32], eps: f32, dy: &[f32], dw: &mut [f32]) {
    const ROWS: usize = 64;
    let d = dw.len();
    let block = |(x, dy): (&[f32], &[f32])| {
        let mut sum = vec![0f32; d];
        for (x, dy) in x.chunks_exact(d).zip(dy.chunks_exact(d)) {
            let s = scale(x, eps);
            for ((o, x), dy) in sum.iter_mut().zip(x).zip(dy) {
                *o = cpu::fma(*dy, x * s, *o);
            }
        }
        sum
    };
    let sums: Vec<Vec<f32>> = x.par_chunks(ROWS * d).zip(dy.par_chunks(ROWS * d)).map(block).collect();
    for sum in sums {
        dw.iter_mut().zip(sum).for_each(|(o, s)| *o += s);
    }
}

struct RmsNorm {
    eps: f32,
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout, w: &CpuStorage, wl: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, w) = (cpu::slice(x, xl, self.name())?, cpu::slice(w, wl, self.name())?);
        if w.is_empty() || xl.dims().last() != Some(&w.len()) {
            candle_core::bail!("rms-norm: rows of {:?} do not fit a weight of {}", xl.dims(), w.len())
        }
        let mut out = vec![0f32; x.len()];
        forward(x, w, self.eps, &mut out);
        Ok((CpuStorage::F32(out), xl.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let (xs, ws, dys) = (Floats::of(x)?, Floats::of(w)?, Floats::of(&dy)?);
        let tensor = |numbers, like: &Tensor| Tensor::from_vec(numbers, like.shape(), like.device());
        let by_x = || {
            let mut dx = dys.to_vec();
            to_x(&xs, &ws, self.eps, &mut dx);
            tensor(dx, x)
        };
        let by_w = || {
            let mut dw = vec![0f32; ws.len()];
            to_w(&xs, self.eps, &dys, &mut dw);
            tensor(dw, w)
        };
        Ok((x.track_op().then(by_x).transpose()?, w.track_op().then(by_w).transpose()?))
    }
}
