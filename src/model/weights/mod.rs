//! Weights from files. Every length that a file states is checked against the file's size before memory is taken for it.

mod gguf;
mod gguf_model;
mod gguf_tokenizer;
pub(super) mod safetensors;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::{Config, Tokenizer, files};
use crate::error::{Error, Result};

/// What a model's files hold.
pub(super) struct Loaded {
    pub config: Config,
    pub weights: BTreeMap<String, Tensor>,
    pub tokenizer: Tokenizer,
}

pub(super) fn load(path: &Path, device: &Device, dtype: DType) -> Result<Loaded> {
    if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16) {
        return Err(Error::user(format!("weights cannot be {dtype:?}")).help("the types are f32, f16 and bf16"));
    }
    let help = "a model is a .gguf file, or a directory with config.json, model.safetensors and tokenizer.json";
    if path.is_dir() {
        let (config, tokenizer) = files::config_and_tokenizer(path)?;
        let weights = safetensors::load(path, "Llama", config.weights(), device, dtype)?;
        Ok(Loaded { config, weights, tokenizer })
    } else if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) {
        gguf_model::load(path, device, dtype).map_err(|e| e.doing(path.display()))
    } else if path.exists() {
        Err(Error::user(format!("{} is no model", path.display())).help(help))
    } else {
        Err(Error::user(format!("there is no model at {}", path.display())).help(help))
    }
}

/// Numbers of elements and bytes of a tensor; `None` if they do not fit a `usize`.
fn elements(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
}
