//! SwiGLU (arXiv 2002.05202): `silu(gate) * up`, where `silu(x) = x sigmoid(x)`.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::cpu::{self, Floats};
use super::float::widened;

/// Computes `silu(gate) * up` for two `[N, F]`. Half precision is widened: the result is f32.
///
/// # Errors
/// The shapes differ, or candle fails.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    let (gate, up) = (widened(gate)?, widened(up)?);
    if !cpu::applies(&gate) || gate.elem_count() == 0 {
        return composed(&gate, &up);
    }
    gate.contiguous()?.apply_op2(&up.contiguous()?, SwiGlu)
}

/// Computes the same with candle's operations: the definition, used for other devices and types.
///
/// # Errors
/// As [`swiglu`].
pub fn composed(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    widened(gate)?.silu()? * widened(up)?
}

/// Elements per task of one thread.
const PART: usize = 1 << 14;

/// Computes `silu(gate) * up`, element by element.
pub(in crate::model) fn forward(gate: &[f32], up: &[f32], out: &mut [f32]) {
    let part = |((y, g), u): ((&mut [f32], &[f32]), &[f32])| {
        for ((y, g), u) in y.iter_mut().zip(g).zip(u) {
            *y = g * cpu::sigmoid(*g) * u;
        }
    };
    if out.len() <= PART {
        part(((out, gate), up));
    } else {
        out.par_chunks_mut(PART).zip(gate.par_chunks(PART)).zip(up.par_chunks(PART)).for_each(part);
    }
}

/// Replaces gate and up with their gradients. With s = sigmoid(g):
/// d up = dy g s, d gate = dy u s (1 + g (1 - s)).
pub(in crate::model) fn backward(gate: &mut [f32], up: &mut [f32], dy: &[f32]) {
    let part = |((g, u), dy): ((&mut [f32], &mut [f32]), &[f32])| {
        for ((g, u), dy) in g.iter_mut().zip(u).zip(dy) {
            let s = cpu::sigmoid(*g);
            let to_up = dy * *g * s;
            *g = dy * *u * s * cpu::fma(*g, 1. - s, 1.);
            *u = to_up;
        }
    };
    gate.par_chunks_mut(PART).zip(up.par_chunks_mut(PART)).zip(dy.par_chunks(PART)).for_each(part);
}

struct SwiGlu;

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(&self, gate: &CpuStorage, gl: &Layout, up: &CpuStorage, ul: &Layout) -> Result<(CpuStorage, Shape)> {
        if gl.shape() != ul.shape() {
            candle_core::bail!("swiglu: gate is {:?}, up is {:?}", gl.dims(), ul.dims())
        }
        let (gate, up) = (cpu::slice(gate, gl, self.name())?, cpu::slice(up, ul, self.name())?);
        let mut out = vec![0f32; gate.len()];
        forward(gate, up, &mut out);
        Ok((CpuStorage::F32(out), gl.shape().clone()))
    }

    fn bwd(&self, gate: &Tensor, up: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let (mut g, mut u) = (Floats::of(gate)?.to_vec(), Floats::of(up)?.to_vec());
        backward(&mut g, &mut u, &Floats::of(&dy)?);
        let gradient = |numbers, like: &Tensor| -> Result<Option<Tensor>> {
            like.track_op().then(|| Tensor::from_vec(numbers, like.shape(), like.device())).transpose()
        };
        Ok((gradient(g, gate)?, gradient(u, up)?))
    }
}
