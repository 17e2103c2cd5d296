//! The differentiable operations that Llama is made of. candle-nn's `softmax_last_dim`, `rms_norm` and `rope` cut the
//! gradient without a word, so none of them is used: each operation here has a backward, checked against finite
//! differences.

mod attention;
mod rope;

pub use attention::{Packed, Segment};
pub use rope::{RopeRows, RopeTable, frequencies, rope};

use candle_core::{D, Result, Tensor};

/// `x W^T`: `[N, in]` by `[out, in]` to `[N, out]`.
///
/// # Errors
/// Whatever candle reports; so for the functions below.
pub fn linear(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    x.matmul(&w.t()?)
}

/// RMSNorm (arXiv 1910.07467): `x / sqrt(mean(x^2) + eps) * w` over the last dimension.
pub fn rms_norm(x: &Tensor, w: &Tensor, eps: f64) -> Result<Tensor> {
    let scale = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    x.broadcast_div(&scale)?.broadcast_mul(w)
}

/// SwiGLU (arXiv 2002.05202): `silu(gate) * up`.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.silu()? * up
}
