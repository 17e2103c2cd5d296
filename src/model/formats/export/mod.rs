//! Writes a model as a GGUF file (version 3) that llama.cpp loads and
//! [`Model::load`](crate::model::Model::load) reads.
//!
//! Names, metadata and layout are those of llama.cpp's `convert_hf_to_gguf.py`. Only one weight at a time
//! is in memory. A model that the format cannot express is refused.

mod gguf;
mod gguf_type;
mod metadata;
mod tensor;
mod tokens;

use std::io::Write;
use std::path::Path;

use candle_core::{DType, Tensor};

pub use gguf_type::GgufType;

use super::gguf_model::{rotated_heads, stored_name};
use super::load::ModelFiles;
use crate::error::{Error, Result};
use crate::model::formats::export::gguf::{GgufWriter, MetadataTable, TensorTableEntry};
use crate::model::formats::hf::name_of;
use crate::model::ops;

/// Result of [`Export::write`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Number of tensors.
    pub tensors: usize,
    /// Length of the file.
    pub bytes: u64,
    /// Differences between the file and the model, in words.
    pub notes: Vec<String>,
}

/// A model that is ready to be written. Everything except the weights' values has been checked against what
/// GGUF can express.
pub struct Export {
    source: ModelFiles,
    metadata: MetadataTable,
    infos: Vec<TensorTableEntry>,
    factors: Option<Tensor>,
    notes: Vec<String>,
}

impl Export {
    /// Opens the model at `from`: a Hugging Face directory, a LoRA adapter's directory, or a GGUF file.
    ///
    /// # Errors
    /// The model cannot be loaded, or GGUF or the type cannot express it.
    pub fn open(from: &Path, kind: GgufType) -> Result<Self> {
        let source = ModelFiles::open(from)?;
        let name = name_of(from);
        let mut notes = Vec::new();
        let mut metadata = metadata::of(&source.config, name.strip_suffix(".gguf").unwrap_or(&name), kind)?;
        metadata.extend(tokens::of(&source.tokenizer, &source.config, &mut notes)?);

        let weights = source.config.weights();
        let factors = rope_factors(&source)?;
        let mut infos: Vec<TensorTableEntry> = Vec::with_capacity(weights.len() + 1);
        let mut narrow = 0;
        for (name, shape) in &weights {
            let stored = stored_for(kind, shape);
            narrow += usize::from(shape.len() > 1 && stored != kind);
            infos.push(TensorTableEntry { name: stored_name(name), shape: shape.clone(), kind: stored });
        }
        if narrow > 0 {
            notes.push(format!("{narrow} matrices are f16: q8_0 needs rows of a multiple of 32 weights"));
        }
        if let Some(factors) = &factors {
            infos.push(TensorTableEntry {
                name: "rope_freqs.weight".into(),
                shape: factors.dims().to_vec(),
                kind: GgufType::F32,
            });
        }
        Ok(Self { source, metadata, infos, factors, notes })
    }

    /// Writes the file's bytes to `to`.
    ///
    /// # Errors
    /// A weight cannot be read or has a value that the type cannot express, or `to` cannot be written.
    pub fn write(mut self, to: &mut dyn Write) -> Result<Exported> {
        let mut writer = GgufWriter::start(to, &self.metadata, &self.infos)?;
        for ((name, _), info) in self.source.config.weights().iter().zip(&self.infos) {
            let mut w = self.source.tensor(name)?.to_dtype(DType::F32)?;
            if let Some(heads) = rotated_heads(name, &self.source.config) {
                w = neighbours(&w, heads)?;
            }
            tensor::encode(&w, info.kind, |part| writer.put(part)).map_err(|e| e.doing(format!("weight `{name}`")))?;
            writer.pad()?;
        }
        if let Some(factors) = &self.factors {
            tensor::encode(factors, GgufType::F32, |part| writer.put(part))?;
            writer.pad()?;
        }
        Ok(Exported { tensors: self.infos.len(), bytes: writer.finish()?, notes: self.notes })
    }
}

/// Returns the type in the file for a weight of the given shape.
fn stored_for(kind: GgufType, shape: &[usize]) -> GgufType {
    match (kind, shape) {
        (_, [_]) => GgufType::F32,
        // The fallback of llama.cpp.
        (GgufType::Q8_0, [.., inner]) if inner % tensor::BLOCK != 0 => GgufType::F16,
        _ => kind,
    }
}

/// Permutes rows for llama.cpp, which rotates neighbouring pairs where Hugging Face rotates the two halves
/// of a head: row (head, side, j) moves to (head, j, side).
fn neighbours(w: &Tensor, heads: usize) -> candle_core::Result<Tensor> {
    let (rows, columns) = w.dims2()?;
    w.reshape((heads, 2, rows / heads / 2, columns))?.transpose(1, 2)?.contiguous()?.reshape((rows, columns))
}

/// Returns the divisors of the rotary frequencies if they are not all equal, as in Llama 3's scaling.
fn rope_factors(source: &ModelFiles) -> Result<Option<Tensor>> {
    let config = &source.config;
    let Some(scaling) = config.rope_scaling.as_ref().filter(|s| s.rope_type == "llama3") else { return Ok(None) };
    if (scaling.low_freq_factor, scaling.high_freq_factor) != (1., 4.) {
        return Err(Error::user(
            "its rope_scaling has other low_freq_factor and high_freq_factor than Llama 3's 1 and 4",
        )
        .help("GGUF stores only their result, and the model could not be read back"));
    }
    let plain = ops::frequencies(&crate::model::config::Config { rope_scaling: None, ..config.clone() })?;
    let scaled = ops::frequencies(config)?;
    let factors: Vec<f32> = plain.iter().zip(&scaled).map(|(p, s)| p / s).collect();
    let n = factors.len();
    Ok(Some(Tensor::from_vec(factors, n, &candle_core::Device::Cpu)?))
}
