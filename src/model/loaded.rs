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
use crate::error::{Context, Result};

/// Weights, tokenizer and chat template of one model, and the name and hash by which rows of datasets refer to it.
pub struct Model {
    /// What people call it: the file or folder it came from.
    pub name: String,
    /// The network.
    pub llama: Llama,
    /// Text to token ids and back.
    pub tokenizer: Tokenizer,
    /// blake3 hex over names, shapes, dtypes and bytes of the weights as loaded, see [`hash`].
    pub hash: String,
}

impl Model {
    /// Loads a Hugging Face directory (config.json, safetensors, tokenizer.json), a GGUF file, or a LoRA adapter in PEFT's
    /// layout, merged into the base model that it names. The weights are converted to `dtype` and put on `device`; they
    /// are variables with gradients if `trainable`.
    ///
    /// # Errors
    /// The path, one of its files, or the agreement between them is wrong; the message names the file.
    pub fn load(path: &Path, device: &Device, dtype: DType, trainable: bool) -> Result<Self> {
        let loaded = load::load(path, device, dtype)?;
        Self::from_weights(&hf::name_of(path), &loaded.config, loaded.weights, loaded.tokenizer, trainable)
    }

    /// A model with random weights: N(0, `std`) drawn by a counter-based generator keyed by (`seed`, weight name), norms 1.
    /// They are drawn in f32 and kept in `dtype`. `config_dir` holds config.json and the tokenizer's files.
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

    /// A model from its parts; the hash is computed here.
    ///
    /// # Errors
    /// A weight is missing, has another shape or holds a number that is not finite, or the tokenizer has more tokens than
    /// the embedding has rows.
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

    /// Writes a Hugging Face directory that transformers' AutoModelForCausalLM and AutoTokenizer load: config.json,
    /// model.safetensors, tokenizer.json, tokenizer_config.json, generation_config.json. An adapter is merged into the
    /// weights, and all are f32 then. Returns the weights' hash now (which differs from `self.hash` once the weights were trained).
    ///
    /// # Errors
    /// A weight holds a number that is not finite, or the directory cannot be written.
    pub fn save(&self, dir: &Path) -> Result<String> {
        save::save(&self.llama, &self.tokenizer, dir)
    }

    /// A deep copy whose weights are variables with gradients; an adapter is merged into them.
    ///
    /// # Errors
    /// Out of memory, as candle reports it.
    pub fn trainable(&self) -> Result<Self> {
        self.copy(true)
    }

    /// A deep copy whose weights are plain tensors, cut off from this model's variables: training this one further
    /// leaves the copy as it is. An adapter is merged into them, see [`Llama::merged`].
    ///
    /// # Errors
    /// As [`Model::trainable`].
    pub fn frozen(&self) -> Result<Self> {
        self.copy(false)
    }

    /// The model with a new adapter as its only variables: A drawn by the generator keyed by (`seed`, weight name), B
    /// zero, so that it computes what it did. Weights are shared with what this model was made from.
    ///
    /// # Errors
    /// The model was laid out for inference.
    pub fn with_lora(self, lora: &LoraConfig, seed: u64) -> Result<Self> {
        let adapter = lora.init(self.llama.config(), seed, self.llama.device())?;
        Ok(Self { llama: self.llama.with_lora(lora, &adapter)?, ..self })
    }

    /// The model with the adapter in a directory of PEFT's layout as its only variables; see [`peft::load`](super::formats::peft::load).
    ///
    /// # Errors
    /// As [`peft::load`](super::formats::peft::load).
    pub fn load_lora(self, dir: &Path) -> Result<Self> {
        let (lora, weights) = peft::load(dir, self.llama.config())?;
        Ok(Self { llama: self.llama.with_lora(&lora, &weights).user(|| dir.display().to_string())?, ..self })
    }

    /// Writes the adapter in PEFT's layout: adapter_config.json, which names `base` as the model it was trained on, and
    /// adapter_model.safetensors.
    ///
    /// # Errors
    /// The model has no adapter, its weights are not all finite, or the directory cannot be written.
    pub fn save_lora(&self, base: Option<&str>, dir: &Path) -> Result<()> {
        peft::save(&self.llama, base, dir)
    }

    fn copy(&self, trainable: bool) -> Result<Self> {
        let copy = |(name, w): (String, Tensor)| Ok((name, w.detach().copy()?));
        let weights = self.llama.merged()?.into_iter().map(copy).collect::<Result<_>>()?;
        Self::from_weights(&self.name, self.llama.config(), weights, self.tokenizer.clone(), trainable)
    }

    /// The hash of the weights as they are now, an adapter merged into them.
    ///
    /// # Errors
    /// The weights cannot be read back from their device.
    pub fn current_hash(&self) -> Result<String> {
        hash(&self.llama.merged()?)
    }
}
