//! AdamW (arXiv 1711.05101) as `torch.optim.AdamW` computes it: weight decay is decoupled and comes first, epsilon is
//! added after the bias correction. Element by element, in place, in f32: no order of threads can show.

use std::collections::BTreeMap;

use candle_core::{CpuStorage, DType, InplaceOp2, InplaceOp3, Layout, Tensor, Var};
use rayon::prelude::*;

use crate::error::{Context, Error, Result};

/// Elements that one thread takes at a time; also the unit in which sums of squares are added up.
const CHUNK: usize = 1 << 15;

/// The settings of [`AdamW`].
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct AdamWConfig {
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of squared gradients.
    pub beta2: f64,
    /// Added to the root of the mean of squares.
    pub eps: f64,
    /// Decoupled weight decay per unit of learning rate; matrices only, never norms or other one-dimensional weights.
    pub weight_decay: f64,
    /// Gradients are scaled down to this L2 norm over all of them; 0 leaves them alone.
    pub max_grad_norm: f64,
}

impl Default for AdamWConfig {
    /// TRL's defaults.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0., max_grad_norm: 1. }
    }
}

/// The optimizer: settings, moments, and how many steps it took.
pub struct AdamW {
    config: AdamWConfig,
    steps: u32,
    /// Variable, mean of gradients, mean of squares.
    slots: BTreeMap<String, (Var, Tensor, Tensor)>,
}

impl AdamW {
    /// For the given variables, with zero moments.
    ///
    /// # Errors
    /// A variable that is not f32, or no memory.
    pub fn new(variables: &BTreeMap<String, Var>, config: AdamWConfig) -> Result<Self> {
        let mut slots = BTreeMap::new();
        for (name, var) in variables {
            if var.dtype() != DType::F32 {
                let message = format!("weight `{name}` is {:?}; only f32 weights are trained", var.dtype());
                return Err(Error::user(message).help("load the model with dtype = \"f32\""));
            }
            let zeros = || var.zeros_like();
            slots.insert(name.clone(), (var.clone(), zeros()?, zeros()?));
        }
        Ok(Self { config, steps: 0, slots })
    }

    /// Steps taken.
    pub fn steps(&self) -> u32 {
        self.steps
    }

    /// The moments under torch's names, `exp_avg.WEIGHT` and `exp_avg_sq.WEIGHT`. They share memory with the optimizer:
    /// write or copy them before the next step.
    pub fn moments(&self) -> BTreeMap<String, Tensor> {
        let named = |(name, (_, m, v)): (&String, &(Var, Tensor, Tensor))| {
            [(format!("exp_avg.{name}"), m.clone()), (format!("exp_avg_sq.{name}"), v.clone())]
        };
        self.slots.iter().flat_map(named).collect()
    }

    /// Puts back the moments of an earlier [`AdamW::moments`] and the number of steps they had.
    ///
    /// # Errors
    /// One is missing or has another shape; nothing is changed then.
    pub fn restore(&mut self, moments: &BTreeMap<String, Tensor>, steps: u32) -> Result<()> {
        let mut restored = BTreeMap::new();
        for (name, (var, ..)) in &self.slots {
            let get = |kind: &str| -> Result<Tensor> {
                let key = format!("{kind}.{name}");
                let t = moments.get(&key).ok_or_else(|| Error::user(format!("the checkpoint has no `{key}`")))?;
                if t.dims() != var.dims() || t.dtype() != DType::F32 {
                    let message = format!("`{key}` is {:?} {:?}, expected F32 {:?}", t.dtype(), t.dims(), var.dims());
                    return Err(Error::user(message));
                }
                Ok(t.to_device(var.device())?.force_contiguous()?)
            };
            restored.insert(name.clone(), (var.clone(), get("exp_avg")?, get("exp_avg_sq")?));
        }
        (self.slots, self.steps) = (restored, steps);
        Ok(())
    }

    /// L2 norm over all gradients: f64, in an order that depends on shapes alone.
    ///
    /// # Errors
    /// Whatever candle reports.
    pub fn norm(gradients: &BTreeMap<String, Tensor>) -> Result<f64> {
        let mut sum = 0.;
        for g in gradients.values() {
            sum += if g.device().is_cpu() { squares(g)? } else { g.sqr()?.sum_all()?.to_scalar::<f32>()?.into() };
        }
        Ok(sum.sqrt())
    }

    /// Clips and applies gradients, one per variable, at the given rate; returns their norm before clipping. If that
    /// norm is not finite nothing is changed, and the caller finds it in the result.
    ///
    /// # Errors
    /// Whatever candle reports.
    pub fn step(&mut self, gradients: &BTreeMap<String, Tensor>, learning_rate: f64) -> Result<f64> {
        let norm = Self::norm(gradients)?;
        if !norm.is_finite() {
            return Ok(norm);
        }
        self.steps += 1;
        let c = self.config;
        // torch's clip_grad_norm_.
        let clip = if c.max_grad_norm > 0. { (c.max_grad_norm / (norm + 1e-6)).min(1.) } else { 1. };
        let correction = |beta: f64| 1. - beta.powf(f64::from(self.steps));
        for (name, (var, m, v)) in &self.slots {
            let Some(g) = gradients.get(name) else { continue };
            let decay = if var.rank() > 1 { 1. - learning_rate * c.weight_decay } else { 1. };
            let update = Update {
                decay: decay as f32,
                step_size: (learning_rate / correction(c.beta1)) as f32,
                root_correction: correction(c.beta2).sqrt() as f32,
                eps: c.eps as f32,
            };
            if var.device().is_cpu() {
                m.inplace_op2(g, &Mean { rest: (1. - c.beta1) as f32, scale: clip as f32 })?;
                v.inplace_op2(
                    g,
                    &MeanSquare { keep: c.beta2 as f32, rest: (1. - c.beta2) as f32, scale: clip as f32 },
                )?;
                var.inplace_op3(m, v, &update)?;
            } else {
                update.composed(var, m, v, &(g * clip)?, c).doing(|| format!("updating `{name}`"))?;
            }
        }
        Ok(norm)
    }
}

/// The contiguous f32 elements of a CPU tensor.
fn elements<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => candle_core::bail!("a gradient or moment is not contiguous"),
    }
}
fn elements_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> candle_core::Result<&'a mut [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle_core::bail!("a weight or moment is not contiguous")
    };
    match storage {
        CpuStorage::F32(all) => Ok(&mut all[start..end]),
        _ => candle_core::bail!("a weight or moment is not f32"),
    }
}

/// Sum of squares in f64: eight lanes within a chunk, then chunk by chunk.
fn squares(t: &Tensor) -> candle_core::Result<f64> {
    let t = t.contiguous()?;
    let (storage, layout) = t.storage_and_layout();
    let candle_core::Storage::Cpu(storage) = &*storage else { candle_core::bail!("not on the CPU") };
    let chunks: Vec<f64> = elements(storage, layout)?
        .par_chunks(CHUNK)
        .map(|chunk| {
            let mut lanes = [0f64; 8];
            for eight in chunk.chunks(8) {
                lanes.iter_mut().zip(eight).for_each(|(lane, &x)| *lane += f64::from(x) * f64::from(x));
            }
            lanes.iter().sum::<f64>()
        })
        .collect();
    Ok(chunks.iter().sum())
}

/// `m += (1 - beta1) (scale g - m)`.
struct Mean {
    rest: f32,
    scale: f32,
}
impl InplaceOp2 for Mean {
    fn name(&self) -> &'static str {
        "adamw-mean"
    }
    fn cpu_fwd(&self, m: &mut CpuStorage, ml: &Layout, g: &CpuStorage, gl: &Layout) -> candle_core::Result<()> {
        let (m, g) = (elements_mut(m, ml)?, elements(g, gl)?);
        m.par_chunks_mut(CHUNK).zip(g.par_chunks(CHUNK)).for_each(|(m, g)| {
            m.iter_mut().zip(g).for_each(|(m, &g)| *m += self.rest * (g * self.scale - *m));
        });
        Ok(())
    }
}

/// `v = beta2 v + (1 - beta2) (scale g)^2`.
struct MeanSquare {
    keep: f32,
    rest: f32,
    scale: f32,
}
impl InplaceOp2 for MeanSquare {
    fn name(&self) -> &'static str {
        "adamw-mean-square"
    }
    fn cpu_fwd(&self, v: &mut CpuStorage, vl: &Layout, g: &CpuStorage, gl: &Layout) -> candle_core::Result<()> {
        let (v, g) = (elements_mut(v, vl)?, elements(g, gl)?);
        v.par_chunks_mut(CHUNK).zip(g.par_chunks(CHUNK)).for_each(|(v, g)| {
            for (v, &g) in v.iter_mut().zip(g) {
                let g = g * self.scale;
                *v = *v * self.keep + self.rest * g * g;
            }
        });
        Ok(())
    }
}

/// `p = decay p - step_size m / (sqrt(v) / root_correction + eps)`.
struct Update {
    decay: f32,
    step_size: f32,
    root_correction: f32,
    eps: f32,
}
impl InplaceOp3 for Update {
    fn name(&self) -> &'static str {
        "adamw-update"
    }
    fn cpu_fwd(
        &self,
        p: &mut CpuStorage,
        pl: &Layout,
        m: &CpuStorage,
        ml: &Layout,
        v: &CpuStorage,
        vl: &Layout,
    ) -> candle_core::Result<()> {
        let (p, m, v) = (elements_mut(p, pl)?, elements(m, ml)?, elements(v, vl)?);
        p.par_chunks_mut(CHUNK).zip(m.par_chunks(CHUNK)).zip(v.par_chunks(CHUNK)).for_each(|((p, m), v)| {
            for ((p, &m), &v) in p.iter_mut().zip(m).zip(v) {
                *p = *p * self.decay - self.step_size * (m / (v.sqrt() / self.root_correction + self.eps));
            }
        });
        Ok(())
    }
}
impl Update {
    /// The same out of candle's operations, for devices other than the CPU.
    fn composed(&self, p: &Var, m: &Tensor, v: &Tensor, g: &Tensor, c: AdamWConfig) -> Result<()> {
        let next_m = (m + ((g - m)? * (1. - c.beta1))?)?;
        let next_v = ((v * c.beta2)? + (g.sqr()? * (1. - c.beta2))?)?;
        let root = ((next_v.sqrt()? / f64::from(self.root_correction))? + f64::from(self.eps))?;
        let moved = ((next_m.div(&root)?) * f64::from(self.step_size))?;
        p.set(&((p.as_tensor() * f64::from(self.decay))? - moved)?)?;
        for (old, new) in [(m, next_m), (v, next_v)] {
            old.slice_set(&new, 0, 0)?;
        }
        Ok(())
    }
}
