//! The matrix product of a layer at inference. Weights never change there, so they are packed once for
//! products with few rows.
//!
//! A general matrix product packs the weight at every call, which costs more than the product itself if
//! there are few rows. Here the weight is stored in *panels* of [`COLUMNS`] outputs. The numbers of one
//! input are adjacent, so that the inner loop reads memory in order. Every result is one chain of fused
//! additions over the inputs in order: a row's bits depend neither on the number of rows nor on threads.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Device, Layout, Result, Shape, Storage, Tensor};
use half::{bf16, f16};
use rayon::prelude::*;

use super::cpu::slice;
use super::tile::{COLUMNS, MIN_PARALLEL_WORK, ROWS, TileLine};

/// A weight `[out, in]` for `x W^T`, on the CPU. The numbers keep their type (f32, bf16 or f16) and are
/// widened to f32 where they are used.
pub struct PackedWeight {
    out: usize,
    width: usize,
    numbers: Numbers,
}

/// Numbers in order of panel, input and output: [`COLUMNS`] outputs per panel, with zeros beyond the last
/// output.
enum Numbers {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
    F16(Vec<f16>),
}

impl PackedWeight {
    /// Packs a matrix.
    ///
    /// # Errors
    /// The tensor is not a matrix, is not on the CPU, or has a type that weights cannot have.
    pub fn new(w: &Tensor) -> Result<Self> {
        let (out, width) = w.dims2()?;
        let w = w.contiguous()?;
        let (storage, layout) = w.storage_and_layout();
        let start = layout.start_offset();
        let numbers = match &*storage {
            Storage::Cpu(CpuStorage::F32(all)) => Numbers::F32(pack(&all[start..], out, width)),
            Storage::Cpu(CpuStorage::BF16(all)) => Numbers::Bf16(pack(&all[start..], out, width)),
            Storage::Cpu(CpuStorage::F16(all)) => Numbers::F16(pack(&all[start..], out, width)),
            _ => candle_core::bail!("a weight for the CPU's products must be f32, bf16 or f16 on the CPU"),
        };
        Ok(Self { out, width, numbers })
    }

    /// Computes `x W^T`: `[N, in]` to `[N, out]`, both f32.
    ///
    /// # Errors
    /// The rows have the wrong width or type.
    pub fn product(&self, x: &Tensor) -> Result<Tensor> {
        x.contiguous()?.apply_op1_no_bwd(self)
    }

    /// Computes `base + x W^T` in one pass.
    ///
    /// # Errors
    /// As [`PackedWeight::product`], or `base` is not `[N, out]` in f32.
    pub fn product_onto(&self, base: &Tensor, x: &Tensor) -> Result<Tensor> {
        x.contiguous()?.apply_op2_no_bwd(&base.contiguous()?, self)
    }

    /// Returns the given rows of the matrix as f32, `[N, in]`: the lookup of an embedding that is also the
    /// output matrix.
    ///
    /// # Errors
    /// A row is beyond the last.
    pub fn rows(&self, rows: &[u32]) -> Result<Tensor> {
        if let Some(row) = rows.iter().find(|r| **r as usize >= self.out) {
            candle_core::bail!("row {row} of a matrix of {}", self.out)
        }
        fn gather<T: Copy>(numbers: &[T], width: usize, rows: &[u32], widen: impl Fn(T) -> f32) -> Vec<f32> {
            let line = |&row: &u32| {
                let (panel, column) = (row as usize / COLUMNS, row as usize % COLUMNS);
                numbers[panel * COLUMNS * width..][..COLUMNS * width].iter().skip(column).step_by(COLUMNS)
            };
            rows.iter().flat_map(line).map(|&x| widen(x)).collect()
        }
        let lines = match &self.numbers {
            Numbers::F32(numbers) => gather(numbers, self.width, rows, |x| x),
            Numbers::Bf16(numbers) => gather(numbers, self.width, rows, f32::from),
            Numbers::F16(numbers) => gather(numbers, self.width, rows, f32::from),
        };
        Tensor::from_vec(lines, (rows.len(), self.width), &Device::Cpu)
    }

    /// Computes `y += x W^T`, both matrices row by row.
    fn compute(&self, x: &[f32], y: &mut [f32]) {
        let size = COLUMNS * self.width;
        let panels = self.out.div_ceil(COLUMNS);
        // A task is a run of panels for all rows. With several tasks per thread, idle threads take over
        // tasks of a slow one.
        let tasks = if x.len() * self.out < MIN_PARALLEL_WORK { 1 } else { 4 * rayon::current_num_threads() };
        let run = panels.div_ceil(tasks).max(1);
        let mut parts: Vec<Vec<&mut [f32]>> = (0..panels.div_ceil(run)).map(|_| Vec::new()).collect();
        for row in y.chunks_exact_mut(self.out) {
            row.chunks_mut(run * COLUMNS).zip(&mut parts).for_each(|(columns, part)| part.push(columns));
        }
        let task = |scratch: &mut Vec<f32>, (i, part): (usize, &mut Vec<&mut [f32]>)| {
            for j in 0..run.min(panels - i * run) {
                let at = (i * run + j) * size;
                let panel = match &self.numbers {
                    Numbers::F32(numbers) => &numbers[at..at + size],
                    Numbers::Bf16(numbers) => {
                        widen(&numbers[at..at + size], scratch, |x| f32::from_bits(u32::from(x.to_bits()) << 16))
                    }
                    Numbers::F16(numbers) => widen(&numbers[at..at + size], scratch, f32::from),
                };
                multiply(x, panel, part, j * COLUMNS);
            }
        };
        if parts.len() == 1 {
            task(&mut Vec::new(), (0, &mut parts[0]));
        } else {
            parts.par_iter_mut().enumerate().for_each_init(Vec::new, task);
        }
    }
}

fn pack<T: Copy + Default + Send + Sync>(w: &[T], out: usize, width: usize) -> Vec<T> {
    let mut numbers = vec![T::default(); out.div_ceil(COLUMNS) * COLUMNS * width];
    if width > 0 {
        numbers.par_chunks_mut(COLUMNS * width).zip(w[..out * width].par_chunks(COLUMNS * width)).for_each(
            |(to, from)| {
                for (column, row) in from.chunks_exact(width).enumerate() {
                    row.iter().enumerate().for_each(|(t, &x)| to[t * COLUMNS + column] = x);
                }
            },
        );
    }
    numbers
}

fn widen<'a, T: Copy>(numbers: &[T], scratch: &'a mut Vec<f32>, f: impl Fn(T) -> f32) -> &'a [f32] {
    scratch.clear();
    scratch.extend(numbers.iter().map(|&x| f(x)));
    scratch
}

/// Adds the products of all rows of `x` with a panel to the rows of `y`, starting at column `first`.
fn multiply(x: &[f32], panel: &[f32], y: &mut [&mut [f32]], first: usize) {
    let width = panel.len() / COLUMNS;
    let (mut row, tiles) = (0, y.len().div_ceil(ROWS));
    for t in 0..tiles {
        // Tiles of nearly equal size: a last tile of few rows would cost as much as a full one.
        let end = (t + 1) * y.len() / tiles;
        let (x, y) = (&x[row * width..end * width], &mut y[row..end]);
        debug_assert!((1..=12).contains(&y.len()), "the tiles below");
        match y.len() {
            1 => tile::<1>(x, panel, y, first),
            2 => tile::<2>(x, panel, y, first),
            3 => tile::<3>(x, panel, y, first),
            4 => tile::<4>(x, panel, y, first),
            5 => tile::<5>(x, panel, y, first),
            6 => tile::<6>(x, panel, y, first),
            7 => tile::<7>(x, panel, y, first),
            8 => tile::<8>(x, panel, y, first),
            9 => tile::<9>(x, panel, y, first),
            10 => tile::<10>(x, panel, y, first),
            11 => tile::<11>(x, panel, y, first),
            _ => tile::<12>(x, panel, y, first),
        }
        row = end;
    }
}

/// Computes the products of `R` rows with a panel. It is not inlined, so that each copy has all registers.
#[inline(never)]
fn tile<const R: usize>(x: &[f32], panel: &[f32], y: &mut [&mut [f32]], first: usize) {
    let lines = panel.as_chunks::<COLUMNS>().0;
    let rows: [&[f32]; R] = std::array::from_fn(|r| &x[r * lines.len()..][..lines.len()]);
    let mut sums = [TileLine::ZERO; R];
    for (sums, y) in sums.iter_mut().zip(&*y) {
        *sums = TileLine::load(&y[first..]);
    }
    for (t, line) in lines.iter().enumerate() {
        let line = TileLine::new(line);
        for (sums, row) in sums.iter_mut().zip(&rows) {
            sums.add(row[t], line);
        }
    }
    for (sums, y) in sums.iter().zip(y) {
        sums.store(&mut y[first..]);
    }
}

impl PackedWeight {
    fn onto(&self, mut y: Vec<f32>, x: &CpuStorage, xl: &Layout) -> Result<(CpuStorage, Shape)> {
        let (Ok((rows, width)), name) = (xl.shape().dims2(), CustomOp1::name(self)) else {
            candle_core::bail!("panels: x is {:?}, not a matrix", xl.dims())
        };
        if width != self.width || y.len() != rows * self.out {
            let (out, in_) = (self.out, self.width);
            candle_core::bail!("{name}: x is {:?}, the weight [{out}, {in_}], the result {}", xl.dims(), y.len())
        }
        if !y.is_empty() {
            self.compute(slice(x, xl, name)?, &mut y);
        }
        Ok((CpuStorage::F32(y), Shape::from((rows, self.out))))
    }
}

impl CustomOp1 for PackedWeight {
    fn name(&self) -> &'static str {
        "panels"
    }
    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout) -> Result<(CpuStorage, Shape)> {
        self.onto(vec![0.; xl.shape().elem_count() / self.width.max(1) * self.out], x, xl)
    }
}

impl CustomOp2 for PackedWeight {
    fn name(&self) -> &'static str {
        "panels-onto"
    }
    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout, base: &CpuStorage, bl: &Layout) -> Result<(CpuStorage, Shape)> {
        self.onto(slice(base, bl, CustomOp2::name(self))?.to_vec(), x, xl)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;
    use crate::model::ops::composed;

    fn numbers(rows: usize, width: usize, seed: u64) -> Tensor {
        let mut x = seed;
        let mut next = || {
            x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (x >> 40) as f32 / (1u64 << 24) as f32 - 0.5
        };
        Tensor::from_vec((0..rows * width).map(|_| next()).collect::<Vec<_>>(), (rows, width), &Device::Cpu).unwrap()
    }

    fn bits(x: &Tensor) -> Vec<u32> {
        x.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
    }

    #[test]
    fn products_equal_the_plain_ones_for_every_remainder() {
        for (out, width) in [(1, 1), (31, 7), (32, 64), (33, 5), (192, 48), (100, 300)] {
            for dtype in [DType::F32, DType::BF16, DType::F16] {
                let w = numbers(out, width, 1).to_dtype(dtype).unwrap();
                let panels = PackedWeight::new(&w).unwrap();
                let w = w.to_dtype(DType::F32).unwrap();
                for rows in [1, 2, 5, 12, 13, 25, 40] {
                    let x = numbers(rows, width, 2);
                    let (got, want) = (panels.product(&x).unwrap(), composed::linear(&x, &w).unwrap());
                    let worst = (got - want).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
                    let worst = worst.to_scalar::<f32>().unwrap();
                    assert!(worst < 1e-5, "[{out}, {width}] {dtype:?}, {rows} rows: {worst:e}");
                    let base = numbers(rows, out, 5);
                    let (got, want) = (panels.product_onto(&base, &x).unwrap(), (base + panels.product(&x)).unwrap());
                    let worst = (got - want).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
                    assert!(worst.to_scalar::<f32>().unwrap() < 1e-5, "[{out}, {width}] onto {rows} rows");
                }
                let rows = [0, (out - 1) as u32, (out / 2) as u32];
                let want = w.index_select(&Tensor::new(&rows, &Device::Cpu).unwrap(), 0).unwrap();
                assert_eq!(bits(&panels.rows(&rows).unwrap()), bits(&want));
                assert!(panels.rows(&[out as u32]).is_err());
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_whatever_is_beside_it() {
        // Large enough to be divided among threads.
        let (panels, x) = (PackedWeight::new(&numbers(200, 96, 3)).unwrap(), numbers(64, 96, 4));
        let all = panels.product(&x).unwrap();
        let two = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        for rows in 1..=64 {
            let start = 64 - rows;
            let want = bits(&all.narrow(0, start, rows).unwrap().contiguous().unwrap());
            let x = x.narrow(0, start, rows).unwrap();
            assert_eq!(bits(&panels.product(&x).unwrap()), want, "{rows} rows");
            assert_eq!(bits(&two.install(|| panels.product(&x).unwrap())), want, "{rows} rows, two threads");
        }
        assert!(panels.product(&numbers(2, 95, 1)).is_err());
    }

    #[test]
    fn no_rows_and_no_numbers() {
        let panels = PackedWeight::new(&Tensor::zeros((5, 3), DType::F32, &Device::Cpu).unwrap()).unwrap();
        assert_eq!(panels.product(&Tensor::zeros((0, 3), DType::F32, &Device::Cpu).unwrap()).unwrap().dims(), [0, 5]);
        assert!(panels.product_onto(&numbers(2, 4, 1), &numbers(2, 3, 1)).is_err());
        assert!(PackedWeight::new(&Tensor::zeros((5, 3), DType::U8, &Device::Cpu).unwrap()).is_err());
    }
}
