//! What a model's files say of it without its weights, for checks before anything runs.

use std::path::Path;

use candle_core::DType;

use super::families::InferenceModel;
use super::family::Family;
use super::formats::{hf, load};
use super::text::tokenizer::Tokenizer;
use crate::error::Result;

/// A model as its small files and the headers of the others describe it.
pub struct Outline {
    /// Text to token ids and back.
    pub tokenizer: Tokenizer,
    /// The longest conversation, in tokens.
    pub positions: usize,
    /// Its family, where that is one that is run but not trained.
    pub family: Option<Family>,
}

impl Outline {
    /// Of a model's files: whatever loading it into `dtype` would refuse but for the values of its weights.
    ///
    /// # Errors
    /// As [`super::Model::load`] and [`InferenceModel::load`].
    pub fn of_files(path: &Path, dtype: DType) -> Result<Self> {
        if let Some(family) = Family::of(path)? {
            let (tokenizer, positions) = InferenceModel::outline(path, dtype)?;
            return Ok(Self { tokenizer, positions, family: Some(family) });
        }
        let source = load::Source::open(path)?;
        source.tokenizer.fits(path.display(), source.config.vocab_size)?;
        let positions = source.config.max_position_embeddings;
        Ok(Self { tokenizer: source.tokenizer, positions, family: None })
    }

    /// Of a model whose weights are drawn at random for the configuration in a directory.
    ///
    /// # Errors
    /// As [`super::Model::init`].
    pub fn of_configuration(dir: &Path) -> Result<Self> {
        let (config, tokenizer) = hf::config_and_tokenizer(dir)?;
        tokenizer.fits(dir.display(), config.vocab_size)?;
        Ok(Self { tokenizer, positions: config.max_position_embeddings, family: None })
    }
}
