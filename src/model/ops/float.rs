//! Reads weights in f32, bf16 or f16 as f32.
//!
//! All arithmetic on weights is in f32. Half precision only halves the memory: the numbers are widened,
//! which is exact, where they are used.

use std::borrow::Cow;
use std::ops::Range;

use candle_core::{CpuStorage, DType, Layout, Result, Storage, StorageRef, Tensor};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

/// Numbers that one thread widens per task.
const PART: usize = 1 << 16;

/// Whether a type has fewer bits than f32.
pub(in crate::model) fn is_half(dtype: DType) -> bool {
    matches!(dtype, DType::BF16 | DType::F16)
}

/// The type of arithmetic on numbers of the given type: f32 for half precision, else the type itself.
pub(in crate::model) fn computed_in(dtype: DType) -> DType {
    if is_half(dtype) { DType::F32 } else { dtype }
}

/// Converts the tensor to the type of its arithmetic. The gradient is converted back to the tensor's own
/// type.
///
/// # Errors
/// Returns any error of candle.
pub(in crate::model) fn widened(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(computed_in(x.dtype()))
}

/// Numbers in one of the types of weights.
#[derive(Clone, Copy)]
pub(in crate::model) enum FloatSlice<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    F16(&'a [f16]),
}

impl<'a> FloatSlice<'a> {
    /// Borrows the numbers of a storage. Returns `None` if they are not contiguous or have another type.
    pub(super) fn of_storage(storage: &'a CpuStorage, layout: &Layout) -> Option<Self> {
        let (start, end) = layout.contiguous_offsets()?;
        match storage {
            CpuStorage::F32(all) => Some(Self::F32(&all[start..end])),
            CpuStorage::BF16(all) => Some(Self::Bf16(&all[start..end])),
            CpuStorage::F16(all) => Some(Self::F16(&all[start..end])),
            _ => None,
        }
    }

    /// Count of numbers.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(all) => all.len(),
            Self::Bf16(all) => all.len(),
            Self::F16(all) => all.len(),
        }
    }

    /// Returns all numbers as f32; f32 is not copied.
    pub fn as_f32(self) -> Cow<'a, [f32]> {
        self.part(0..self.len())
    }

    /// Returns a range of the numbers as f32; f32 is not copied.
    pub fn part(self, range: Range<usize>) -> Cow<'a, [f32]> {
        match self {
            Self::F32(all) => Cow::Borrowed(&all[range]),
            Self::Bf16(all) => Cow::Owned(widen(&all[range])),
            Self::F16(all) => Cow::Owned(widen(&all[range])),
        }
    }
}

/// Widens half-precision numbers to f32, which is exact.
fn widen<T: Sync>(from: &[T]) -> Vec<f32>
where
    [T]: HalfFloatSliceExt,
{
    let mut to = vec![0f32; from.len()];
    if from.len() <= PART {
        from.convert_to_f32_slice(&mut to);
    } else {
        let parts = to.par_chunks_mut(PART).zip(from.par_chunks(PART));
        parts.for_each(|(to, from)| from.convert_to_f32_slice(to));
    }
    to
}

/// Numbers of a weight on the CPU, borrowed from its tensor.
pub(in crate::model) struct FloatTensor<'a> {
    storage: StorageRef<'a>,
    layout: &'a Layout,
}

impl<'a> FloatTensor<'a> {
    /// Borrows the numbers of a tensor.
    ///
    /// # Errors
    /// The tensor is not contiguous, not on the CPU, or neither f32 nor half precision.
    pub fn of(tensor: &'a Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        let usable = match &*storage {
            Storage::Cpu(cpu) => FloatSlice::of_storage(cpu, layout).is_some(),
            _ => false,
        };
        if !usable {
            candle_core::bail!("the numbers are not contiguous f32, bf16 or f16 on the CPU")
        }
        Ok(Self { storage, layout })
    }

    /// Returns the numbers in memory order.
    pub fn slice(&self) -> FloatSlice<'_> {
        match &*self.storage {
            // `of` has checked the storage, so the default is never used.
            Storage::Cpu(cpu) => FloatSlice::of_storage(cpu, self.layout).unwrap_or(FloatSlice::F32(&[])),
            _ => FloatSlice::F32(&[]),
        }
    }

    /// Count of numbers.
    pub fn len(&self) -> usize {
        self.slice().len()
    }

    /// Returns all numbers as f32; f32 is not copied.
    pub fn as_f32(&self) -> Cow<'_, [f32]> {
        self.slice().as_f32()
    }

    /// Returns a range of the numbers as f32; f32 is not copied.
    pub fn part(&self, range: Range<usize>) -> Cow<'_, [f32]> {
        self.slice().part(range)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn half_precision_is_widened_exactly_and_f32_is_not_copied() {
        // More numbers than one task takes, with the extremes of f16 at the end.
        let mut values: Vec<f32> = (0..PART + 1000).map(|i| (i as f32 - 30_000.) / 64.).collect();
        values.extend([65504., -65504., 5.960_464_5e-8, f32::INFINITY]);
        let tensor = Tensor::new(values.as_slice(), &Device::Cpu).unwrap();
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let weight = tensor.to_dtype(dtype).unwrap();
            let want = weight.to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap();
            let numbers = FloatTensor::of(&weight).unwrap();
            assert_eq!(numbers.len(), values.len());
            assert_eq!(*numbers.as_f32(), want, "{dtype:?}");
            assert_eq!(*numbers.part(7..12), want[7..12], "{dtype:?}");
            assert_eq!(matches!(numbers.as_f32(), Cow::Borrowed(_)), dtype == DType::F32);
        }
        assert!(FloatTensor::of(&tensor.to_dtype(DType::U8).unwrap()).is_err());
        let matrix = tensor.narrow(0, 0, 60).unwrap().reshape((6, 10)).unwrap();
        assert!(FloatTensor::of(&matrix.t().unwrap()).is_err());
    }
}
