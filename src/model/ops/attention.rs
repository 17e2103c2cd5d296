//! Causal attention over packed sequences, with branches that share a prefix.

use std::sync::{Arc, OnceLock};

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

use super::float::widened;
use super::segment::Segment;
use super::{attention_cpu, cpu};

/// Computes attention layer by layer and decides which rows see which.
pub trait Attention {
    /// Computes one layer's attention. `q` is `[N, heads, head_dim]`; `k` and `v` are `[N, kv_heads,
    /// head_dim]`. All are contiguous and already rotated. Returns `[N, heads, head_dim]`. The scale is `1
    /// / sqrt(head_dim)`.
    ///
    /// # Errors
    /// Returns any error of candle.
    fn attend(&mut self, layer: usize, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor>;
}

/// Attention for training: all rows of all segments at once, differentiable.
pub struct Packed {
    segments: Arc<[Segment]>,
}

impl Packed {
    /// The segments must cover the rows in order and without gaps; [`Attention::attend`] returns an error
    /// if they do not.
    pub fn new(segments: Vec<Segment>) -> Self {
        Self { segments: segments.into() }
    }
}

/// Returns an error unless the segments cover the rows in order and without gaps.
pub(in crate::model) fn check(segments: &[Segment], rows: usize) -> Result<()> {
    let mut next = 0;
    for s in segments {
        if s.rows.start != next || s.rows.end < s.rows.start {
            candle_core::bail!("attention: the segments' rows {:?} do not follow row {next}", s.rows)
        }
        if s.prefix.start > s.prefix.end || s.prefix.end > rows {
            candle_core::bail!("attention: the prefix {:?} is not within the {rows} rows", s.prefix)
        }
        next = s.rows.end;
    }
    if next != rows {
        candle_core::bail!("attention: the segments have {next} rows, the batch {rows}")
    }
    Ok(())
}

impl Attention for Packed {
    fn attend(&mut self, _layer: usize, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        check(&self.segments, q.dim(0)?)?;
        let (q, k, v) = (widened(q)?, widened(k)?, widened(v)?);
        if !cpu::applies(&q) || q.elem_count() == 0 {
            return composed(&self.segments, &q, &k, &v);
        }
        let fused = FusedAttention { segments: self.segments.clone(), log_sums: OnceLock::new() };
        q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, fused)
    }
}

/// Computes the same with candle's operations: the definition, used for other devices and types. Half
/// precision is widened: the result is f32.
///
/// # Errors
/// Returns any error of candle.
pub fn composed(segments: &[Segment], q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let (q, k, v) = (&widened(q)?, &widened(k)?, &widened(v)?);
    let (_, heads, width) = q.dims3()?;
    let groups = heads / k.dim(1)?;
    let mut out = Vec::with_capacity(segments.len());
    for s in segments {
        let (prefix, own) = (s.prefix.len(), s.rows.len());
        if own == 0 {
            continue;
        }
        let take = |t: &Tensor| -> Result<Tensor> {
            let own = t.narrow(0, s.rows.start, own)?;
            let all = if prefix == 0 { own } else { Tensor::cat(&[t.narrow(0, s.prefix.start, prefix)?, own], 0)? };
            // [T, kv, width] -> [kv, 1, T, width] -> [heads, T, width]
            let (t, kv, width) = all.dims3()?;
            let all = all.transpose(0, 1)?.unsqueeze(1)?.broadcast_as((kv, groups, t, width))?;
            all.contiguous()?.reshape((kv * groups, t, width))
        };
        let q = q.narrow(0, s.rows.start, own)?.transpose(0, 1)?.contiguous()?;
        let scores = (q.matmul(&take(k)?.t()?)? / (width as f64).sqrt())?;
        let mask: Vec<f32> = (0..own)
            .flat_map(|i| (0..prefix + own).map(move |j| if j <= prefix + i { 0. } else { f32::NEG_INFINITY }))
            .collect();
        let mask = Tensor::from_vec(mask, (1, own, prefix + own), q.device())?.to_dtype(q.dtype())?;
        let weights = candle_nn::ops::softmax(&scores.broadcast_add(&mask)?, candle_core::D::Minus1)?;
        out.push(weights.matmul(&take(v)?)?.transpose(0, 1)?.contiguous()?);
    }
    if out.is_empty() { q.zeros_like() } else { Tensor::cat(&out, 0) }
}

struct FusedAttention {
    segments: Arc<[Segment]>,
    /// Logarithm of the softmax's sum for each row and head; the backward pass reuses it.
    log_sums: OnceLock<Vec<f32>>,
}

impl CustomOp3 for FusedAttention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        ql: &Layout,
        k: &CpuStorage,
        kl: &Layout,
        v: &CpuStorage,
        vl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (n, heads, width) = ql.shape().dims3()?;
        let (nk, kv_heads, wk) = kl.shape().dims3()?;
        if kl.shape() != vl.shape() || nk != n || wk != width || kv_heads == 0 || heads % kv_heads != 0 {
            candle_core::bail!("attention: q is {:?}, k {:?}, v {:?}", ql.dims(), kl.dims(), vl.dims())
        }
        let shape = attention_cpu::HeadShape { heads, kv_heads, width };
        let (q, k, v) =
            (cpu::slice(q, ql, self.name())?, cpu::slice(k, kl, self.name())?, cpu::slice(v, vl, self.name())?);
        let (mut out, mut log_sums) = (vec![0f32; q.len()], vec![0f32; n * heads]);
        attention_cpu::forward(&self.segments, shape, q, k, v, &mut out, &mut log_sums);
        // A second forward of the same operation would compute the same numbers.
        let _ = self.log_sums.set(log_sums);
        Ok((CpuStorage::F32(out), ql.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        y: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Some(log_sums) = self.log_sums.get() else { candle_core::bail!("attention: backward before forward") };
        let (_, heads, width) = q.dims3()?;
        let shape = attention_cpu::HeadShape { heads, kv_heads: k.dim(1)?, width };
        let dy = dy.contiguous()?;
        let forward = attention_cpu::Forward {
            q: &cpu::Floats::of(q)?,
            k: &cpu::Floats::of(k)?,
            v: &cpu::Floats::of(v)?,
            y: &cpu::Floats::of(y)?,
            log_sums,
        };
        let [dq, dk, dv] = attention_cpu::backward(&self.segments, shape, forward, &cpu::Floats::of(&dy)?);
        let tensor = |numbers: Vec<f32>, like: &Tensor| -> Result<Option<Tensor>> {
            like.track_op().then(|| Tensor::from_vec(numbers, like.shape(), like.device())).transpose()
        };
        Ok((tensor(dq, q)?, tensor(dk, k)?, tensor(dv, v)?))
    }
}
