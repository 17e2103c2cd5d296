//! The matrix product of a layer, whose backward costs nothing for weights that are frozen.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp2, Layout, MetalStorage, Result, Shape, Tensor};

/// `x W^T`: `[N, in]` by `[out, in]` to `[N, out]`.
///
/// On the CPU a row's bits do not depend on how many rows there are. The product of a single row takes another way through
/// the gemm crate, with another order of additions, so a single row is computed as two.
///
/// # Errors
/// Shapes that do not fit, or whatever candle reports.
pub fn linear(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() && x.dim(0)? == 1 {
        let two = Tensor::cat(&[x, x], 0)?;
        return linear(&two, w)?.narrow(0, 0, 1);
    }
    x.contiguous()?.apply_op2(w, Linear)
}

/// The same by candle's operations: the definition, for tests.
///
/// # Errors
/// As [`linear`].
pub fn composed(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    x.matmul(&w.t()?)
}

struct Linear;

fn product<S: BackendStorage>(x: &S, xl: &Layout, w: &S, wl: &Layout) -> Result<(S, Shape)> {
    let (&[rows, width], &[out, width_w]) = (xl.dims(), wl.dims()) else {
        candle_core::bail!("linear: x is {:?}, the weight {:?}; both must be matrices", xl.dims(), wl.dims())
    };
    if width != width_w {
        candle_core::bail!("linear: rows of {width} do not fit a weight of {:?}", wl.dims())
    }
    let y = x.matmul(w, (1, rows, out, width), xl, &wl.transpose(0, 1)?)?;
    Ok((y, Shape::from((rows, out))))
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }
    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout, w: &CpuStorage, wl: &Layout) -> Result<(CpuStorage, Shape)> {
        product(x, xl, w, wl)
    }
    fn cuda_fwd(&self, x: &CudaStorage, xl: &Layout, w: &CudaStorage, wl: &Layout) -> Result<(CudaStorage, Shape)> {
        product(x, xl, w, wl)
    }
    fn metal_fwd(&self, x: &MetalStorage, xl: &Layout, w: &MetalStorage, wl: &Layout) -> Result<(MetalStorage, Shape)> {
        product(x, xl, w, wl)
    }

    /// dx = dy W and dW = dy^T x. candle's own gradient of `x.matmul(w.t())` computes both always, and the second the
    /// other way round, to be transposed with strides.
    fn bwd(&self, x: &Tensor, w: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let to_x = || dy.matmul(&w.detach());
        let to_w = || dy.t()?.matmul(&x.detach());
        Ok((x.track_op().then(to_x).transpose()?, w.track_op().then(to_w).transpose()?))
    }
}
