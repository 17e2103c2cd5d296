//! Causal attention over packed sequences, with branches that share a prefix.

use candle_core::{Result, Tensor};

use crate::model::Attention;

/// A run of consecutive rows that see each other causally, and before that the rows of a shared prefix.
///
/// A plain sequence is one segment with an empty prefix. A DPO pair is three: the prompt, and the chosen and the
/// rejected completion, each with the prompt's rows as prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Rows of the prefix, wholly visible.
    pub prefix: std::ops::Range<usize>,
    /// The segment's own rows; row `i` sees own rows up to and with itself.
    pub rows: std::ops::Range<usize>,
}

/// Attention for training: all rows of all segments at once, differentiable.
pub struct Packed {
    segments: Vec<Segment>,
}

impl Packed {
    /// The segments must cover the rows in order, without gaps.
    pub fn new(segments: Vec<Segment>) -> Self {
        Self { segments }
    }
}

impl Attention for Packed {
    fn attend(&mut self, _layer: usize, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let (_, heads, width) = q.dims3()?;
        let groups = heads / k.dim(1)?;
        let mut out = Vec::with_capacity(self.segments.len());
        for s in &self.segments {
            let (prefix, own) = (s.prefix.len(), s.rows.len());
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
        Tensor::cat(&out, 0)
    }
}
