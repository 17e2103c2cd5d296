//! SwiGLU (arXiv 2002.05202): `silu(gate) * up`, where `silu(x) = x sigmoid(x)`.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use super::cpu::{self, Floats};

/// `silu(gate) * up` of two `[N, F]`.
///
/// # Errors
/// Shapes that differ, or whatever candle reports.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if !cpu::applies(gate) || gate.elem_count() == 0 {
        return composed(gate, up);
    }
    gate.contiguous()?.apply_op2(&up.contiguous()?, SwiGlu)
}

/// The same by candle's operations: the definition, and the way for other devices and types.
///
/// # Errors
/// As [`swiglu`].
pub fn composed(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.silu()? * up
}

struct SwiGlu;

/// Elements that are handled as one row.
fn width(shape: &Shape) -> usize {
    shape.dims().last().copied().unwrap_or(1).max(1)
}

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(&self, gate: &CpuStorage, gl: &Layout, up: &CpuStorage, ul: &Layout) -> Result<(CpuStorage, Shape)> {
        if gl.shape() != ul.shape() {
            candle_core::bail!("swiglu: gate is {:?}, up is {:?}", gl.dims(), ul.dims())
        }
        let (gate, up) = (cpu::slice(gate, gl, self.name())?, cpu::slice(up, ul, self.name())?);
        let w = width(gl.shape());
        let mut out = vec![0f32; gate.len()];
        cpu::rows(&mut out, w, |i, y| {
            for ((y, g), u) in y.iter_mut().zip(&gate[i * w..][..w]).zip(&up[i * w..][..w]) {
                *y = g * cpu::sigmoid(*g) * u;
            }
        });
        Ok((CpuStorage::F32(out), gl.shape().clone()))
    }

    /// With s = sigmoid(g): d up = dy g s, d gate = dy u s (1 + g (1 - s)).
    fn bwd(&self, gate: &Tensor, up: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let (g, u, d) = (Floats::of(gate)?, Floats::of(up)?, Floats::of(&dy)?);
        let (g, u, d): (&[f32], &[f32], &[f32]) = (&g, &u, &d);
        let w = width(gate.shape());
        let gradient = |f: &(dyn Fn(usize, &mut [f32]) + Sync)| {
            let mut out = vec![0f32; g.len()];
            cpu::rows(&mut out, w, f);
            Tensor::from_vec(out, gate.shape(), gate.device())
        };
        let to_gate = |i: usize, out: &mut [f32]| {
            let (g, u, d) = (&g[i * w..][..w], &u[i * w..][..w], &d[i * w..][..w]);
            for j in 0..out.len() {
                let s = cpu::sigmoid(g[j]);
                out[j] = d[j] * u[j] * s * cpu::fma(g[j], 1. - s, 1.);
            }
        };
        let to_up = |i: usize, out: &mut [f32]| {
            let (g, d) = (&g[i * w..][..w], &d[i * w..][..w]);
            for j in 0..out.len() {
                out[j] = d[j] * g[j] * cpu::sigmoid(g[j]);
            }
        };
        Ok((
            gate.track_op().then(|| gradient(&to_gate)).transpose()?,
            up.track_op().then(|| gradient(&to_up)).transpose()?,
        ))
    }
}
