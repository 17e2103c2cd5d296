//! Lines of numbers in registers, from which the CPU's matrix products are built.
//!
//! The code spells vectors out because the compiler does not reliably vectorise plain loops here, and a
//! product is thirty times slower without them.

use wide::f32x16;

/// Vectors per line.
const VECTORS: usize = if cfg!(target_feature = "avx512f") { 2 } else { 1 };
/// Columns per tile.
pub(super) const COLUMNS: usize = 16 * VECTORS;
/// Maximum rows per tile. A tile's sums, one line of the right factor and one number of the left factor
/// fill the registers.
pub(super) const ROWS: usize = if cfg!(target_feature = "avx512f") { 12 } else { 6 };
/// Multiplications below which passing a product to other threads does not pay.
pub(super) const MIN_PARALLEL_WORK: usize = 1 << 17;

/// A line of [`COLUMNS`] numbers.
#[derive(Clone, Copy)]
pub(super) struct TileLine([f32x16; VECTORS]);

impl TileLine {
    pub(super) const ZERO: Self = Self([f32x16::ZERO; VECTORS]);

    #[inline(always)]
    pub(super) fn new(line: &[f32; COLUMNS]) -> Self {
        let (parts, _) = line.as_chunks::<16>();
        Self(std::array::from_fn(|i| f32x16::from(parts[i])))
    }

    /// Reads the first numbers, with zeros beyond the last.
    #[inline(always)]
    pub(super) fn load(from: &[f32]) -> Self {
        match from.first_chunk() {
            Some(whole) => Self::new(whole),
            None => {
                let mut line = [0f32; COLUMNS];
                line[..from.len()].copy_from_slice(from);
                Self::new(&line)
            }
        }
    }

    /// Writes as many numbers as fit.
    #[inline(always)]
    pub(super) fn store(self, to: &mut [f32]) {
        let line = self.0.map(f32x16::to_array);
        match to.first_chunk_mut::<COLUMNS>() {
            // Whole vectors are assigned. Of two slice copies the compiler makes one of variable length, which
            // is a call for each line.
            Some(whole) => {
                let (parts, _) = whole.as_chunks_mut::<16>();
                parts.iter_mut().zip(line).for_each(|(to, part)| *to = part);
            }
            None => to.copy_from_slice(&line.as_flattened()[..to.len()]),
        }
    }

    /// Adds `x` times a line.
    #[inline(always)]
    pub(super) fn add(&mut self, x: f32, line: Self) {
        let x = f32x16::splat(x);
        for (sum, y) in self.0.iter_mut().zip(line.0) {
            *sum = x.mul_add(y, *sum);
        }
    }
}
