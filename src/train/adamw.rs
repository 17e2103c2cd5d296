//! AdamW (arXiv 1711.05101) as `torch.optim.AdamW` computes it: weight decay is decoupled and comes first, epsilon is
//! added after the bias correction. Updates are element by element, in place, in f32, so the order of threads has no
//! effect.

use std::cell::Cell;
use std::collections::BTreeMap;

use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Tensor, Var};
use rayon::prelude::*;

use crate::error::{Error, ErrorContext, Result};
use crate::model::backprop::{Gradient, Gradients};
use crate::model::ops::Floats;

/// Elements that a thread takes at a time. Sums of squares are also added up chunk by chunk.
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

impl AdamWConfig {
    /// Checks that the bias correction divides by no zero: each beta is at least 0 and less than 1.
    ///
    /// # Errors
    /// A setting is outside of its bounds.
    fn check(&self) -> Result<()> {
        for (name, beta) in [("beta1", self.beta1), ("beta2", self.beta2)] {
            if !(0. ..1.).contains(&beta) {
                return Err(Error::user(format!("AdamW's {name} is {beta}; it must be at least 0 and less than 1")));
            }
        }
        if !(self.eps > 0. && self.eps.is_finite()) {
            return Err(Error::user(format!("AdamW's eps is {}; it must be greater than 0", self.eps)));
        }
        Ok(())
    }
}

impl Default for AdamWConfig {
    /// TRL's defaults.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0., max_grad_norm: 1. }
    }
}

/// A weight and the moments of its gradients.
struct Slot {
    var: Var,
    /// An f32 copy that takes the updates, for weights whose type (bf16, f16) is too coarse for them.
    master: Option<Var>,
    /// Mean of gradients.
    mean: Tensor,
    /// Mean of their squares.
    square: Tensor,
}

/// The optimizer: settings, moments, and how many steps it took.
pub struct AdamW {
    config: AdamWConfig,
    steps: u32,
    slots: BTreeMap<String, Slot>,
}

/// torch's names of the moments, and ours of the f32 copy of a weight of another type.
const STATE: [&str; 3] = ["exp_avg", "exp_avg_sq", "master"];

impl AdamW {
    /// For the given variables, with zero moments. Weights in bf16 and f16 get masters in f32 (arXiv 1710.03740).
    ///
    /// # Errors
    /// A variable of another type, f16 on a device other than the CPU (its gradients are f16 there, and would need
    /// the loss scaled), a `beta` outside of [0, 1), or no memory.
    pub fn new(variables: &BTreeMap<String, Var>, config: AdamWConfig) -> Result<Self> {
        config.check()?;
        let mut slots = BTreeMap::new();
        for (name, var) in variables {
            let trained = match var.dtype() {
                DType::F32 | DType::BF16 => true,
                DType::F16 => var.device().is_cpu(),
                _ => false,
            };
            if !trained {
                let message = format!(
                    "weight `{name}` is {:?}; f32 and bf16 weights are trained on every device, f16 weights on the CPU only",
                    var.dtype()
                );
                return Err(Error::user(message).help("load the model with dtype = \"bf16\" or \"f32\""));
            }
            let zeros = || zeros(var);
            let master =
                (var.dtype() != DType::F32).then(|| Var::from_tensor(&var.to_dtype(DType::F32)?)).transpose()?;
            slots.insert(name.clone(), Slot { var: var.clone(), master, mean: zeros()?, square: zeros()? });
        }
        Ok(Self { config, steps: 0, slots })
    }

    /// Steps taken.
    pub fn steps(&self) -> u32 {
        self.steps
    }

    /// The moments under torch's names, `exp_avg.WEIGHT` and `exp_avg_sq.WEIGHT`, and `master.WEIGHT` where a weight
    /// has one. They share memory with the optimizer: write or copy them before the next step.
    pub fn moments(&self) -> BTreeMap<String, Tensor> {
        let named = |(name, slot): (&String, &Slot)| {
            let master = slot.master.as_ref().map(|m| m.as_detached_tensor());
            let state = [Some(slot.mean.clone()), Some(slot.square.clone()), master];
            let name = name.clone();
            STATE.into_iter().zip(state).filter_map(move |(kind, t)| Some((format!("{kind}.{name}"), t?)))
        };
        self.slots.iter().flat_map(named).collect()
    }

    /// Puts back the moments of an earlier [`AdamW::moments`] and the number of steps they had.
    ///
    /// # Errors
    /// One is missing or has another shape; nothing is changed then.
    pub fn restore(&mut self, moments: &BTreeMap<String, Tensor>, steps: u32) -> Result<()> {
        let mut restored = BTreeMap::new();
        for (name, slot) in &self.slots {
            let get = |kind: &str| -> Result<Tensor> {
                let (key, var) = (format!("{kind}.{name}"), &slot.var);
                let t = moments.get(&key).ok_or_else(|| Error::user(format!("the checkpoint has no `{key}`")))?;
                if t.dims() != var.dims() || t.dtype() != DType::F32 {
                    let message = format!("`{key}` is {:?} {:?}, expected F32 {:?}", t.dtype(), t.dims(), var.dims());
                    return Err(Error::user(message));
                }
                Ok(t.to_device(var.device())?.force_contiguous()?)
            };
            let [mean, square, master] = STATE;
            let master = slot.master.is_some().then(|| Ok::<_, Error>(Var::from_tensor(&get(master)?)?)).transpose()?;
            let slot = Slot { var: slot.var.clone(), master, mean: get(mean)?, square: get(square)? };
            restored.insert(name.clone(), slot);
        }
        (self.slots, self.steps) = (restored, steps);
        Ok(())
    }

    /// L2 norm over all gradients: f64, in an order that depends on shapes alone.
    ///
    /// # Errors
    /// Whatever candle reports.
    pub fn norm(gradients: &Gradients) -> Result<f64> {
        let mut sum = 0.;
        for (_, g) in gradients.iter() {
            sum += match g {
                Gradient::Numbers(numbers) => squares(numbers),
                Gradient::Tensor(t) => match Floats::of(t) {
                    Ok(numbers) => squares(&numbers),
                    Err(_) => t.to_dtype(DType::F32)?.sqr()?.sum_all()?.to_scalar::<f32>()?.into(),
                },
            };
        }
        Ok(sum.sqrt())
    }

    /// Clips and applies gradients, one for each variable, at the given rate. Returns their norm before clipping. If
    /// the norm is not finite, nothing changes, and the caller must check the result.
    ///
    /// # Errors
    /// Whatever candle reports.
    pub fn step(&mut self, gradients: &Gradients, learning_rate: f64) -> Result<f64> {
        let norm = Self::norm(gradients)?;
        if !norm.is_finite() {
            return Ok(norm);
        }
        self.steps += 1;
        let c = self.config;
        // torch's clip_grad_norm_.
        let clip = if c.max_grad_norm > 0. { (c.max_grad_norm / (norm + 1e-6)).min(1.) } else { 1. };
        let correction = |beta: f64| 1. - beta.powf(f64::from(self.steps));
        for (name, slot) in &self.slots {
            let Some(g) = gradients.get(name) else { continue };
            let decay = if slot.var.rank() > 1 { 1. - learning_rate * c.weight_decay } else { 1. };
            let update = AdamWUpdate {
                mean_rest: (1. - c.beta1) as f32,
                square_keep: c.beta2 as f32,
                square_rest: (1. - c.beta2) as f32,
                scale: clip as f32,
                decay: decay as f32,
                step_size: (learning_rate / correction(c.beta1)) as f32,
                root_correction: correction(c.beta2).sqrt() as f32,
                eps: c.eps as f32,
            };
            let fused = slot.var.device().is_cpu();
            let done = match g {
                Gradient::Numbers(g) if fused => slot.fused(g, &update),
                Gradient::Tensor(g) if fused => {
                    let g = g.to_dtype(DType::F32)?;
                    Floats::of(&g).and_then(|g| slot.fused(&g, &update))
                }
                Gradient::Numbers(g) => Tensor::new(g.as_slice(), slot.var.device())
                    .and_then(|g| slot.composed(&g.reshape(slot.var.shape())?, &update, clip, c)),
                Gradient::Tensor(g) => slot.composed(g, &update, clip, c),
            };
            done.doing(|| format!("updating `{name}`"))?;
        }
        Ok(norm)
    }
}

/// Zeros of a variable's shape. They are written explicitly: untouched pages would be mapped at the first read and
/// copied at the first write.
fn zeros(var: &Var) -> candle_core::Result<Tensor> {
    let mut numbers = vec![0f32; var.elem_count()];
    numbers.par_chunks_mut(CHUNK).for_each(|part| part.fill(0.));
    Tensor::from_vec(numbers, var.shape(), var.device())
}

impl Slot {
    /// In place, on the CPU in f32. A weight with a master becomes the master's rounded value.
    fn fused(&self, g: &[f32], update: &AdamWUpdate) -> candle_core::Result<()> {
        Changing::all(self.master.as_ref().unwrap_or(&self.var), |p| {
            Changing::all(&self.mean, |m| {
                Changing::all(&self.square, |v| {
                    let parts = p.par_chunks_mut(CHUNK).zip(m.par_chunks_mut(CHUNK)).zip(v.par_chunks_mut(CHUNK));
                    parts.zip(g.par_chunks(CHUNK)).for_each(|(((p, m), v), g)| update.apply(p, m, v, g));
                    Ok(())
                })
            })
        })?;
        match &self.master {
            Some(master) => self.var.set(&master.to_dtype(self.var.dtype())?),
            None => Ok(()),
        }
    }

    /// The same out of candle's operations, for other devices.
    fn composed(&self, g: &Tensor, update: &AdamWUpdate, clip: f64, c: AdamWConfig) -> candle_core::Result<()> {
        let g = (g.to_dtype(DType::F32)? * clip)?;
        let (m, v, p) = (&self.mean, &self.square, self.master.as_ref().unwrap_or(&self.var));
        let next_m = (m + ((&g - m)? * (1. - c.beta1))?)?;
        let next_v = ((v * c.beta2)? + (g.sqr()? * (1. - c.beta2))?)?;
        let root = ((next_v.sqrt()? / f64::from(update.root_correction))? + f64::from(update.eps))?;
        let moved = ((next_m.div(&root)?) * f64::from(update.step_size))?;
        let next = ((p.as_tensor() * f64::from(update.decay))? - moved)?;
        p.set(&next)?;
        if self.master.is_some() {
            self.var.set(&next.to_dtype(self.var.dtype())?)?;
        }
        for (old, new) in [(m, next_m), (v, next_v)] {
            old.slice_set(&new, 0, 0)?;
        }
        Ok(())
    }
}

/// Sum of squares in f64: eight lanes within a chunk, then chunk by chunk.
fn squares(numbers: &[f32]) -> f64 {
    let chunk = |chunk: &[f32]| {
        let mut lanes = [0f64; 8];
        for eight in chunk.chunks(8) {
            lanes.iter_mut().zip(eight).for_each(|(lane, &x)| *lane += f64::from(x) * f64::from(x));
        }
        lanes.iter().sum::<f64>()
    };
    numbers.par_chunks(CHUNK).map(chunk).collect::<Vec<f64>>().iter().sum()
}

/// One pass over gradient, moments and weight, because memory is the bottleneck: `m += (1 - beta1) (scale g - m)`,
/// `v = beta2 v + (1 - beta2) (scale g)^2`, `p = decay p - step_size m / (sqrt(v) / root_correction + eps)`.
struct AdamWUpdate {
    mean_rest: f32,
    square_keep: f32,
    square_rest: f32,
    /// Factor of the gradient, from clipping.
    scale: f32,
    decay: f32,
    step_size: f32,
    root_correction: f32,
    eps: f32,
}

/// Gives mutable access to a tensor's numbers. candle lends one tensor at a time, so three nested calls lend three.
struct Changing<F>(Cell<Option<F>>);

impl<F: FnOnce(&mut [f32]) -> candle_core::Result<()>> Changing<F> {
    fn all(tensor: &Tensor, f: F) -> candle_core::Result<()> {
        tensor.inplace_op1(&Self(Cell::new(Some(f))))
    }
}
impl<F: FnOnce(&mut [f32]) -> candle_core::Result<()>> InplaceOp1 for Changing<F> {
    fn name(&self) -> &'static str {
        "adamw"
    }
    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let (Some((start, end)), CpuStorage::F32(all)) = (layout.contiguous_offsets(), storage) else {
            candle_core::bail!("a weight or moment is not contiguous f32")
        };
        self.0.take().map_or(Ok(()), |f| f(&mut all[start..end]))
    }
}

impl AdamWUpdate {
    fn apply(&self, p: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32]) {
        for (((p, m), v), g) in p.iter_mut().zip(m).zip(v).zip(g) {
            let g = g * self.scale;
            *m += self.mean_rest * (g - *m);
            *v = *v * self.square_keep + self.square_rest * g * g;
            *p = *p * self.decay - self.step_size * (*m / (v.sqrt() / self.root_correction + self.eps));
        }
    }
}
