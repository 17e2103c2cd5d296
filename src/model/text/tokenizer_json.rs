//! Checks of tokenizer.json that the tokenizer library omits: parts that would take far more memory than
//! the file's size.

use serde_json::Value as Json;

use crate::error::{Error, Result};

/// Maximum number of values in a JSON file of a model. The largest tokenizer.json in use has about two million.
pub(crate) const MAX_VALUES: usize = 16 << 20;
/// Maximum factor by which normalizers may lengthen a text, or decoders a token. Llama 2's write three
/// bytes for a space.
const MAX_GROWTH: f64 = 256.;

/// Maximum steps of the normalizers, pre-tokenizers and decoders together. Real tokenizers have about ten.
const MAX_STEPS: usize = 200;
/// Maximum length of a Unigram piece in bytes. The library stores pieces in a tree as deep as the longest
/// piece and drops that tree recursively. Real pieces have at most a few hundred bytes.
const MAX_PIECE_BYTES: usize = 1024;

/// Refuses a normalizer or decoder that makes texts very long, a table that claims a greater length than it
/// has, too many steps, and pieces that would overflow the stack.
pub(crate) fn check(tokenizer: &Json) -> Result<()> {
    let steps: usize =
        ["normalizer", "pre_tokenizer", "decoder", "post_processor"].iter().map(|k| steps(&tokenizer[*k])).sum();
    if steps > MAX_STEPS {
        return Err(Error::user(format!(
            "it has {steps} steps (normalizers and similar); at most {MAX_STEPS} are run"
        )));
    }
    if let Json::Array(pieces) = &tokenizer["model"]["vocab"] {
        let longest = pieces.iter().filter_map(|piece| piece[0].as_str()).map(str::len).max().unwrap_or(0);
        if longest > MAX_PIECE_BYTES {
            return Err(Error::user(format!(
                "a piece of its vocabulary has {longest} bytes; at most {MAX_PIECE_BYTES} are read"
            )));
        }
    }
    for key in ["normalizer", "decoder"] {
        let mut growth = 1.;
        grow(&tokenizer[key], &mut growth).map_err(|e| e.doing(key))?;
        if growth > MAX_GROWTH {
            return Err(Error::user(format!("{key}: its replacements make a text {growth:.0} times as long")));
        }
    }
    Ok(())
}

/// Counts the steps of a chain, including nested ones.
fn steps(step: &Json) -> usize {
    let lists = ["normalizers", "pretokenizers", "decoders", "processors"];
    let nested = lists.iter().flat_map(|list| step[*list].as_array().into_iter().flatten());
    usize::from(step.is_object()) + nested.map(steps).sum::<usize>()
}

/// Multiplies `growth` by the maximum growth of each step of a chain.
fn grow(step: &Json, growth: &mut f64) -> Result<()> {
    for list in ["normalizers", "decoders"] {
        for step in step[list].as_array().into_iter().flatten() {
            grow(step, growth)?;
        }
    }
    let length = |value: &Json| value.as_str().map_or(0., |text| text.len() as f64);
    match step["type"].as_str() {
        Some("Replace") => {
            // A regular expression can match the empty string, between any two bytes.
            let shortest = length(&step["pattern"]["String"]);
            let content = length(&step["content"]);
            *growth *= if shortest > 0. { (content / shortest).max(1.) } else { content + 1. };
        }
        // U+FDFA has three bytes and becomes 33.
        Some("NFD" | "NFKD" | "NFKC") => *growth *= 12.,
        Some("ByteLevel") => *growth *= 2.,
        _ => {}
    }
    // The library infers the type if only one type has the key.
    let table = step["precompiled_charsmap"].as_str();
    table.map_or(Ok(()), check_charsmap)
}

/// Checks the table's first number: the length of its first part, for which the library allocates memory
/// unchecked.
fn check_charsmap(base64: &str) -> Result<()> {
    let digit = |c: u8| -> Option<u32> {
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        alphabet.iter().position(|a| *a == c).map(|i| i as u32)
    };
    // Six digits are 36 bits: four bytes, least significant first, and half of the next byte.
    let bits = base64.bytes().take(6).try_fold(0u64, |bits, c| Some(bits << 6 | u64::from(digit(c)?)));
    let claimed = bits.filter(|_| base64.len() >= 6).map(|bits| u32::from_be_bytes(((bits >> 4) as u32).to_le_bytes()));
    match claimed {
        Some(n) if n as usize <= base64.len() => Ok(()),
        _ => Err(Error::user("its precompiled_charsmap is broken")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn growth_is_bounded() {
        let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
        let chain = |steps: Vec<Json>| check(&json!({"normalizer": {"type": "Sequence", "normalizers": steps}}));
        assert!(
            chain(vec![json!({"type": "Prepend", "prepend": "▁"}), replace(" ", "▁"), json!({"type": "NFKC"})]).is_ok()
        );
        assert!(chain(vec![replace("``", "\""), replace("''", "\"")]).is_ok());
        assert!(chain(vec![replace("a", "aa"); 60]).unwrap_err().to_string().contains("normalizer"));
        let regex = json!({"type": "Replace", "pattern": {"Regex": "x*"}, "content": "y".repeat(1000)});
        assert!(check(&json!({ "decoder": regex })).unwrap_err().to_string().contains("decoder"));
    }

    #[test]
    fn what_would_take_long_or_overflow_the_stack_is_refused() {
        let chain = |n: usize| {
            check(&json!({"normalizer": {"type": "Sequence", "normalizers": vec![json!({"type": "Strip"}); n]}}))
        };
        assert!(chain(20).is_ok());
        assert!(chain(100_000).unwrap_err().to_string().contains("100001 steps"));
        let piece =
            |n: usize| check(&json!({"model": {"type": "Unigram", "vocab": [["<unk>", 0.0], ["a".repeat(n), -1.0]]}}));
        assert!(piece(100).is_ok());
        assert!(piece(200_000).unwrap_err().to_string().contains("200000 bytes"));
    }

    #[test]
    fn a_table_is_as_long_as_it_says() {
        let table =
            |base64: &str| check(&json!({"normalizer": {"type": "Precompiled", "precompiled_charsmap": base64}}));
        // A first part of 4 bytes (least significant byte first), and one of 16 MiB.
        assert!(table("BAAAAAAAAAA=").is_ok());
        assert!(table("AAAAAQ==").is_err());
        assert!(table("BA").is_err());
        assert!(table("").is_err());
    }
}
