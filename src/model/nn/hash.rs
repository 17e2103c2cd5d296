//! The hash by which dataset rows identify weights, and the bytes that it covers.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};

use crate::error::{Error, Result};

/// blake3 hex over each weight's name, dtype, shape and little-endian bytes, in order of name.
///
/// # Errors
/// The weights cannot be read back from their device, or have a type that models cannot have.
pub fn hash(weights: &BTreeMap<String, Tensor>) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    for (name, w) in weights {
        for part in [name.as_bytes(), w.dtype().as_str().as_bytes(), format!("{:?}", w.dims()).as_bytes()] {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        hasher.update(&((w.elem_count() * w.dtype().size_in_bytes()) as u64).to_le_bytes());
        bytes(w, |part| {
            hasher.update(part);
            Ok(())
        })?;
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// Passes a weight's values to `each`, row by row, little-endian. An embedding may be half a model, so the
/// values are passed in parts.
pub(crate) fn bytes(w: &Tensor, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    const STRETCH: usize = 1 << 20;
    let flat = w.flatten_all()?;
    let n = flat.elem_count();
    for start in (0..n).step_by(STRETCH) {
        let values = flat.narrow(0, start, STRETCH.min(n - start))?;
        each(&match w.dtype() {
            DType::F32 => little_endian(&values.to_vec1::<f32>()?, |v| v.to_le_bytes()),
            DType::F16 => little_endian(&values.to_vec1::<half::f16>()?, |v| v.to_le_bytes()),
            DType::BF16 => little_endian(&values.to_vec1::<half::bf16>()?, |v| v.to_le_bytes()),
            other => return Err(Error::bug(format!("weights of type {other:?}"))),
        })?;
    }
    Ok(())
}

fn little_endian<T: Copy, const N: usize>(values: &[T], bytes: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    let mut out = vec![0u8; values.len() * N];
    for (to, &value) in out.chunks_exact_mut(N).zip(values) {
        to.copy_from_slice(&bytes(value));
    }
    out
}
