//! The matrix product of a layer. Its backward pass costs nothing for frozen weights.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp2, DType, Layout, MetalStorage, Result, Shape, Tensor};

use super::cpu::{self, Floats, Matrix};
use super::float::{FloatSlice, FloatTensor, computed_in, is_half, widened};
use super::product::product;

/// Computes `x W^T`: `[N, in]` by `[out, in]` to `[N, out]`. The result is f32 if the weight is in half
/// precision.
///
/// On the CPU a half-precision weight is widened and the product is f32. Other devices multiply fast only
/// in the weight's type, so the rows are rounded to it. On the CPU a row's bits do not depend on the number
/// of rows.
///
/// # Errors
/// The shapes do not match, or candle fails.
pub fn linear(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    widened(x)?.contiguous()?.apply_op2(w, LinearOp)
}

/// Computes the same with candle's operations: the definition for devices other than the CPU.
///
/// # Errors
/// As [`linear`].
pub fn composed(x: &Tensor, w: &Tensor) -> Result<Tensor> {
    if is_half(w.dtype()) {
        return x.to_dtype(w.dtype())?.matmul(&w.t()?)?.to_dtype(DType::F32);
    }
    x.matmul(&w.t()?)
}

struct LinearOp;

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

/// Multiplies with the device's own product, in the weight's type.
fn device_product<S: BackendStorage>(x: &S, xl: &Layout, w: &S, wl: &Layout) -> Result<(S, Shape)> {
    let ((rows, out, width), wt) = (sizes(xl, wl)?, wl.transpose(0, 1)?);
    let shape = Shape::from((rows, out));
    if !is_half(w.dtype()) {
        return Ok((x.matmul(w, (1, rows, out, width), xl, &wt)?, shape));
    }
    let (narrow, layout) = (x.to_dtype(xl, w.dtype())?, Layout::contiguous(xl.shape()));
    let y = narrow.matmul(w, (1, rows, out, width), &layout, &wt)?;
    Ok((y.to_dtype(&Layout::contiguous(&shape), computed_in(w.dtype()))?, shape))
}

/// Computes `slopes W` with the device's own product, in the type of a half-precision weight.
///
/// f16 has no numbers below 6e-8, and derivatives are often smaller. They are therefore scaled by a power
/// of two, which is exact, until the largest is about 1.
fn half_to_x(slopes: &Tensor, w: &Tensor) -> Result<Tensor> {
    if w.dtype() != DType::F16 {
        return slopes.to_dtype(w.dtype())?.matmul(w)?.to_dtype(DType::F32);
    }
    let largest = slopes.abs()?.max_all()?.to_scalar::<f32>()?;
    if largest == 0. || !largest.is_finite() {
        return slopes.to_dtype(w.dtype())?.matmul(w)?.to_dtype(DType::F32);
    }
    let scale = 2f64.powi(f64::from(largest).log2().floor() as i32);
    (slopes / scale)?.to_dtype(w.dtype())?.matmul(w)?.to_dtype(DType::F32)? * scale
}

/// Computes `slopes^T x` with the device's own product, in the type of a half-precision weight.
fn half_to_w(slopes: &Tensor, x: &Tensor, dtype: DType) -> Result<Tensor> {
    slopes.to_dtype(dtype)?.t()?.matmul(&x.to_dtype(dtype)?)
}

impl CustomOp2 for LinearOp {
    fn name(&self) -> &'static str {
        "linear"
    }
    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout, w: &CpuStorage, wl: &Layout) -> Result<(CpuStorage, Shape)> {
        let numbers = (cpu::slice(x, xl, self.name()), FloatSlice::of_storage(w, wl));
        let (Ok(x), Some(w), false) = (numbers.0, numbers.1, cpu::composed_only()) else {
            return device_product(x, xl, w, wl);
        };
        let (rows, out, width) = sizes(xl, wl)?;
        let mut y = vec![0f32; rows * out];
        product((rows, out, width), Matrix::rows(x, width), Matrix::rows(&w.as_f32(), width).t(), &mut y, false);
        Ok((CpuStorage::F32(y), Shape::from((rows, out))))
    }
    fn cuda_fwd(&self, x: &CudaStorage, xl: &Layout, w: &CudaStorage, wl: &Layout) -> Result<(CudaStorage, Shape)> {
        device_product(x, xl, w, wl)
    }
    fn metal_fwd(&self, x: &MetalStorage, xl: &Layout, w: &MetalStorage, wl: &Layout) -> Result<(MetalStorage, Shape)> {
        device_product(x, xl, w, wl)
    }

    /// dx = dy W and dW = dy^T x. candle's own gradient of `x.matmul(w.t())` always computes both, and
    /// computes the second transposed, which costs strided reads.
    fn bwd(&self, x: &Tensor, w: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        if !cpu::applies(&dy) || !w.is_contiguous() {
            if is_half(w.dtype()) {
                let to_x = || half_to_x(&dy, &w.detach());
                let to_w = || half_to_w(&dy, &x.detach(), w.dtype());
                return Ok((x.track_op().then(to_x).transpose()?, w.track_op().then(to_w).transpose()?));
            }
            let to_x = || dy.matmul(&w.detach());
            let to_w = || dy.t()?.matmul(&x.detach());
            return Ok((x.track_op().then(to_x).transpose()?, w.track_op().then(to_w).transpose()?));
        }
        let ((rows, out), width) = (dy.dims2()?, w.dim(1)?);
        let slopes = Floats::of(&dy)?;
        let slopes = Matrix::rows(&slopes, out);
        let times = |a, of: &Tensor, (m, k): (usize, usize), like: &Tensor| {
            let mut to = vec![0f32; m * width];
            product((m, width, k), a, Matrix::rows(&FloatTensor::of(of)?.as_f32(), width), &mut to, false);
            Tensor::from_vec(to, like.shape(), like.device())?.to_dtype(like.dtype())
        };
        let to_x = || times(slopes, w, (rows, out), x);
        let to_w = || times(slopes.t(), x, (out, rows), w);
        Ok((x.track_op().then(to_x).transpose()?, w.track_op().then(to_w).transpose()?))
    }
}
