//! The matrix product of a layer, whose backward costs nothing for weights that are frozen.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp2, Layout, MetalStorage, Result, Shape, Tensor};

use super::cpu::{self, Floats, Matrix};
use super::product::product;

/// `x W^T`: `[N, in]` by `[out, in]` to `[N, out]`.
///
/// In f32 on the CPU a row's bits do not depend on how many rows there are.
///
/// # Errors
/// Shapes that do not fit, or whatever candle reports.
pub fn linear(x: &Tensor, w: &Tensor) -> Result<Tensor> {
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

/// Rows, outputs and inputs.
fn sizes(xl: &Layout, wl: &Layout) -> Result<(usize, usize, usize)> {
    let (&[rows, width], &[out, width_w]) = (xl.dims(), wl.dims()) else {
        candle_core::bail!("linear: x is {:?}, the weight {:?}; both must be matrices", xl.dims(), wl.dims())
    };
    if width != width_w {
        candle_core::bail!("linear: rows of {width} do not fit a weight of {:?}", wl.dims())
    }
    Ok((rows, out, width))
}

/// By the device's own product.
fn device_product<S: BackendStorage>(x: &S, xl: &Layout, w: &S, wl: &Layout) -> Result<(S, Shape)> {
    let (rows, out, width) = sizes(xl, wl)?;
    let y = x.matmul(w, (1, rows, out, width), xl, &wl.transpose(0, 1)?)?;
    Ok((y, Shape::from((rows, out))))
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }
    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout, w: &CpuStorage, wl: &Layout) -> Result<(CpuStorage, Shape)> {
        let (Ok(x), Ok(w)) = (cpu::slice(x, xl, self.name()), cpu::slice(w, wl, self.name())) else {
            return device_product(x, xl, w, wl);
        };
        let (rows, out, width) = sizes(xl, wl)?;
        let mut y = vec![0f32; rows * out];
        product((rows, out, width), Matrix::rows(x, width), Matrix::rows(w, width).t(), &mut y, false);
        Ok((CpuStorage::F32(y), Shape::from((rows, out))))
    }
    fn cuda_fwd(&self, x: &CudaStorage, xl: &Layout, w: &CudaStorage, wl: &Layout) -> Result<(CudaStorage, Shape)> {
        device_product(x, xl, w, wl)
    }
    fn metal_fwd(&self, x: &MetalStorage, xl: &Layout, w: &MetalStorage, wl: &Layout) -> Result<(MetalStorage, Shape)> {
        device_product(x, xl, w, wl)
    }

    /// dx = dy W and dW = dy^T x. candle's own gradient of `x.matmul(w.t())` computes both always, and the second the
    /// other way round, to be transposed with strides.
    fn bwd(&self, x: &Tensor, w: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        if !cpu::applies(&dy) || !w.is_contiguous() {
            let to_x = || dy.matmul(&w.detach());
            let to_w = || dy.t()?.matmul(&x.detach());
            return Ok((x.track_op().then(to_x).transpose()?, w.track_op().then(to_w).transpose()?));
        }
        let ((rows, out), width) = (dy.dims2()?, w.dim(1)?);
        let slopes = Floats::of(&dy)?;
        let slopes = Matrix::rows(&slopes, out);
        let times = |a, of: &Tensor, (m, k): (usize, usize), like: &Tensor| {
            let mut to = vec![0f32; m * width];
            product((m, width, k), a, Matrix::rows(&Floats::of(of)?, width), &mut to, false);
            Tensor::from_vec(to, like.shape(), like.device())
        };
        let to_x = || times(slopes, w, (rows, out), x);
        let to_w = || times(slopes.t(), x, (out, rows), w);
        Ok((x.track_op().then(to_x).transpose()?, w.track_op().then(to_w).transpose()?))
    }
}
