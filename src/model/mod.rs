//! Llama-family models: one definition that is differentiable and serves inference too, their weights, tokenizer
//! and chat template; and other families, which are run but not trained ([`families`]). This folder knows candle and
//! nothing of dataflow, engine or training.

pub mod formats;
pub mod nn;
pub mod text;

pub mod backprop;
pub mod families;
pub mod ops;

mod outline;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::Write;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

pub use formats::save::saved_dtype;
pub use formats::weights::gguf_model::gguf_config;
pub use formats::weights::is_gguf;
pub use nn::config::Config;
pub use nn::llama::{Attention, Llama};
pub use nn::lora::LoraConfig;
pub use outline::Outline;
pub use text::completion::{Completion, Unwritten};
pub use text::tokenizer::{Message, Tokenizer};

use crate::error::{Context, Error, Result};

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
        let loaded = formats::weights::load(path, device, dtype)?;
        Self::from_weights(&name_of(path), &loaded.config, loaded.weights, loaded.tokenizer, trainable)
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
        let (config, tokenizer) = formats::hf::config_and_tokenizer(config_dir)?;
        let drawn = nn::init::normal(&config, std, seed, device)?;
        let weights = drawn.into_iter().map(|(name, w)| Ok((name, w.to_dtype(dtype)?))).collect::<Result<_>>()?;
        Self::from_weights(&name_of(config_dir), &config, weights, tokenizer, trainable)
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
        vocabulary_fits(format!("model {name}"), &tokenizer, config.vocab_size)?;
        nn::finite::check(&weights).map_err(|e| e.doing(format!("model {name}")))?;
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
        formats::save::save(self, dir)
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

    /// The model with the adapter in a directory of PEFT's layout as its only variables; see [`formats::peft::load`].
    ///
    /// # Errors
    /// As [`formats::peft::load`].
    pub fn load_lora(self, dir: &Path) -> Result<Self> {
        let (lora, weights) = formats::peft::load(dir, self.llama.config())?;
        Ok(Self { llama: self.llama.with_lora(&lora, &weights).user(|| dir.display().to_string())?, ..self })
    }

    /// Writes the adapter in PEFT's layout: adapter_config.json, which names `base` as the model it was trained on, and
    /// adapter_model.safetensors.
    ///
    /// # Errors
    /// The model has no adapter, its weights are not all finite, or the directory cannot be written.
    pub fn save_lora(&self, base: Option<&str>, dir: &Path) -> Result<()> {
        formats::peft::save(&self.llama, base, dir)
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

/// Checks that each token of a model's tokenizer has its row of the embedding; `place` begins the message.
fn vocabulary_fits(place: impl Display, tokenizer: &Tokenizer, rows: usize) -> Result<()> {
    let tokens = tokenizer.vocab_size();
    if tokens <= rows {
        return Ok(());
    }
    Err(Error::user(format!("{place}: the tokenizer has {tokens} tokens, the embedding {rows} rows"))
        .help("the tokenizer's files belong to another model"))
}

/// blake3 hex over each weight's name, dtype, shape and little-endian bytes, in order of name.
///
/// # Errors
/// The weights cannot be read back from their device, or have a type that models do not have.
pub fn hash(weights: &BTreeMap<String, Tensor>) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    for (name, w) in weights {
        for part in [name.as_bytes(), w.dtype().as_str().as_bytes(), format!("{:?}", w.dims()).as_bytes()] {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        hasher.update(&((w.elem_count() * w.dtype().size_in_bytes()) as u64).to_le_bytes());
        formats::save::bytes(w, |part| {
            hasher.update(part);
            Ok(())
        })?;
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// Writes tensors of any names in the safetensors format, in order of name.
///
/// # Errors
/// What `to` reports, or a type that models do not have.
pub fn write_tensors(tensors: &BTreeMap<String, Tensor>, to: &mut dyn Write) -> Result<()> {
    formats::save::safetensors(tensors, to)
}

/// Reads every tensor of a safetensors file, as it is.
///
/// # Errors
/// The file is not there, or not such a file: its header is checked before anything is read.
pub fn read_tensors(path: &Path, device: &Device) -> Result<BTreeMap<String, Tensor>> {
    formats::weights::safetensors::read_all(path, device)
}

/// The device called `cpu`, `cuda`, `cuda:1`, `metal`, or `auto`: the first accelerator this build can use, else the CPU.
///
/// # Errors
/// The name is unknown, or the device is not there or not in this build.
pub fn device(name: &str) -> Result<Device> {
    let (kind, ordinal) = name.split_once(':').unwrap_or((name, "0"));
    let unknown = || {
        Error::user(format!("there is no device `{name}`"))
            .help("devices are cpu, cuda, cuda:N, metal, metal:N and auto")
    };
    let ordinal: usize = ordinal.parse().map_err(|_| unknown())?;
    let build = |kind: &str| format!("device `{name}` (reflux must be built with `--features {kind}` for it)");
    match kind {
        "cpu" => Ok(Device::Cpu),
        "cuda" => Device::new_cuda(ordinal).user(|| build("cuda")),
        "metal" => Device::new_metal(ordinal).user(|| build("metal")),
        "auto" => Ok(Device::new_cuda(0).or_else(|_| Device::new_metal(0)).unwrap_or(Device::Cpu)),
        _ => Err(unknown()),
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into_owned())
}
