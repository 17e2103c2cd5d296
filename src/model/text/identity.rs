//! What tells one tokenizer from another: hashes of what its token ids depend on.

use serde_json::Value as Json;
use tokenizers::tokenizer::Tokenizer as Hf;

use super::chat::Template;

/// The parts of tokenizer.json that decide which ids a text gets. Padding, truncation, decoder and post-processor do not.
const PARTS: [&str; 4] = ["added_tokens", "normalizer", "pre_tokenizer", "model"];

/// The hashes of a tokenizer, blake3 hex.
pub(crate) struct Identity {
    /// Over [`PARTS`], the chat template and the tokens that it can write.
    pub tokenizer: String,
    /// Over the spelling of every id.
    pub vocabulary: String,
}

impl Identity {
    pub fn of(tokenizer: &Hf, template: Option<&Template>) -> Self {
        let mut whole = blake3::Hasher::new();
        // The library writes what it has read in one form, whatever the file's was. What it cannot write it could not have
        // read; without it the vocabulary still tells tokenizers apart.
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

/// Adds bytes with their number before them, so that no two lists of texts look alike.
fn add(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
}
