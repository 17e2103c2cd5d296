//! Families other than Llama, for generation only: Qwen2, Qwen3 and the text models of Gemma 3, computed by
//! candle-transformers in f32.
//!
//! Where candle-transformers departs from the reference, [`Network`] goes round it, and what cannot be gone round is
//! refused when config.json is read. See [`Network::push`] and [`Network::fork`].

mod config;
mod network;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use self::config::Settings;
pub use self::network::{ForkedCache, Network};
use super::formats::{hf, peft, weights};
use super::nn::config::OneOrMany;
use super::nn::finite;
use super::text::tokenizer::Tokenizer;
use super::{hash, name_of, vocabulary_fits};
use crate::error::{Context, Error, Result};

/// A family of models that is run but not trained.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// Qwen 2 and 2.5 (arXiv 2407.10671, 2412.15115).
    Qwen2,
    /// Dense models of Qwen 3 (arXiv 2505.09388).
    Qwen3,
    /// Text models of Gemma 3 (arXiv 2503.19786).
    Gemma3,
}

impl Family {
    /// The family that config.json calls so in `model_type`.
    pub fn named(model_type: &str) -> Option<Self> {
        match model_type {
            "qwen2" => Some(Self::Qwen2),
            "qwen3" => Some(Self::Qwen3),
            "gemma3_text" => Some(Self::Gemma3),
            _ => None,
        }
    }

    /// The family of the model in a directory; none if it is another, or if there is no config.json.
    ///
    /// # Errors
    /// config.json cannot be read, or is no JSON object.
    pub fn of(path: &Path) -> Result<Option<Self>> {
        let config = path.join("config.json");
        if !config.is_file() || peft::is_one(path) {
            return Ok(None);
        }
        let json = hf::read_object(&config)?;
        Ok(json.get("model_type").and_then(|t| t.as_str()).and_then(Self::named))
    }

    /// As in `model_type`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Gemma3 => "gemma3_text",
        }
    }
}

/// Weights and tokenizer of a model that is run but not trained.
pub struct InferenceModel {
    /// What people call it: the folder it came from.
    pub name: String,
    /// Text to token ids and back.
    pub tokenizer: Tokenizer,
    /// As [`super::Model::hash`].
    pub hash: String,
    settings: Settings,
    weights: BTreeMap<String, Tensor>,
    device: Device,
}

impl InferenceModel {
    /// Loads a Hugging Face directory (config.json, safetensors, tokenizer.json) of one of the families.
    ///
    /// # Errors
    /// One of the files, or the agreement between them, is wrong, the model is of another family, or `dtype` is not
    /// f32; the message names the file.
    pub fn load(path: &Path, device: &Device, dtype: DType) -> Result<Self> {
        let (settings, tokenizer) = Self::small_files(path, dtype)?;
        let family = settings.family.name();
        let weights = weights::safetensors::load(path, family, settings.weights(), device, dtype)?;
        finite::check(&weights).map_err(|e| e.doing(path.display()))?;
        let hash = hash(&weights)?;
        let model = Self { name: name_of(path), tokenizer, hash, settings, weights, device: device.clone() };
        // Made once for little, so that a fault shows now and not at the first request.
        model.network(1).user(|| path.display().to_string())?;
        Ok(model)
    }

    /// Tokenizer and context of such a model, whose weights are looked at by name, shape and type.
    ///
    /// # Errors
    /// As [`InferenceModel::load`].
    pub(super) fn outline(path: &Path, dtype: DType) -> Result<(Tokenizer, usize)> {
        let (settings, tokenizer) = Self::small_files(path, dtype)?;
        let about = (settings.family.name(), "config.json");
        weights::safetensors::Files::open(weights::safetensors::shards(path)?, path, about, settings.weights())?;
        Ok((tokenizer, settings.sizes.max_position_embeddings))
    }

    /// Configuration and tokenizer, found to go together.
    fn small_files(path: &Path, dtype: DType) -> Result<(Settings, Tokenizer)> {
        let (config_path, json) = hf::config_object(path)?;
        let at = || config_path.display();
        let kind = json.get("model_type").and_then(|t| t.as_str());
        let family = kind.and_then(Family::named);
        let family = family.ok_or_else(|| Error::user(format!("{}: it is of none of these families", at())))?;
        if dtype != DType::F32 {
            // candle-transformers makes Qwen2's and Gemma's rotary tables in the weights' type: in bf16, positions
            // from 256 on are rounded.
            let (dtype, family) = (dtype.as_str(), family.name());
            return Err(Error::user(format!("{}: a {family} model cannot be run in {dtype}", path.display()))
                .help("models of this family run in f32 only"));
        }
        let eos = json.get("eos_token_id").cloned().map(serde_json::from_value::<Option<OneOrMany>>).transpose();
        let eos = eos.map_err(|e| Error::user(format!("{}: eos_token_id: {e}", at())))?.flatten();
        let settings = Settings::parse(family, json).map_err(|e| e.doing(at()))?;
        let tokenizer = hf::tokenizer(path, eos.as_ref())?;
        vocabulary_fits(path.display(), &tokenizer, settings.sizes.vocab_size)?;
        Ok((settings, tokenizer))
    }

    /// The longest conversation, in tokens.
    pub fn positions(&self) -> usize {
        self.settings.sizes.max_position_embeddings
    }
    /// Rows of the embedding.
    pub fn vocab_size(&self) -> usize {
        self.settings.sizes.vocab_size
    }

    /// Bytes that a [`Network`] and a branch of it take for each position: keys, values and rotary tables.
    pub fn position_bytes(&self) -> u64 {
        let c = &self.settings.sizes;
        let kept = 2 * 2 * c.kv_heads() * c.head_dim();
        (c.num_hidden_layers * (kept + c.head_dim()) * size_of::<f32>()) as u64
    }

    /// The network with nothing read yet, for conversations of up to `positions` tokens. Weights are shared.
    ///
    /// # Errors
    /// Whatever candle reports.
    pub fn network(&self, positions: usize) -> Result<Network> {
        Network::new(&self.settings, &self.weights, &self.device, positions)
    }
}
