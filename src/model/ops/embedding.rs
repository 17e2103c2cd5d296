//! Embedding lookup whose gradient is summed in f32.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp2, Layout, MetalStorage, Result, Shape, Tensor};

use super::float::computed_in;

/// Returns the rows `ids` of `w`, `[V, D]`, as `[N, D]`; in f32 if the weight is in half precision.
///
/// candle's own gradient of `index_select` accumulates in the weight's type. In half precision a frequent
/// token would lose most of its gradient.
///
/// # Errors
/// An id is beyond the last row, or candle fails.
pub fn embedding(w: &Tensor, ids: &[u32]) -> Result<Tensor> {
    let rows = w.dim(0)?;
    if let Some(id) = ids.iter().find(|id| **id as usize >= rows) {
        candle_core::bail!("token {id} is outside the vocabulary of {rows}")
    }
    w.apply_op2(&Tensor::new(ids, w.device())?, Embedding)
}

struct Embedding;

fn select<S: BackendStorage>(w: &S, wl: &Layout, ids: &S, il: &Layout) -> Result<(S, Shape)> {
    let shape = Shape::from((il.shape().elem_count(), wl.shape().dims2()?.1));
    let rows = w.index_select(ids, wl, il, 0)?;
    let dtype = computed_in(w.dtype());
    if dtype == w.dtype() {
        return Ok((rows, shape));
    }
    Ok((rows.to_dtype(&Layout::contiguous(&shape), dtype)?, shape))
}

impl CustomOp2 for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }
    fn cpu_fwd(&self, w: &CpuStorage, wl: &Layout, ids: &CpuStorage, il: &Layout) -> Result<(CpuStorage, Shape)> {
        select(w, wl, ids, il)
    }
    fn cuda_fwd(&self, w: &CudaStorage, wl: &Layout, ids: &CudaStorage, il: &Layout) -> Result<(CudaStorage, Shape)> {
        select(w, wl, ids, il)
    }
    fn metal_fwd(
        &self,
        w: &MetalStorage,
        wl: &Layout,
        ids: &MetalStorage,
        il: &Layout,
    ) -> Result<(MetalStorage, Shape)> {
        select(w, wl, ids, il)
    }

    fn bwd(&self, w: &Tensor, ids: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        if !w.track_op() {
            return Ok((None, None));
        }
        let sums = Tensor::zeros(w.shape(), dy.dtype(), w.device())?.index_add(&ids.detach(), &dy.contiguous()?, 0)?;
        Ok((Some(sums.to_dtype(w.dtype())?), None))
    }
}
