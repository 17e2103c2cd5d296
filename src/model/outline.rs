//! A model's description without its weights, for checks before a run starts.

use std::path::Path;

use candle_core::DType;

use super::families::InferenceModel;
use super::family::Family;
use super::formats::load::{self, is_gguf};
use super::formats::{gguf_model, hf};
use super::text::tokenizer::Tokenizer;
use crate::error::Result;

/// Description of a model, read from its small files and from the headers of its weight files.
pub struct ModelOutline {
    /// Converts text to token ids and back.
    pub tokenizer: Tokenizer,
    /// The longest conversation, in tokens.
    pub positions: usize,
    /// The model's family, if that family supports generation only.
    pub family: Option<Family>,
}

impl ModelOutline {
    /// Reads a model's files and performs every check of loading it into `dtype`, except those of the
    /// weights' values.
    ///
    /// # Errors
    /// As [`super::Model::load`] and [`InferenceModel::load`].
    pub fn of_files(path: &Path, dtype: DType) -> Result<Self> {
        if let Some(family) = Family::of(path)? {
            let (tokenizer, positions) = InferenceModel::outline(path, dtype)?;
            return Ok(Self { tokenizer, positions, family: Some(family) });
        }
        let source = load::ModelFiles::open(path)?;
        source.tokenizer.fits(path.display(), source.config.vocab_size)?;
        let positions = source.config.max_position_embeddings;
        Ok(Self { tokenizer: source.tokenizer, positions, family: None })
    }

    /// Reads the tokenizer of a model that runs elsewhere: a directory with tokenizer.json, or a GGUF file. The
    /// context is `usize::MAX` if no file has it.
    ///
    /// # Errors
    /// No tokenizer found, or it is damaged.
    pub fn of_tokenizer(path: &Path) -> Result<Self> {
        if is_gguf(path) {
            let (_, config, tokenizer) = gguf_model::GgufModel::open(path)?;
            return Ok(Self { tokenizer, positions: config.max_position_embeddings, family: None });
        }
        let (tokenizer, positions) = hf::tokenizer_alone(path)?;
        Ok(Self { tokenizer, positions: positions.unwrap_or(usize::MAX), family: None })
    }

    /// Reads the configuration in a directory, for a model whose weights are drawn at random.
    ///
    /// # Errors
    /// As [`super::Model::init`].
    pub fn of_configuration(dir: &Path) -> Result<Self> {
        let (config, tokenizer) = hf::config_and_tokenizer(dir)?;
        tokenizer.fits(dir.display(), config.vocab_size)?;
        Ok(Self { tokenizer, positions: config.max_position_embeddings, family: None })
    }
}
