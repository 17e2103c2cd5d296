//! Rotary position embedding (arXiv 2104.09864) in Hugging Face's half-split layout, with Llama 3's and linear scaling.

use candle_core::{DType, Device, Result, Tensor};

use crate::model::Config;

/// Cosines and sines of every position, computed once in f32 as transformers does.
pub struct RopeTable {
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

/// The cosines and sines of N rows, each `[N, 1, head_dim / 2]`.
pub struct RopeRows {
    /// Cosines.
    pub cos: Tensor,
    /// Sines.
    pub sin: Tensor,
}

impl RopeTable {
    /// The table of `max_position_embeddings` positions.
    ///
    /// # Errors
    /// An unknown `rope_type`.
    pub fn new(config: &Config) -> Result<Self> {
        let half = config.head_dim() / 2;
        let mut frequencies: Vec<f32> =
            (0..half).map(|i| 1. / (config.rope_theta as f32).powf(2. * i as f32 / config.head_dim() as f32)).collect();
        if let Some(scaling) = &config.rope_scaling {
            match scaling.rope_type.as_str() {
                "default" => {}
                "linear" => frequencies.iter_mut().for_each(|f| *f /= scaling.factor as f32),
                "llama3" => {
                    let original = scaling.original_max_position_embeddings as f32;
                    let (low, high) = (scaling.low_freq_factor as f32, scaling.high_freq_factor as f32);
                    for f in &mut frequencies {
                        let wavelength = 2. * std::f32::consts::PI / *f;
                        if wavelength > original / low {
                            *f /= scaling.factor as f32;
                        } else if wavelength >= original / high {
                            let smooth = (original / wavelength - low) / (high - low);
                            *f = (1. - smooth) * *f / scaling.factor as f32 + smooth * *f;
                        }
                    }
                }
                other => candle_core::bail!("rope_type `{other}` is not known; there are default, linear and llama3"),
            }
        }
        let angles = || {
            (0..config.max_position_embeddings)
                .flat_map(|p| frequencies.iter().map(move |f| p as f32 * f))
                .collect::<Vec<f32>>()
        };
        let (cos, sin) = (angles().iter().map(|a| a.cos()).collect(), angles().iter().map(|a| a.sin()).collect());
        Ok(Self { half, cos, sin })
    }

    /// The rows of the given positions.
    ///
    /// # Errors
    /// A position beyond the table.
    pub fn rows(&self, positions: &[u32], device: &Device, dtype: DType) -> Result<RopeRows> {
        let gather = |table: &[f32]| -> Result<Tensor> {
            let mut rows = Vec::with_capacity(positions.len() * self.half);
            for &p in positions {
                let start = p as usize * self.half;
                let Some(row) = table.get(start..start + self.half) else {
                    candle_core::bail!(
                        "position {p} is beyond the model's {} positions",
                        table.len() / self.half.max(1)
                    )
                };
                rows.extend_from_slice(row);
            }
            Tensor::from_vec(rows, (positions.len(), 1, self.half), device)?.to_dtype(dtype)
        };
        Ok(RopeRows { cos: gather(&self.cos)?, sin: gather(&self.sin)? })
    }
}

/// Rotates `[N, heads, head_dim]`.
///
/// # Errors
/// Whatever candle reports.
pub fn rope(x: &Tensor, rows: &RopeRows) -> Result<Tensor> {
    let half = x.dim(2)? / 2;
    let (a, b) = (x.narrow(2, 0, half)?, x.narrow(2, half, half)?);
    let first = (a.broadcast_mul(&rows.cos)? - b.broadcast_mul(&rows.sin)?)?;
    let second = (b.broadcast_mul(&rows.cos)? + a.broadcast_mul(&rows.sin)?)?;
    Tensor::cat(&[first, second], 2)
}
