//! LoRA (arXiv 2106.09685): trains two low-rank matrices next to a frozen matrix W, `W + alpha / rank B A`.
//! Names, shapes and initial values are PEFT's.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Result, Tensor, Var};

use super::init;
use crate::model::config::Config;
use crate::model::ops;
use crate::model::ops::Dropout;

/// The matrices of a layer that may have an adapter, by PEFT's names: those that `all-linear` selects in a
/// Llama.
pub const TARGETS: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

/// The settings of an adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraConfig {
    /// Rows of A and columns of B, r.
    pub rank: usize,
    /// The adapter's output is scaled by `alpha / rank`.
    pub alpha: f64,
    /// Probability that a number of a matrix's input is dropped before A, in [0, 1); in training only.
    /// Draws depend only on seed, step, row, layer and matrix.
    pub dropout: f64,
    /// Matrices with an adapter: names of [`TARGETS`], in its order, each once.
    pub targets: Vec<&'static str>,
}

impl Default for LoraConfig {
    /// Rank 16 and alpha 32 on all matrices, without dropout.
    fn default() -> Self {
        Self { rank: 16, alpha: 32., dropout: 0., targets: TARGETS.to_vec() }
    }
}

impl LoraConfig {
    /// The factor of `B A`.
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }

    /// Name and shape of every weight of the adapter: A `[rank, in]` and B `[out, rank]`. Names are PEFT's
    /// without the prefix `base_model.model.`, for example `model.layers.0.self_attn.q_proj.lora_A.weight`.
    pub fn weights(&self, config: &Config) -> Vec<(String, Vec<usize>)> {
        let of_matrix = |(name, shape): (String, Vec<usize>)| {
            let module = name.strip_suffix(".weight")?;
            let target = module.rsplit('.').next()?;
            let &[out, input] = shape.as_slice() else { return None };
            let pair = [("lora_A", vec![self.rank, input]), ("lora_B", vec![out, self.rank])];
            self.targets.contains(&target).then(|| pair.map(|(part, shape)| (format!("{module}.{part}.weight"), shape)))
        };
        config.weights().into_iter().filter_map(of_matrix).flatten().collect()
    }

    /// Draws a new adapter: A uniform in `(-1 / sqrt(in), 1 / sqrt(in))` (Kaiming with a = sqrt 5), B zero.
    ///
    /// # Errors
    /// Returns any error of candle.
    pub fn init(&self, config: &Config, seed: u64, device: &Device) -> Result<BTreeMap<String, Tensor>> {
        let weight = |(name, shape): (String, Vec<usize>)| {
            let w = if name.ends_with("lora_B.weight") {
                Tensor::zeros(shape, DType::F32, device)?
            } else {
                let (n, bound) = (shape.iter().product(), 1. / (shape[1] as f64).sqrt());
                let mut uniform = init::uniform(seed, &name);
                let values: Vec<f32> = (0..n).map(|_| ((2. * uniform() - 1.) * bound) as f32).collect();
                Tensor::from_vec(values, shape, device)?
            };
            Ok((name, w))
        };
        self.weights(config).into_iter().map(weight).collect()
    }

    /// Creates f32 variables for the adapter's weights and checks their shapes.
    pub(crate) fn variables(
        &self,
        config: &Config,
        adapter: &BTreeMap<String, Tensor>,
        device: &Device,
    ) -> Result<BTreeMap<String, Var>> {
        let variable = |(name, shape): (String, Vec<usize>)| {
            let Some(w) = adapter.get(&name) else { candle_core::bail!("the adapter's weight `{name}` is missing") };
            if w.dims() != shape {
                candle_core::bail!("the adapter's weight `{name}` has shape {:?}, expected {shape:?}", w.dims())
            }
            Ok((name, Var::from_tensor(&w.to_dtype(DType::F32)?.to_device(device)?)?))
        };
        self.weights(config).into_iter().map(variable).collect()
    }
}

/// A frozen matrix with its adapter.
pub(crate) struct Adapted {
    /// W, `[out, in]`; never a variable.
    pub weight: Tensor,
    /// A, `[rank, in]`, f32.
    pub a: Tensor,
    /// B, `[out, rank]`, f32.
    pub b: Tensor,
    /// The factor of `B A`.
    pub scale: f64,
    /// Dropout of the input before A, in training.
    dropout: Dropout,
    /// Distinguishes this matrix's draws from those of other matrices.
    site: u64,
}

/// First dropout site of adapters, beyond all sites of layers.
const SITES: u64 = 1 << 32;

impl Adapted {
    /// Adapts the matrix `weight`, the target of that name in the layer, with its variables.
    pub(crate) fn new(
        weight: Tensor,
        vars: &BTreeMap<String, Var>,
        lora: &LoraConfig,
        layer: usize,
        target: &str,
    ) -> Result<Self> {
        let group = if matches!(target, "q_proj" | "k_proj" | "v_proj" | "o_proj") { "self_attn" } else { "mlp" };
        let get = |part: &str| match vars.get(&format!("model.layers.{layer}.{group}.{target}.{part}.weight")) {
            Some(var) => Ok(var.as_tensor().clone()),
            None => candle_core::bail!("the adapter has no {part} for {target} of layer {layer}"),
        };
        let place = TARGETS.iter().position(|t| *t == target).unwrap_or(0);
        let site = SITES + (TARGETS.len() * layer + place) as u64;
        let dropout = Dropout { rate: lora.dropout };
        Ok(Self { weight, a: get("lora_A")?, b: get("lora_B")?, scale: lora.scale(), dropout, site })
    }

    /// Shares the memory, without gradients.
    pub(crate) fn detached(&self) -> Self {
        Self { weight: self.weight.detach(), a: self.a.detach(), b: self.b.detach(), ..*self }
    }

    /// Computes `x W^T + scale dropout(x) A^T B^T`, with the adapter's part in f32. `keys` has one key per
    /// row; without it nothing is dropped.
    pub(crate) fn product(&self, x: &Tensor, keys: Option<&[u64]>) -> Result<Tensor> {
        let mut input = x.to_dtype(DType::F32)?;
        if let Some(keys) = keys.filter(|_| self.dropout.rate > 0.) {
            input = (input * self.dropout.mask(keys, self.site, x.dim(1)?, x.device())?)?;
        }
        // Scaled here because this matrix is the smallest.
        let inner = (ops::linear(&input, &self.a)? * self.scale)?;
        ops::linear(x, &self.weight)? + ops::linear(&inner, &self.b)?.to_dtype(x.dtype())?
    }

    /// Computes `W + scale B A` in f32.
    pub(crate) fn merged(&self) -> Result<Tensor> {
        merge(&self.weight, &self.a.detach(), &self.b.detach(), self.scale)
    }
}

/// Computes `W + scale B A` in f32.
pub(crate) fn merge(w: &Tensor, a: &Tensor, b: &Tensor, scale: f64) -> Result<Tensor> {
    w.to_dtype(DType::F32)? + (b.matmul(a)? * scale)?
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks `x W^T + scale (x m) A^T B^T`, with m drawn by the rows' keys, and that its average over keys
    /// is the product without dropout.
    #[test]
    fn dropout_is_on_the_adapters_input_only() -> Result<()> {
        let device = Device::Cpu;
        let mut uniform = init::uniform(7, "test");
        let mut random = |rows: usize, columns: usize| {
            let values: Vec<f32> = (0..rows * columns).map(|_| (4. * uniform() - 2.) as f32).collect();
            Tensor::from_vec(values, (rows, columns), &device)
        };
        let (n, input, out, rank) = (4, 40, 6, 3);
        let dropout = Dropout { rate: 0.25 };
        let (weight, a, b) = (random(out, input)?, random(rank, input)?, random(out, rank)?);
        let w = Adapted { weight, a, b, scale: 0.5, dropout, site: SITES + 9 };
        let x = random(n, input)?;
        let delta = |x: &Tensor| x.matmul(&w.a.t()?)?.matmul(&w.b.t()?)? * 0.5;
        let plain = x.matmul(&w.weight.t()?)?;
        let off = |a: &Tensor, b: &Tensor| (a - b)?.abs()?.max_all()?.to_scalar::<f32>();
        assert!(off(&w.product(&x, None)?, &(&plain + delta(&x)?)?)? < 1e-4);
        let keys = [5, 6, 7, 8];
        let mask = dropout.mask(&keys, SITES + 9, input, &device)?;
        assert!(off(&w.product(&x, Some(&keys))?, &(&plain + delta(&(&x * &mask)?)?)?)? < 1e-4);
        let dropped = mask.flatten_all()?.to_vec1::<f32>()?.iter().filter(|m| **m == 0.).count();
        assert!((20..60).contains(&dropped), "{dropped} of 160");
        let mut mean = Tensor::zeros((n, out), DType::F32, &device)?;
        for draw in 0..2000u64 {
            mean = (mean + w.product(&x, Some(&[0, 1, 2, 3].map(|row| draw * 4 + row)))?)?;
        }
        let spread = off(&delta(&x)?, &Tensor::zeros((n, out), DType::F32, &device)?)?;
        assert!(off(&(mean / 2000.)?, &(&plain + delta(&x)?)?)? < 0.1 * spread.max(1.));
        Ok(())
    }
}
