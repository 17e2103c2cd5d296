//! Identity of a tokenizer: hashes of everything that its token ids depend on.

use serde_json::Value as Json;
use tokenizers::tokenizer::Tokenizer as Hf;

use super::chat::ChatTemplate;

/// The parts of tokenizer.json that determine token ids. Padding, truncation, decoder and post-processor do
/// not.
const PARTS: [&str; 4] = ["added_tokens", "normalizer", "pre_tokenizer", "model"];

/// The hashes of a tokenizer, blake3 hex.
pub(crate) struct Identity {
    /// Hash of [`PARTS`], the chat template and the tokens that it can write.
    pub tokenizer: String,
    /// Hash of the spelling of every id.
    pub vocabulary: String,
}

impl Identity {
    pub fn of(tokenizer: &Hf, template: Option<&ChatTemplate>) -> Self {
        let mut whole = blake3::Hasher::new();
        // The library writes a tokenizer in one form, whatever the form of its file. It can write
        // everything it can read; if it failed, the vocabulary would still distinguish tokenizers.
        let json: Json =
            tokenizer.to_string(false).ok().and_then(|t| serde_json::from_str(&t).ok()).unwrap_or_default();
        for part in PARTS {
            add(&mut whole, json[part].to_string().as_bytes());
        }
        let mut vocabulary: Vec<(u32, String)> = tokenizer.get_vocab(true).into_iter().map(|(t, id)| (id, t)).collect();
        vocabulary.sort_unstable();
        let mut spellings = blake3::Hasher::new();
        for (id, spelling) in &vocabulary {
            spellings.update(&id.to_le_bytes());
            add(&mut spellings, spelling.as_bytes());
        }
        let vocabulary = spellings.finalize().to_hex().to_string();
        add(&mut whole, vocabulary.as_bytes());
        if let Some(template) = template {
            add(&mut whole, template.source().as_bytes());
            for (name, token) in template.tokens() {
                add(&mut whole, name.as_bytes());
                add(&mut whole, token.as_bytes());
            }
        }
        Self { tokenizer: whole.finalize().to_hex().to_string(), vocabulary }
    }
}

/// Hashes bytes after their length, so that different lists of texts cannot have equal input.
fn add(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
}
