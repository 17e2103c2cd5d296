//! Rotary position embedding (arXiv 2104.09864) in Hugging Face's half-split layout, with Llama 3 scaling and
//! linear scaling.

use candle_core::{CpuStorage, CustomOp3, DType, Device, Layout, Result, Shape, Tensor};

use super::cpu;
use super::float::widened;
use crate::model::config::Config;

/// Returns the frequency of each of the `head_dim / 2` rotations, in f32 as transformers computes them.
///
/// # Errors
/// The `rope_type` is unknown, or a scaling lacks a parameter.
pub fn frequencies(config: &Config) -> Result<Vec<f32>> {
    let half = config.head_dim() / 2;
    let mut frequencies: Vec<f32> =
        (0..half).map(|i| 1. / (config.rope_theta as f32).powf(2. * i as f32 / config.head_dim() as f32)).collect();
    let Some(scaling) = &config.rope_scaling else { return Ok(frequencies) };
    let factor = scaling.factor as f32;
    if !(factor.is_finite() && factor > 0.) {
        candle_core::bail!("rope_scaling: factor is {factor}; it must be positive")
    }
    match scaling.rope_type.as_str() {
        "default" => {}
        "linear" => frequencies.iter_mut().for_each(|f| *f /= factor),
        "llama3" => {
            let original = scaling.original_max_position_embeddings as f32;
            let (low, high) = (scaling.low_freq_factor as f32, scaling.high_freq_factor as f32);
            if !(original > 0. && low > 0. && high > low) {
                candle_core::bail!(
                    "rope_scaling: llama3 needs original_max_position_embeddings, and low_freq_factor < high_freq_factor"
                )
            }
            for f in &mut frequencies {
                let wavelength = 2. * std::f32::consts::PI / *f;
                if wavelength > original / low {
                    *f /= factor;
                } else if wavelength >= original / high {
                    let smooth = (original / wavelength - low) / (high - low);
                    *f = (1. - smooth) * *f / factor + smooth * *f;
                }
            }
        }
        other => candle_core::bail!("rope_type `{other}` is unknown; known types are default, linear and llama3"),
    }
    Ok(frequencies)
}

/// Computes the cosines and sines of a batch's rows on demand. A few dozen per row cost nothing compared
/// with its matrix products; a table of all positions of a long-context model would take hundreds of MB.
pub struct RopeTable {
    positions: usize,
    frequencies: Vec<f32>,
}

/// Cosines and sines of N rows, each `[N, 1, head_dim / 2]`.
#[derive(Clone)]
pub struct RopeRows {
    /// Cosines.
    pub cos: Tensor,
    /// Sines.
    pub sin: Tensor,
}

impl RopeTable {
    /// Creates the table for positions up to `max_position_embeddings`.
    ///
    /// # Errors
    /// As [`frequencies`].
    pub fn new(config: &Config) -> Result<Self> {
        Ok(Self { positions: config.max_position_embeddings, frequencies: frequencies(config)? })
    }

    /// Returns the cosines and sines of the given positions, `[N, head_dim / 2]`.
    ///
    /// # Errors
    /// A position is beyond the model's context.
    pub fn angles(&self, positions: &[u32]) -> Result<(Vec<f32>, Vec<f32>)> {
        if let Some(p) = positions.iter().find(|p| **p as usize >= self.positions) {
            candle_core::bail!("position {p} is beyond the model's {} positions", self.positions)
        }
        let size = positions.len() * self.frequencies.len();
        let (mut cos, mut sin) = (Vec::with_capacity(size), Vec::with_capacity(size));
        for &p in positions {
            for f in &self.frequencies {
                let (s, c) = (p as f32 * f).sin_cos();
                cos.push(c);
                sin.push(s);
            }
        }
        Ok((cos, sin))
    }

    /// Returns the same as tensors on a device.
    ///
    /// # Errors
    /// As [`RopeTable::angles`].
    pub fn rows(&self, positions: &[u32], device: &Device, dtype: DType) -> Result<RopeRows> {
        let (cos, sin) = self.angles(positions)?;
        let shape = (positions.len(), 1, self.frequencies.len());
        let tensor = |v: Vec<f32>| Tensor::from_vec(v, shape, device)?.to_dtype(dtype);
        Ok(RopeRows { cos: tensor(cos)?, sin: tensor(sin)? })
    }
}

/// Rotates `[N, heads, head_dim]`. Half precision is widened: the result is f32.
///
/// # Errors
/// The shapes do not match, or candle fails.
pub fn rope(x: &Tensor, rows: &RopeRows) -> Result<Tensor> {
    let x = widened(x)?;
    if !cpu::applies(&x) || x.elem_count() == 0 {
        return composed(&x, rows);
    }
    x.contiguous()?.apply_op3(&widened(&rows.cos)?, &widened(&rows.sin)?, Rope { back: false })
}

/// Computes the same with candle's operations: the definition, used on devices other than the CPU.
///
/// # Errors
/// Returns any error of candle.
pub fn composed(x: &Tensor, rows: &RopeRows) -> Result<Tensor> {
    let (x, cos, sin) = (widened(x)?, widened(&rows.cos)?, widened(&rows.sin)?);
    let half = x.dim(2)? / 2;
    let (a, b) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
    let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
    Tensor::cat(&[first, second], 2)
}

/// Rotates `[N, heads, 2 half]` in place by the angles of each row, `[N, half]`. The inverse rotation is
/// also the gradient.
pub(in crate::model) fn rotate(x: &mut [f32], heads: usize, (cos, sin): (&[f32], &[f32]), half: usize, back: bool) {
    let sign = if back { -1. } else { 1. };
    let width = 2 * half;
    cpu::rows(x, heads * width, |i, row| {
        let (cos, sin) = (&cos[i * half..][..half], &sin[i * half..][..half]);
        for head in row.chunks_exact_mut(width) {
            let (a, b) = head.split_at_mut(half);
            for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
                let sin = sign * sin;
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
    });
}

/// The rotation or its inverse.
struct Rope {
    back: bool,
}

impl CustomOp3 for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        cos: &CpuStorage,
        cl: &Layout,
        sin: &CpuStorage,
        sl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (n, heads, width) = xl.shape().dims3()?;
        let half = width / 2;
        if cl.dims() != [n, 1, half] || sl.dims() != [n, 1, half] || width % 2 != 0 {
            candle_core::bail!("rope: x is {:?}, the cosines {:?}", xl.dims(), cl.dims())
        }
        let mut out = cpu::slice(x, xl, self.name())?.to_vec();
        let angles = (cpu::slice(cos, cl, self.name())?, cpu::slice(sin, sl, self.name())?);
        rotate(&mut out, heads, angles, half, self.back);
        Ok((CpuStorage::F32(out), xl.shape().clone()))
    }

    fn bwd(
        &self,
        _x: &Tensor,
        cos: &Tensor,
        sin: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dx = dy.contiguous()?.apply_op3_no_bwd(cos, sin, &Rope { back: !self.back })?;
        Ok((Some(dx), None, None))
    }
}
