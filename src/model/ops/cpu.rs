//! Shared parts of the fused CPU operations: access to a tensor's numbers, parallel iteration over rows,
//! and inner loops that the compiler vectorises.
//!
//! Each row's result depends on that row alone. Sums run in a fixed order over a fixed number of lanes, and
//! threads divide rows, never a sum. A row therefore has the same bits for any batch and any number of
//! threads.

use std::cell::Cell;
use std::ops::Range;

use candle_core::{CpuStorage, DType, Layout, Result, Storage, StorageRef, Tensor};
use rayon::prelude::*;

/// Accumulators of a sum: two AVX-512 registers, four AVX registers.
const LANES: usize = 32;

/// Computes `a * b + c`, fused where the machine has the instruction. Elsewhere fusing would be a library
/// call, a hundred times slower.
#[inline(always)]
pub fn fma(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) { a.mul_add(b, c) } else { a * b + c }
}

thread_local! {
    /// Whether this thread avoids the fused operations.
    static COMPOSED_ONLY: Cell<bool> = const { Cell::new(false) };
}

/// Calls `f` with every operation composed of candle's own, as on a device without fused code. Tests use it
/// to run the code of other devices on the CPU. It affects only the calling thread, on which models are
/// built and computed.
pub fn with_composed<T>(f: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            COMPOSED_ONLY.set(self.0);
        }
    }
    let _restore = Restore(COMPOSED_ONLY.replace(true));
    f()
}

/// Whether [`with_composed`] is active on this thread.
pub(in crate::model) fn composed_only() -> bool {
    COMPOSED_ONLY.get()
}

/// Whether the fused operations apply to a tensor: they require f32 on the CPU.
pub(in crate::model) fn applies(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32 && !composed_only()
}

/// Returns the numbers of a contiguous f32 storage, as passed to the forward of a custom operation.
pub(super) fn slice<'a>(storage: &'a CpuStorage, layout: &Layout, op: &'static str) -> Result<&'a [f32]> {
    let (CpuStorage::F32(all), Some((start, end))) = (storage, layout.contiguous_offsets()) else {
        candle_core::bail!("{op} needs contiguous f32 numbers")
    };
    Ok(&all[start..end])
}

/// Borrows the numbers of a tensor.
pub struct Floats<'a> {
    storage: StorageRef<'a>,
    range: Range<usize>,
}

impl<'a> Floats<'a> {
    /// Borrows the numbers in memory order.
    ///
    /// # Errors
    /// The tensor is not contiguous, not f32, or not on the CPU.
    pub fn of(x: &'a Tensor) -> Result<Self> {
        let (storage, layout) = x.storage_and_layout();
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("the numbers are not contiguous")
        };
        match &*storage {
            Storage::Cpu(CpuStorage::F32(_)) => Ok(Self { storage, range: start..end }),
            _ => candle_core::bail!("the numbers are not f32 on the CPU"),
        }
    }
}

impl std::ops::Deref for Floats<'_> {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(all)) => &all[self.range.clone()],
            // `of` has checked the type.
            _ => &[],
        }
    }
}

/// Calls `f(row, out)` for each row of `out`, in parallel if the work is large enough.
pub(in crate::model) fn rows(out: &mut [f32], width: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    // Tens of microseconds of work, enough to pay for passing it to a thread.
    let at_once = (1 << 15) / width.max(1) + 1;
    if out.len() <= at_once * width {
        out.chunks_exact_mut(width.max(1)).enumerate().for_each(|(i, row)| f(i, row));
    } else {
        out.par_chunks_mut(at_once * width).enumerate().for_each(|(chunk, rows)| {
            rows.chunks_exact_mut(width).enumerate().for_each(|(i, row)| f(chunk * at_once + i, row));
        });
    }
}

/// Sums `f` over the elements of two rows, in lanes.
#[inline(always)]
pub(super) fn sum2(a: &[f32], b: &[f32], f: impl Fn(f32, f32, f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let (a, b) = (&a[..a.len().min(b.len())], &b[..a.len().min(b.len())]);
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let (a_rest, b_rest) = (a_chunks.remainder(), b_chunks.remainder());
    for (a, b) in a_chunks.zip(b_chunks) {
        for i in 0..LANES {
            lanes[i] = f(a[i], b[i], lanes[i]);
        }
    }
    for (i, (a, b)) in a_rest.iter().zip(b_rest).enumerate() {
        lanes[i] = f(*a, *b, lanes[i]);
    }
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// The scalar product.
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    sum2(a, b, fma)
}

/// The sum.
#[inline(always)]
pub(super) fn sum(a: &[f32]) -> f32 {
    sum2(a, a, |x, _, s| s + x)
}

/// The greatest element, or minus infinity for an empty row. NaN is ignored.
#[inline(always)]
pub(super) fn max(a: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = a.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = if chunk[i] > lanes[i] { chunk[i] } else { lanes[i] };
        }
    }
    lanes.into_iter().chain(rest.iter().copied()).fold(f32::NEG_INFINITY, |m, x| if x > m { x } else { m })
}

/// `e^x` to about one unit in the last place, without branches. Below -87 it returns 0 (the true value is
/// less than the smallest normal number); above 88.37 it returns the value there, 2.4e38; NaN stays NaN.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.; // 1.5 * 2^23: adding it rounds to a whole number, kept in the low bits
    let c = if x < -87. { -87. } else { x };
    let c = if c > 88.37 { 88.37 } else { c };
    let t = fma(c, std::f32::consts::LOG2_E, MAGIC);
    let n = t - MAGIC;
    // ln 2 in two parts, which makes the reduction accurate enough.
    let r = fma(n, -0.693_359_4, c);
    let r = fma(n, 2.121_944_4e-4, r);
    // e^r on [-ln2 / 2, ln2 / 2], with the coefficients of Cephes.
    let mut p = 1.987_569_2e-4;
    for k in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1] {
        p = fma(p, r, k);
    }
    let p = fma(p, r * r, r) + 1.;
    let scale = f32::from_bits(t.to_bits().wrapping_sub(MAGIC.to_bits()).wrapping_add(127) << 23);
    if x < -87. { 0. } else { p * scale }
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1. / (1. + exp(-x))
}

/// A matrix, given by its numbers and strides.
#[derive(Clone, Copy)]
pub(in crate::model) struct Matrix<'a> {
    pub numbers: &'a [f32],
    pub row: usize,
    pub column: usize,
}

impl<'a> Matrix<'a> {
    /// A matrix stored row by row, `width` numbers each.
    pub fn rows(numbers: &'a [f32], width: usize) -> Self {
        Self { numbers, row: width, column: 1 }
    }
    /// The transpose.
    pub fn t(self) -> Self {
        Self { row: self.column, column: self.row, ..self }
    }
}

/// Computes `c += a b` for small matrices: `a` is `[m, k]`, in row-major or column-major order; `b` is `[k,
/// n]` with rows `b_row` apart; `c` is `[m, n]` with rows `c_row` apart. Each element of `c` is one chain
/// of fused additions in order of `k`, whatever `m` and `n` are.
pub(super) fn gemm((m, n, k): (usize, usize, usize), a: Matrix, b: &[f32], b_row: usize, c: &mut [f32], c_row: usize) {
    let mut i = 0;
    while i < m {
        let rows = if m - i >= 4 { 4 } else { 1 };
        let a = Matrix { numbers: &a.numbers[i * a.row..], ..a };
        let mut j = 0;
        while j < n {
            let columns = if n - j >= TILE {
                TILE
            } else if n - j >= 8 {
                8
            } else {
                1
            };
            let (b, c) = (&b[j..], &mut c[i * c_row + j..]);
            match (rows, columns) {
                (4, TILE) => tile::<4, TILE>(k, a, b, b_row, c, c_row),
                (4, 8) => tile::<4, 8>(k, a, b, b_row, c, c_row),
                (4, _) => tile::<4, 1>(k, a, b, b_row, c, c_row),
                (_, TILE) => tile::<1, TILE>(k, a, b, b_row, c, c_row),
                (_, 8) => tile::<1, 8>(k, a, b, b_row, c, c_row),
                _ => tile::<1, 1>(k, a, b, b_row, c, c_row),
            }
            j += columns;
        }
        i += rows;
    }
}

/// Columns per tile: the accumulators of four rows fit the registers.
const TILE: usize = if cfg!(target_feature = "avx512f") { 32 } else { 16 };

#[inline(always)]
fn tile<const R: usize, const C: usize>(k: usize, a: Matrix, b: &[f32], b_row: usize, c: &mut [f32], c_row: usize) {
    let mut sums = [[0f32; C]; R];
    for (r, sums) in sums.iter_mut().enumerate() {
        sums.copy_from_slice(&c[r * c_row..][..C]);
    }
    // These loops must not be able to panic, or the sums would not stay in registers.
    let lines = b.chunks(b_row).map_while(|line| line.first_chunk::<C>());
    if a.column == 1 {
        let rows: [&[f32]; R] = std::array::from_fn(|r| &a.numbers[r * a.row..][..k]);
        for (t, line) in (0..k).zip(lines) {
            add(&mut sums, std::array::from_fn(|r| rows[r][t]), line);
        }
    } else {
        debug_assert_eq!(a.row, 1, "a matrix that lies in order, or its transpose");
        let columns = a.numbers.chunks(a.column).map_while(|column| column.first_chunk::<R>());
        for (column, line) in columns.take(k).zip(lines) {
            add(&mut sums, *column, line);
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        c[r * c_row..][..C].copy_from_slice(sums);
    }
}

/// One step of a tile: multiplies one number of each row by a line and accumulates.
#[inline(always)]
fn add<const R: usize, const C: usize>(sums: &mut [[f32; C]; R], left: [f32; R], line: &[f32; C]) {
    for (sums, a) in sums.iter_mut().zip(left) {
        for (s, b) in sums.iter_mut().zip(line) {
            *s = fma(a, *b, *s);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_accurate() {
        let mut worst = 0f64;
        for i in 0..2_000_000 {
            let x = -87. + 175.3 * (i as f32 / 2e6);
            let (got, want) = (f64::from(exp(x)), f64::from(x).exp());
            worst = worst.max(((got - want) / want).abs());
        }
        assert!(worst < 2e-7, "worst relative error {worst:e}");
        assert_eq!(exp(0.), 1.);
        assert_eq!(exp(f32::NEG_INFINITY), 0.);
        assert_eq!(exp(-88.), 0.);
        assert!(exp(f32::INFINITY) > 2e38 && exp(f32::NAN).is_nan());
    }

    #[test]
    fn gemm_equals_the_definition_for_every_remainder() {
        let numbers = |n: usize, s: usize| (0..n).map(|i| ((i * 7919 + s) % 97) as f32 / 97. - 0.5).collect::<Vec<_>>();
        for (m, n, k) in [(1, 1, 1), (4, 32, 8), (5, 43, 7), (7, 16, 3), (16, 64, 64), (3, 9, 2)] {
            let (a, b, start) = (numbers(m * k, 1), numbers(k * n, 2), numbers(m * n, 3));
            for transposed in [false, true] {
                let (row, column) = if transposed { (1, m) } else { (k, 1) };
                let mut c = start.clone();
                gemm((m, n, k), Matrix { numbers: &a, row, column }, &b, n, &mut c, n);
                for i in 0..m {
                    for j in 0..n {
                        let chain = |s, t| fma(a[i * row + t * column], b[t * n + j], s);
                        assert_eq!(c[i * n + j], (0..k).fold(start[i * n + j], chain), "({m} {n} {k}) at {i} {j}");
                    }
                }
            }
        }
    }

    #[test]
    fn sums_take_every_element_once() {
        for n in [0, 1, 31, 32, 33, 100] {
            let a: Vec<f32> = (1..=n).map(|i| i as f32).collect();
            assert_eq!(sum(&a), (n * (n + 1) / 2) as f32);
            assert_eq!(max(&a), if n == 0 { f32::NEG_INFINITY } else { n as f32 });
            assert_eq!(dot(&a, &a), a.iter().map(|x| x * x).sum::<f32>());
        }
    }
}
