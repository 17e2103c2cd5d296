//! Families other than Llama, for generation only: Qwen2, Qwen3 and the text models of Gemma 3.
//! candle-transformers computes them in f32.
//!
//! Where candle-transformers departs from the reference, [`Network`] works around it if possible; otherwise
//! config.json is refused when it is read. See [`Network::push`] and [`Network::fork`].

mod config;
mod network;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use self::config::FamilySettings;
pub use self::network::{ForkedCache, Network};
use super::config::OneOrMany;
use super::family::Family;
use super::formats::{hf, peft, safetensors};
use super::nn::finite;
use super::nn::hash::hash;
use super::text::tokenizer::Tokenizer;
use crate::error::{Error, ErrorContext, Result};

impl Family {
    /// Returns the family of the model in a directory. Returns `None` for other models and for a directory
    /// without config.json.
    ///
    /// # Errors
    /// config.json cannot be read, or is not a JSON object.
    pub fn of(path: &Path) -> Result<Option<Self>> {
        let config = path.join("config.json");
        if !config.is_file() || peft::is_one(path) {
            return Ok(None);
        }
        let json = hf::read_object(&config)?;
        Ok(json.get("model_type").and_then(|t| t.as_str()).and_then(Self::named))
    }
}

/// Weights and tokenizer of a model that supports generation only.
pub struct InferenceModel {
    /// Display name: the folder that the model was loaded from.
    pub name: String,
    /// Converts text to token ids and back.
    pub tokenizer: Tokenizer,
    /// Hash of the weights; see [`super::Model::hash`].
    pub hash: String,
    settings: FamilySettings,
    weights: BTreeMap<String, Tensor>,
    device: Device,
}

impl InferenceModel {
    /// Loads a Hugging Face directory (config.json, safetensors, tokenizer.json) of one of the families.
    ///
    /// # Errors
    /// A file is invalid, the files contradict each other, the model belongs to another family, or `dtype`
    /// is not f32. The message names the file.
    pub fn load(path: &Path, device: &Device, dtype: DType) -> Result<Self> {
        let (settings, tokenizer) = Self::small_files(path, dtype)?;
        let family = settings.family.name();
        let weights = safetensors::load(path, family, settings.weights(), device, dtype)?;
        finite::check(&weights).map_err(|e| e.doing(path.display()))?;
        let hash = hash(&weights)?;
        let model = Self { name: hf::name_of(path), tokenizer, hash, settings, weights, device: device.clone() };
        // Build a small network once, so that a fault shows now and not at the first request.
        model.network(1).user(|| path.display().to_string())?;
        Ok(model)
    }

    /// Reads the tokenizer and the context length of such a model, and checks its weights by name, shape
    /// and type.
    ///
    /// # Errors
    /// See [`InferenceModel::load`].
    pub(super) fn outline(path: &Path, dtype: DType) -> Result<(Tokenizer, usize)> {
        let (settings, tokenizer) = Self::small_files(path, dtype)?;
        let about = (settings.family.name(), "config.json");
        safetensors::WeightFiles::open(safetensors::shards(path)?, path, about, settings.weights())?;
        Ok((tokenizer, settings.sizes.max_position_embeddings))
    }

    /// Reads the configuration and the tokenizer, and checks that they match.
    fn small_files(path: &Path, dtype: DType) -> Result<(FamilySettings, Tokenizer)> {
        let (config_path, json) = hf::config_object(path)?;
        let at = || config_path.display();
        let kind = json.get("model_type").and_then(|t| t.as_str());
        let family = kind.and_then(Family::named);
        let family = family.ok_or_else(|| Error::user(format!("{}: it belongs to none of these families", at())))?;
        if dtype != DType::F32 {
            // candle-transformers stores Qwen2's and Gemma's rotary tables in the weights' type: in bf16,
            // positions from 256 on would be rounded.
            let (dtype, family) = (dtype.as_str(), family.name());
            return Err(Error::user(format!("{}: a {family} model cannot be run in {dtype}", path.display()))
                .help("models of this family run in f32 only"));
        }
        let eos = json.get("eos_token_id").cloned().map(serde_json::from_value::<Option<OneOrMany>>).transpose();
        let eos = eos.map_err(|e| Error::user(format!("{}: eos_token_id: {e}", at())))?.flatten();
        let settings = FamilySettings::parse(family, json).map_err(|e| e.doing(at()))?;
        let tokenizer = hf::tokenizer(path, eos.as_ref())?;
        tokenizer.fits(path.display(), settings.sizes.vocab_size)?;
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

    /// Creates an empty network for conversations of up to `positions` tokens. Networks share the weights.
    ///
    /// # Errors
    /// Returns any error of candle.
    pub fn network(&self, positions: usize) -> Result<Network> {
        Network::new(&self.settings, &self.weights, &self.device, positions)
    }
}
