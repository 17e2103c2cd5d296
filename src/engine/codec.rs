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
    /// The token ids of a text that is a whole prompt, not a conversation. With `mark`, tokens that the tokenizer puts
    /// around every text, such as the beginning of text, are added. The text itself is never special.
    ///
    /// # Errors
    /// The tokenizer cannot encode it.
    fn encode_prompt(&self, text: &str, mark: bool) -> Result<Vec<u32>> {
        let _ = mark;
        self.encode_more(text)
    }
    /// The text that a token has within other text; the spelling of a special token. A part of a character is
    /// U+FFFD.
    fn piece(&self, token: u32) -> String {
        self.decode(&[token])
    }
    /// The text of tokens, with special tokens spelled out.
    fn spell(&self, tokens: &[u32]) -> String {
        self.decode(tokens)
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
    fn encode_prompt(&self, text: &str, mark: bool) -> Result<Vec<u32>> {
        let ids = self.encode_text(text)?;
        if !mark {
            return Ok(ids);
        }
        let (before, after) = self.marks()?;
        Ok([before, ids, after].concat())
    }
    fn piece(&self, token: u32) -> String {
        if self.is_special(token) {
            return self.token(token).unwrap_or_default();
        }
        // Some decoders drop the blank before the first token, so another token comes first.
        let Ok(mut ids) = self.encode_text("a") else { return Tokenizer::decode(self, &[token]) };
        let first = Tokenizer::decode(self, &ids);
        ids.push(token);
        let text = Tokenizer::decode(self, &ids);
        text.strip_prefix(&first).map_or_else(|| Tokenizer::decode(self, &[token]), str::to_owned)
    }
    fn spell(&self, tokens: &[u32]) -> String {
        Tokenizer::spell(self, tokens)
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
