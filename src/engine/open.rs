//! Chooses the engine for a model's files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device};

use super::backend::{Engine, TokenEngine};
use super::batched::BatchedEngine;
use super::config::EngineConfig;
use super::sequential::Sequential;
use crate::error::{Error, Result};
use crate::model::families::InferenceModel;
use crate::model::family::Family;
use crate::model::formats::peft;
use crate::model::{Model, Tokenizer};

/// Loads a model (a Hugging Face directory or a GGUF file) and starts the engine that runs its family:
/// [`BatchedEngine`] for Llamas, [`Sequential`] for the others that reflux knows. Weights are converted to `dtype`
/// and put on `device`.
///
/// # Errors
/// The model cannot be loaded (see [`Model::load`] and [`InferenceModel::load`]), has no chat template, or its engine
/// cannot be started.
pub fn open(path: &Path, device: &Device, dtype: DType, config: EngineConfig) -> Result<Arc<dyn Engine>> {
    if Family::of(path)?.is_none() {
        return start(Model::load(path, device, dtype, false)?, config);
    }
    let model = InferenceModel::load(path, device, dtype)?;
    has_template(&model.name, &model.tokenizer)?;
    Ok(Arc::new(sequential(model, &config)))
}

/// As [`open`], for callers that work on token ids. The model needs no chat template; without one, conversations are
/// refused.
///
/// # Errors
/// The model cannot be loaded, or its engine cannot be started.
pub fn open_tokens(path: &Path, device: &Device, dtype: DType, config: EngineConfig) -> Result<Arc<dyn TokenEngine>> {
    if Family::of(path)?.is_some() {
        return Ok(Arc::new(sequential(InferenceModel::load(path, device, dtype)?, &config)));
    }
    let model = Model::load(path, device, dtype, false)?;
    let model = Model { tokenizer: model.tokenizer.with_date(config.date), ..model };
    Ok(Arc::new(BatchedEngine::spawn(model, config)?))
}

/// The model that a LoRA adapter was trained on; `None` if the path is no adapter.
///
/// # Errors
/// The adapter's settings cannot be read, or its base model was not found.
pub fn adapter_base(path: &Path) -> Result<Option<PathBuf>> {
    peft::base_of(path)
}

fn sequential(mut model: InferenceModel, config: &EngineConfig) -> Sequential {
    model.tokenizer = model.tokenizer.with_date(config.date);
    Sequential::new(model, config)
}

/// Starts the engine of a loaded Llama.
///
/// # Errors
/// It has no chat template, or see [`BatchedEngine::spawn`].
pub fn start(model: Model, config: EngineConfig) -> Result<Arc<dyn Engine>> {
    has_template(&model.name, &model.tokenizer)?;
    let model = Model { tokenizer: model.tokenizer.with_date(config.date), ..model };
    Ok(Arc::new(BatchedEngine::spawn(model, config)?))
}

/// Refuses a model without a chat template.
///
/// # Errors
/// Its tokenizer has no chat template.
pub(crate) fn has_template(name: &str, tokenizer: &Tokenizer) -> Result<()> {
    if tokenizer.has_chat_template() {
        return Ok(());
    }
    Err(Error::user(format!("model `{name}` has no chat template, so it cannot be asked anything"))
        .help("take the instruction-tuned variant, or put a `chat_template` in tokenizer_config.json"))
}
