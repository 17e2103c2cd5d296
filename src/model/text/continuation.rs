//! Encoding of text that does not begin a sequence.
//!
//! SentencePiece vocabularies mark the start of a word with `▁`, and their tokenizers put one before a text
//! that lacks it. Whether they do so depends on the text's position, and tokenizer.json has three ways to
//! specify it: the older `Prepend` normalizer (every stretch between special tokens), Metaspace `always`
//! (the same) and Metaspace `first` (only the beginning of the whole text). ByteLevel's `add_prefix_space`
//! is a fourth. An answer that follows plain text, such as the `\n` after `<|assistant|>`, must not get a
//! prefix from any of them.

use tokenizers::normalizers::{NormalizerWrapper, Sequence as Normalizers, Strip};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::metaspace::PrependScheme;
use tokenizers::tokenizer::Tokenizer as Hf;

/// Position of a text in its sequence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Position {
    /// At the start of the sequence.
    Start,
    /// After a special token.
    AfterSpecial,
    /// After plain text.
    WithinText,
}

/// One tokenizer per [`Position`]. Most vocabularies need only one in total.
pub(crate) struct ByPosition {
    start: Hf,
    /// `None` if it does not differ from `start`.
    after_special: Option<Hf>,
    /// `None` if it does not differ from `start`.
    within_text: Option<Hf>,
}

impl ByPosition {
    /// `tokenizer` encodes a text at the start of its sequence.
    ///
    /// # Errors
    /// Returns any error of the tokenizer library for a normalizer.
    pub fn new(tokenizer: Hf) -> tokenizers::Result<Self> {
        let after_special = without_prefix(&tokenizer, Position::AfterSpecial)?;
        let within_text = without_prefix(&tokenizer, Position::WithinText)?;
        Ok(Self { start: tokenizer, after_special, within_text })
    }

    /// The tokenizer as described by its file.
    pub fn original(&self) -> &Hf {
        &self.start
    }

    /// The tokenizer for text at a position.
    pub fn at(&self, position: Position) -> &Hf {
        let other = match position {
            Position::Start => None,
            Position::AfterSpecial => self.after_special.as_ref(),
            Position::WithinText => self.within_text.as_ref(),
        };
        other.unwrap_or(&self.start)
    }
}

/// Returns a copy of the tokenizer that puts no prefix before text at `position`; `None` if the tokenizer
/// puts none there anyway.
fn without_prefix(tokenizer: &Hf, position: Position) -> tokenizers::Result<Option<Hf>> {
    let mut copy = None;
    if let Some(pre) = tokenizer.get_pre_tokenizer() {
        let mut pre = pre.clone();
        if patch_pre_tokenizer(&mut pre, position) {
            copy.get_or_insert_with(|| tokenizer.clone()).with_pre_tokenizer(Some(pre));
        }
    }
    if position == Position::WithinText
        && let Some(normalizer) = tokenizer.get_normalizer()
        && let Some(patched) = patch_normalizer(normalizer)
    {
        copy.get_or_insert_with(|| tokenizer.clone()).with_normalizer(patched)?;
    }
    Ok(copy)
}

/// Disables prefixes that do not belong at `position`. Returns whether there were any.
fn patch_pre_tokenizer(pre: &mut PreTokenizerWrapper, position: Position) -> bool {
    match pre {
        PreTokenizerWrapper::Metaspace(metaspace) => {
            let adds = match metaspace.get_prepend_scheme() {
                PrependScheme::First => true,
                PrependScheme::Always => position == Position::WithinText,
                PrependScheme::Never => false,
            };
            if adds {
                metaspace.set_prepend_scheme(PrependScheme::Never);
            }
            adds
        }
        PreTokenizerWrapper::ByteLevel(bytes) if bytes.add_prefix_space && position == Position::WithinText => {
            bytes.add_prefix_space = false;
            true
        }
        // Every member must be visited, so the loop must not stop at the first change.
        PreTokenizerWrapper::Sequence(all) => {
            all.as_mut().iter_mut().fold(false, |any, one| patch_pre_tokenizer(one, position) | any)
        }
        _ => false,
    }
}

/// Removes the normalizers that act on the start of a text: `Prepend`, and `Strip` on the left. Returns
/// `None` if there are none, and `Some(None)` if nothing else is left.
fn patch_normalizer(normalizer: &NormalizerWrapper) -> Option<Option<NormalizerWrapper>> {
    match normalizer {
        NormalizerWrapper::Prepend(_) => Some(None),
        NormalizerWrapper::StripNormalizer(strip) if strip.strip_left => {
            Some(Some(NormalizerWrapper::StripNormalizer(Strip::new(false, strip.strip_right))))
        }
        NormalizerWrapper::Sequence(all) => {
            let all: &[NormalizerWrapper] = all.as_ref();
            let patched: Vec<_> = all.iter().map(patch_normalizer).collect();
            if patched.iter().all(Option::is_none) {
                return None;
            }
            let kept = all.iter().zip(patched).filter_map(|(original, patched)| match patched {
                Some(replacement) => replacement,
                None => Some(original.clone()),
            });
            Some(Some(NormalizerWrapper::Sequence(Normalizers::new(kept.collect()))))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::normalizers::{Prepend, Replace};
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;
    use tokenizers::pre_tokenizers::metaspace::Metaspace;

    #[test]
    fn prefixes_are_switched_off_where_they_do_not_belong() {
        let metaspace = |scheme| PreTokenizerWrapper::Metaspace(Metaspace::new('▁', scheme, false));
        let bytes = |prefix| PreTokenizerWrapper::ByteLevel(ByteLevel::new(prefix, true, true));
        let patched = |mut pre: PreTokenizerWrapper, position| patch_pre_tokenizer(&mut pre, position);
        for (pre, after_special, within_text) in [
            (metaspace(PrependScheme::First), true, true),
            (metaspace(PrependScheme::Always), false, true),
            (metaspace(PrependScheme::Never), false, false),
            (bytes(true), false, true),
            (bytes(false), false, false),
        ] {
            assert_eq!(patched(pre.clone(), Position::AfterSpecial), after_special);
            assert_eq!(patched(pre, Position::WithinText), within_text);
        }
    }

    #[test]
    fn only_what_acts_on_the_start_of_a_text_is_taken_out() {
        let prepend = NormalizerWrapper::Prepend(Prepend::new("▁".into()));
        let replace = NormalizerWrapper::Replace(Replace::new(" ", "▁").unwrap());
        let strip = NormalizerWrapper::StripNormalizer(Strip::new(true, true));
        assert!(matches!(patch_normalizer(&prepend), Some(None)));
        assert!(patch_normalizer(&replace).is_none());
        let all = NormalizerWrapper::Sequence(Normalizers::new(vec![prepend, replace, strip]));
        let Some(Some(NormalizerWrapper::Sequence(kept))) = patch_normalizer(&all) else { panic!("not a sequence") };
        let [NormalizerWrapper::Replace(_), NormalizerWrapper::StripNormalizer(strip)] = kept.as_ref() else {
            panic!("{kept:?}")
        };
        assert!(!strip.strip_left && strip.strip_right);
    }
}
