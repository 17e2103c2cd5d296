//! Loads weights from files. Every length in a file is checked against the file's size before memory is
//! allocated for it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

use super::{gguf_model, hf, peft, safetensors};
use crate::error::{Error, Result};
use crate::model::config::Config;
use crate::model::nn::lora::LoraConfig;
use crate::model::nn::lora::merge;
use crate::model::text::tokenizer::Tokenizer;

/// Contents of a model's files.
pub(crate) struct LoadedFiles {
    pub config: Config,
    pub weights: BTreeMap<String, Tensor>,
    pub tokenizer: Tokenizer,
}

pub(crate) fn load(path: &Path, device: &Device, dtype: DType) -> Result<LoadedFiles> {
    if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16) {
        return Err(Error::user(format!("weights cannot be {dtype:?}")).help("the types are f32, f16 and bf16"));
    }
    let mut source = ModelFiles::open(path)?;
    let mut weights = BTreeMap::new();
    for (name, _) in source.config.weights() {
        let w = source.tensor(&name)?.to_dtype(dtype)?.to_device(device)?;
        weights.insert(name, w);
    }
    Ok(LoadedFiles { config: source.config, weights, tokenizer: source.tokenizer })
}

/// A model's files, checked to hold every weight. Weights are read one at a time.
pub(crate) struct ModelFiles {
    pub config: Config,
    pub tokenizer: Tokenizer,
    path: PathBuf,
    files: OpenFiles,
    /// A LoRA adapter that is merged into the weights as they are read.
    adapter: Option<(LoraConfig, BTreeMap<String, Tensor>)>,
}

enum OpenFiles {
    Safetensors(safetensors::WeightFiles),
    Gguf(gguf_model::GgufModel),
}

impl ModelFiles {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        peft::check_not_both(path)?;
        if peft::is_one(path) {
            let (lora, base) = peft::open(path)?;
            let source = Self::open(&peft::base(path, base.as_deref())?).map_err(|e| e.doing(path.display()))?;
            let weights = peft::weights(path, &lora, &source.config)?;
            let tokenizer = peft::tokenizer(path, source.tokenizer)?;
            return Ok(Self { adapter: Some((lora, weights)), tokenizer, ..source });
        }
        let help = "a model is a .gguf file, or a directory with config.json, model.safetensors and tokenizer.json";
        let (config, tokenizer, files) = if path.is_dir() {
            let (mut config, tokenizer) = hf::config_and_tokenizer(path)?;
            let shards = safetensors::shards(path)?;
            let mut files = safetensors::WeightFiles::open(shards, path, ("Llama", "config.json"), config.weights())?;
            if config.tie_word_embeddings && files.has_another_head()? {
                config.tie_word_embeddings = false;
                files.take_head();
            }
            (config, tokenizer, OpenFiles::Safetensors(files))
        } else if is_gguf(path) {
            let (model, config, tokenizer) = gguf_model::GgufModel::open(path).map_err(|e| e.doing(path.display()))?;
            (config, tokenizer, OpenFiles::Gguf(model))
        } else if path.exists() {
            return Err(Error::user(format!("{} is not a model", path.display())).help(help));
        } else {
            return Err(Error::user(format!("no model found at {}", path.display())).help(help));
        };
        Ok(Self { config, tokenizer, path: path.into(), files, adapter: None })
    }

    /// Reads a weight of [`Config::weights`] on the CPU, in its stored type; in f32 if it is quantised or
    /// has an adapter.
    pub(crate) fn tensor(&mut self, name: &str) -> Result<Tensor> {
        let w = match &mut self.files {
            OpenFiles::Safetensors(files) => files.tensor(name)?,
            OpenFiles::Gguf(model) => model.tensor(name, &self.config).map_err(|e| e.doing(self.path.display()))?,
        };
        let Some((lora, weights)) = &self.adapter else { return Ok(w) };
        let part = |part: &str| weights.get(&format!("{}.{part}.weight", name.strip_suffix(".weight")?));
        match part("lora_A").zip(part("lora_B")) {
            Some((a, b)) => Ok(merge(&w, a, b, lora.scale())?),
            None => Ok(w),
        }
    }
}

/// Whether a file name is that of a GGUF file.
pub fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"))
}
