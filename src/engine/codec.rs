//! [`Codec`]: what an engine needs of a tokenizer.

use crate::error::Result;
use crate::model::{Message, Tokenizer};

/// What the engine needs of a tokenizer.
pub trait Codec: Send + Sync {
    /// The token ids of a conversation, up to the beginning of the answer.
    ///
    /// # Errors
    /// The chat template refused the messages.
    fn encode(&self, messages: &[Message]) -> Result<Vec<u32>>;
    /// The token ids of text within an answer. They are never special.
    ///
    /// # Errors
    /// The tokenizer cannot encode it.
    fn encode_more(&self, text: &str) -> Result<Vec<u32>>;
    /// The token ids of text at the beginning of an answer to a conversation. They are never special.
    ///
    /// # Errors
    /// The chat template refused the messages, or the tokenizer cannot encode the text.
    fn encode_beginning(&self, messages: &[Message], text: &str) -> Result<Vec<u32>> {
        let _ = messages;
        self.encode_more(text)
    }
    /// The text of tokens, without special tokens.
    fn decode(&self, tokens: &[u32]) -> String;
    /// Tokens that end an answer.
    fn eos_ids(&self) -> &[u32];
    /// Hash of the tokenizer and its chat template, if it has one.
    fn hash(&self) -> Option<String> {
        None
    }
}

impl Codec for Tokenizer {
    fn encode(&self, messages: &[Message]) -> Result<Vec<u32>> {
        self.encode_chat(messages, true)
    }
    fn encode_more(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_later(text)
    }
    fn encode_beginning(&self, messages: &[Message], text: &str) -> Result<Vec<u32>> {
        self.encode_answer_beginning(messages, text)
    }
    fn decode(&self, tokens: &[u32]) -> String {
        Tokenizer::decode(self, tokens)
    }
    fn eos_ids(&self) -> &[u32] {
        Tokenizer::eos_ids(self)
    }
    fn hash(&self) -> Option<String> {
        Some(Tokenizer::hash(self).to_owned())
    }
}
