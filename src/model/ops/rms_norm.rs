//! RMSNorm (arXiv 1910.07467): `y = x / sqrt(mean(x^2) + eps) * w` over the last dimension.

use candle_core::{CpuStorage, CustomOp2, D, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::cpu::{self, Floats};

/// RMSNorm of `[N, D]` with the weight `[D]`.
///
/// # Errors
/// Shapes that do not fit, or whatever candle reports.
pub fn rms_norm(x: &Tensor, w: &Tensor, eps: f64) -> Result<Tensor> {
    if !cpu::applies(x) {
        return composed(x, w, eps);
    }
    x.contiguous()?.apply_op2(&w.contiguous()?, RmsNorm { eps: eps as f32 })
}

/// The same by candle's operations: the definition, and the way for other devices and types.
///
/// # Errors
/// As [`rms_norm`].
pub fn composed(x: &Tensor, w: &Tensor, eps: f64) -> Result<Tensor> {
    let scale = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    x.broadcast_div(&scale)?.broadcast_mul(w)
}

struct RmsNorm {
    eps: f32,
}

impl RmsNorm {
    fn scale(&self, x: &[f32]) -> f32 {
        1. / (cpu::dot(x, x) / x.len() as f32 + self.eps).sqrt()
    }

    /// With n = x s, s the row's scale: dx = s (dy w - n mean(dy w n)).
    fn to_x(&self, x: &[f32], w: &[f32], dy: &[f32]) -> Vec<f32> {
        let d = w.len();
        let mut out = vec![0f32; x.len()];
        cpu::rows(&mut out, d, |i, dx| {
            let (x, dy) = (&x[i * d..][..d], &dy[i * d..][..d]);
            let s = self.scale(x);
            for ((o, dy), w) in dx.iter_mut().zip(dy).zip(w) {
                *o = dy * w;
            }
            let mean = cpu::dot(dx, x) * s * s / d as f32;
            for (o, x) in dx.iter_mut().zip(x) {
                *o = s * (*o - mean * x);
            }
        });
        out
    }

    /// dw = sum over rows of dy n, by blocks of rows whose sums are added in order.
    fn to_w(&self, x: &[f32], dy: &[f32], d: usize) -> Vec<f32> {
        const ROWS: usize = 64;
        let block = |(x, dy): (&[f32], &[f32])| {
            let mut sum = vec![0f32; d];
            for (x, dy) in x.chunks_exact(d).zip(dy.chunks_exact(d)) {
                let s = self.scale(x);
                for ((o, x), dy) in sum.iter_mut().zip(x).zip(dy) {
                    *o = cpu::fma(*dy, x * s, *o);
                }
            }
            sum
        };
        let sums: Vec<Vec<f32>> = x.par_chunks(ROWS * d).zip(dy.par_chunks(ROWS * d)).map(block).collect();
        let mut out = vec![0f32; d];
        for sum in sums {
            out.iter_mut().zip(sum).for_each(|(o, s)| *o += s);
        }
        out
    }
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout, w: &CpuStorage, wl: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, w) = (cpu::slice(x, xl, self.name())?, cpu::slice(w, wl, self.name())?);
        let d = w.len();
        if d == 0 || xl.dims().last() != Some(&d) {
            candle_core::bail!("rms-norm: rows of {:?} do not fit a weight of {d}", xl.dims())
        }
        let mut out = vec![0f32; x.len()];
        cpu::rows(&mut out, d, |i, y| {
            let x = &x[i * d..][..d];
            let s = self.scale(x);
            for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
                *y = x * s * w;
            }
        });
        Ok((CpuStorage::F32(out), xl.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let (xs, ws, dys) = (Floats::of(x)?, Floats::of(w)?, Floats::of(&dy)?);
        let to_x = || Tensor::from_vec(self.to_x(&xs, &ws, &dys), x.shape(), x.device());
        let to_w = || Tensor::from_vec(self.to_w(&xs, &dys, ws.len()), w.shape(), w.device());
        Ok((x.track_op().then(to_x).transpose()?, w.track_op().then(to_w).transpose()?))
    }
}
