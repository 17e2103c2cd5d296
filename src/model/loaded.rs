//! [`Model`]: a network with its tokenizer, name and hash.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::config::Config;
use super::formats::{hf, load, peft, save};
use super::nn::hash::hash;
use super::nn::llama::Llama;
use super::nn::lora::LoraConfig;
use super::nn::{finite, init};
use super::text::tokenizer::Tokenizer;
use crate::error::{ErrorContext, Result};

/// Weights, tokenizer and chat template of one model, with the name and hash that dataset rows store to
/// identify it.
pub struct Model {
    /// Display name: the file or folder that the model was loaded from.
    pub name: String,
    /// The network.
    pub llama: Llama,
    /// Converts text to token ids and back.
    pub tokenizer: Tokenizer,
    /// blake3 hash in hex over names, shapes, dtypes and bytes of the weights as loaded; see [`hash`].
    pub hash: String,
}

impl Model {
    /// Loads a Hugging Face directory (config.json, safetensors, tokenizer.json), a GGUF file, or a LoRA
    /// adapter in PEFT's layout. An adapter is merged into the base model that it names. The weights are
    /// converted to `dtype` and placed on `device`. If `trainable`, they are variables with gradients.
    ///
    /// # Errors
    /// The path or one of its files is invalid, or the files contradict each other. The message names the
    /// file.
    pub fn load(path: &Path, device: &Device, dtype: DType, trainable: bool) -> Result<Self> {
        let loaded = load::load(path, device, dtype)?;
        Self::from_weights(&hf::name_of(path), &loaded.config, loaded.weights, loaded.tokenizer, trainable)
    }

    /// Creates a model with random weights: N(0, `std`) from a counter-based generator keyed by (`seed`,
    /// weight name); norms are 1. The weights are drawn in f32 and stored in `dtype`. `config_dir` holds
    /// config.json and the tokenizer's files.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn init(
        config_dir: &Path,
        std: f32,
        seed: u64,
        device: &Device,
        dtype: DType,
        trainable: bool,
    ) -> Result<Self> {
        let (config, tokenizer) = hf::config_and_tokenizer(config_dir)?;
        let drawn = init::normal(&config, std, seed, device)?;
        let weights = drawn.into_iter().map(|(name, w)| Ok((name, w.to_dtype(dtype)?))).collect::<Result<_>>()?;
        Self::from_weights(&hf::name_of(config_dir), &config, weights, tokenizer, trainable)
    }

    /// Creates a model from its parts and computes its hash.
    ///
    /// # Errors
    /// A weight is missing, has the wrong shape or holds a number that is not finite, or the tokenizer has
    /// more tokens than the embedding has rows.
    pub fn from_weights(
        name: &str,
        config: &Config,
        weights: BTreeMap<String, Tensor>,
        tokenizer: Tokenizer,
        trainable: bool,
    ) -> Result<Self> {
        tokenizer.fits(format!("model {name}"), config.vocab_size)?;
        finite::check(&weights).map_err(|e| e.doing(format!("model {name}")))?;
        let hash = hash(&weights)?;
        let llama = if trainable { Llama::trainable(config, &weights) } else { Llama::frozen(config, &weights) };
        Ok(Self { name: name.to_string(), llama: llama.user(|| format!("model {name}"))?, tokenizer, hash })
    }

    /// Writes a Hugging Face directory that transformers' AutoModelForCausalLM and AutoTokenizer load:
    /// config.json, model.safetensors, tokenizer.json, tokenizer_config.json, generation_config.json. An
    /// adapter is merged into the weights; all weights are then written as f32. Returns the hash of the
    /// written weights, which differs from `self.hash` after training.
    ///
    /// # Errors
    /// A weight holds a number that is not finite, or the directory cannot be written.
    pub fn save(&self, dir: &Path) -> Result<String> {
        save::save(&self.llama, &self.tokenizer, dir)
    }

    /// Returns a deep copy whose weights are variables with gradients. An adapter is merged into the
    /// weights.
    ///
    /// # Errors
    /// Out of memory, as candle reports it.
    pub fn trainable(&self) -> Result<Self> {
        self.copy(true)
    }

    /// Returns a deep copy whose weights are plain tensors, detached from this model's variables: further
    /// training of this model does not change the copy. An adapter is merged into the weights; see
    /// [`Llama::merged`].
    ///
    /// # Errors
    /// As [`Model::trainable`].
    pub fn frozen(&self) -> Result<Self> {
        self.copy(false)
    }

    /// Adds a new adapter whose weights are the only variables. A is drawn by the generator keyed by
    /// (`seed`, weight name) and B is zero, so the model's output does not change. The weights are shared
    /// with the original model.
    ///
    /// # Errors
    /// The model is already packed for inference.
    pub fn with_lora(self, lora: &LoraConfig, seed: u64) -> Result<Self> {
        let adapter = lora.init(self.llama.config(), seed, self.llama.device())?;
        Ok(Self { llama: self.llama.with_lora(lora, &adapter)?, ..self })
    }

    /// Adds the adapter stored in a directory of PEFT's layout. Its weights are the only variables; see
    /// [`peft::load`](super::formats::peft::load).
    ///
    /// # Errors
    /// As [`peft::load`](super::formats::peft::load).
    pub fn load_lora(self, dir: &Path) -> Result<Self> {
        let (lora, weights) = peft::load(dir, self.llama.config())?;
        Ok(Self { llama: self.llama.with_lora(&lora, &weights).user(|| dir.display().to_string())?, ..self })
    }

    /// Writes the adapter in PEFT's layout: adapter_config.json, which names `base` as the base model, and
    /// adapter_model.safetensors.
    ///
    /// # Errors
    /// The model has no adapter, some weights are not finite, or the directory cannot be written.
    pub fn save_lora(&self, base: Option<&str>, dir: &Path) -> Result<()> {
        peft::save(&self.llama, base, dir)
    }

    fn copy(&self, trainable: bool) -> Result<Self> {
        let copy = |(name, w): (String, Tensor)| Ok((name, w.detach().copy()?));
        let weights = self.llama.merged()?.into_iter().map(copy).collect::<Result<_>>()?;
        Self::from_weights(&self.name, self.llama.config(), weights, self.tokenizer.clone(), trainable)
    }

    /// Computes the hash of the current weights. An adapter is merged into them first.
    ///
    /// # Errors
    /// The weights cannot be read back from their device.
    pub fn current_hash(&self) -> Result<String> {
        hash(&self.llama.merged()?)
    }
}
