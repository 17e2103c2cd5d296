//! The matrix product of a layer, whose backward costs nothing for weights that are frozen.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp2, Layout, MetalStorage, Result, Shape, Tensor};

/// `x W^T`: `[N, in]` by `[out, in]` to `[N, out]`.
///
/// On the CPU a row's bits do not depend on how many rows there are, see `least_rows`.
///
/// # Errors
/// Shapes that do not fit, or whatever candle reports.
pub fn linear(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    let (n, width) = x.dims2()?;
    let least = least_rows(w.dim(0)?, width);
    if x.device().is_cpu() && 0 < n && n < least {
        return linear(&pad(x, least)?, w)?.narrow(0, 0, n);
    }
    x.contiguous()?.apply_op2(w, Linear)
}

/// From how many rows on the gemm crate (0.19) computes a row of `x W^T` the same way, whatever their number. It has other
/// ways, with other orders of additions, for a single row, for at most 256 results, and, where rows are longer than 512, for at
/// most 64 by 64 results (there it cuts the sums at 512, elsewhere in equal parts).
pub(super) fn least_rows(out: usize, width: usize) -> usize {
    if out <= 64 && width > 512 { 65 } else { (256 / out.max(1) + 1).max(2) }
}

/// The matrix with rows of zeros below, `rows` in all.
pub(super) fn pad(x: &Tensor, rows: usize) -> Result<Tensor> {
    let (n, width) = x.dims2()?;
    Tensor::cat(&[x, &Tensor::zeros((rows - n, width), x.dtype(), x.device())?], 0)
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
