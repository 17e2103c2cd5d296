//! A model to a Hugging Face directory.
use std::path::Path;

use candle_core::{DType, Tensor};

use super::Model;
use crate::error::{Error, Result};

pub(super) fn save(_model: &Model, _dir: &Path) -> Result<String> {
    Err(Error::bug("not built yet"))
}

/// A weight's values, row by row, little-endian.
pub(super) fn bytes(w: &Tensor) -> Result<Vec<u8>> {
    let flat = w.flatten_all()?;
    Ok(match w.dtype() {
        DType::F32 => flat.to_vec1::<f32>()?.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::F16 => flat.to_vec1::<half::f16>()?.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::BF16 => flat.to_vec1::<half::bf16>()?.iter().flat_map(|v| v.to_le_bytes()).collect(),
        other => return Err(Error::bug(format!("weights of type {other:?}"))),
    })
}
