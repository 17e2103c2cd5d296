//! Text to token ids and back, and conversations through the model's own chat template.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`; others if the template knows them.
    pub role: String,
    /// What was said; never interpreted, see [`Tokenizer::encode_chat`].
    pub content: String,
}

impl Message {
    /// A turn.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// A tokenizer with its chat template; cheap to clone.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
}

struct Inner {
    eos: Vec<u32>,
    vocab: usize,
    template: Option<String>,
}

impl Tokenizer {
    /// Plain text to ids. Special tokens are never made: text that spells one is encoded as the letters it is. No
    /// beginning-of-text token is added.
    ///
    /// # Errors
    /// Whatever the tokenizer reports.
    pub fn encode_text(&self, _text: &str) -> Result<Vec<u32>> {
        Err(Error::bug("not built yet"))
    }
    /// Ids to text; special tokens are left out.
    pub fn decode(&self, _ids: &[u32]) -> String {
        String::new()
    }
    /// The conversation as the chat template writes it, special tokens spelled out.
    ///
    /// # Errors
    /// There is no template, or it refuses the conversation.
    pub fn render(&self, _messages: &[Message], _add_generation_prompt: bool) -> Result<String> {
        Err(Error::bug("not built yet"))
    }
    /// The conversation as ids. Special tokens come from the template alone: message content that spells one is
    /// encoded as the letters it is, so that text cannot close or open a turn.
    ///
    /// # Errors
    /// As [`Tokenizer::render`].
    pub fn encode_chat(&self, _messages: &[Message], _add_generation_prompt: bool) -> Result<Vec<u32>> {
        Err(Error::bug("not built yet"))
    }
    /// Tokens that end an answer.
    pub fn eos_ids(&self) -> &[u32] {
        &self.inner.eos
    }
    /// One more than the greatest id.
    pub fn vocab_size(&self) -> usize {
        self.inner.vocab
    }
    /// Whether [`Tokenizer::render`] can work.
    pub fn has_chat_template(&self) -> bool {
        self.inner.template.is_some()
    }
}
