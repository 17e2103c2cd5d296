//! Converts text to token ids and back: tokenizers, chat templates and completions.

pub(crate) mod added_tokens;
pub(crate) mod chat;
pub(crate) mod completion;
pub(crate) mod continuation;
pub(crate) mod identity;
pub mod message;
pub mod tokenizer;
pub(crate) mod tokenizer_json;
