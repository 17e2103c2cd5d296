//! The engine that a model's files ask for.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device};

use super::{Config, Engine, Local};
use crate::error::{Error, Result};
use crate::model::Model;

/// Loads a model (a Hugging Face directory or a GGUF file) and starts the engine that runs its family: [`Local`] for
/// Llamas. Weights are converted to `dtype` and put on `device`.
///
/// # Errors
/// The model cannot be loaded (see [`Model::load`]), has no chat template, or its engine cannot be started.
pub fn open(path: &Path, device: &Device, dtype: DType, config: Config) -> Result<Arc<dyn Engine>> {
    let model = Model::load(path, device, dtype, false)?;
    if !model.tokenizer.has_chat_template() {
        return Err(Error::user(format!("model `{}` has no chat template, so it cannot be asked anything", model.name))
            .help("take the instruction-tuned variant, or put a `chat_template` in tokenizer_config.json"));
    }
    Ok(Arc::new(Local::spawn(model, config)?))
}
