//! Attention over the paged cache out of candle's own operations, for any device, in f32. It gathers a
//! sequence's keys and values for every step, which the fused code does not.

use candle_core::{D, DType, Device, Result, Tensor};

use super::plan::{BLOCK, BlockSpan, CacheShape, KvStore, StepPlan};

/// Per layer: keys and values as `[blocks * BLOCK + 1, kv_heads * head_dim]`. The last line takes writes to discard.
pub(super) struct Composed {
    shape: CacheShape,
    layers: Vec<(Tensor, Tensor)>,
    spare: u32,
}

impl Composed {
    pub fn new(shape: CacheShape, blocks: usize, device: &Device) -> Result<Self> {
        let lines = blocks * BLOCK + 1;
        let pool = || Tensor::zeros((lines, shape.kv_heads * shape.head_dim), DType::F32, device);
        let layers = (0..shape.layers).map(|_| Ok((pool()?, pool()?))).collect::<Result<_>>()?;
        Ok(Self { shape, layers, spare: (lines - 1) as u32 })
    }

    /// `[T]` cache lines of the first `visible` positions of a table.
    fn lines(table: &[BlockSpan], visible: usize) -> impl Iterator<Item = u32> {
        table.iter().flat_map(|s| (0..s.len).map(|i| s.block * BLOCK as u32 + i)).take(visible)
    }
}

impl KvStore for Composed {
    fn attend(&mut self, plan: &StepPlan, layer: usize, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let CacheShape { kv_heads, head_dim, heads, .. } = self.shape;
        let (q, k, v) = (q.to_dtype(DType::F32)?, k.to_dtype(DType::F32)?, v.to_dtype(DType::F32)?);
        let (n, width, device) = (plan.rows.len(), kv_heads * head_dim, q.device());
        let (keys, values) = &self.layers[layer];
        let to: Vec<u32> =
            plan.rows.iter().map(|r| r.write.map_or(self.spare, |(b, o)| b * BLOCK as u32 + o)).collect();
        let to = Tensor::from_vec(to, (n, 1), device)?.broadcast_as((n, width))?.contiguous()?;
        keys.scatter_set(&to, &k.reshape((n, width))?.contiguous()?, 0)?;
        values.scatter_set(&to, &v.reshape((n, width))?.contiguous()?, 0)?;
        let mut out = Vec::new();
        let mut start = 0;
        for rows in plan.rows.chunk_by(|a, b| a.table == b.table) {
            let own = rows.len();
            let q = q.narrow(0, start, own)?;
            start += own;
            let longest = rows.iter().map(|r| r.visible).max().unwrap_or(0);
            let lines: Vec<u32> = Self::lines(&plan.tables[rows[0].table], longest).collect();
            let lines = Tensor::new(lines, device)?;
            // [T, kv * width] -> [kv, T, width]; the query heads of a kv head become rows of one product.
            let take = |pool: &Tensor| -> Result<Tensor> {
                pool.index_select(&lines, 0)?.reshape((longest, kv_heads, head_dim))?.transpose(0, 1)?.contiguous()
            };
            let group = heads / kv_heads;
            let q = q.reshape((own, kv_heads, group, head_dim))?.permute((1, 0, 2, 3))?.contiguous()?;
            let q = q.reshape((kv_heads, own * group, head_dim))?;
            let scores = (q.matmul(&take(keys)?.t()?)? / (head_dim as f64).sqrt())?;
            let mask: Vec<f32> = rows
                .iter()
                .flat_map(|r| std::iter::repeat_n(r.visible, group))
                .flat_map(|visible| (0..longest).map(move |j| if j < visible { 0. } else { f32::NEG_INFINITY }))
                .collect();
            let mask = Tensor::from_vec(mask, (1, own * group, longest), device)?;
            let weights = candle_nn::ops::softmax(&scores.broadcast_add(&mask)?, D::Minus1)?;
            let o = weights.matmul(&take(values)?)?.reshape((kv_heads, own, group, head_dim))?;
            out.push(o.permute((1, 0, 2, 3))?.contiguous()?.reshape((own, heads, head_dim))?);
        }
        Tensor::cat(&out, 0)
    }
}
