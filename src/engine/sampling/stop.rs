//! Search for stop strings in the text of an answer.

use super::options::Sampling;

/// The byte at which a stop string ends the text of an answer. A stop string that is complete before token
/// `min_tokens` does not count.
pub(crate) fn cut(tokens: &[u32], sampling: &Sampling, decode: impl Fn(&[u32]) -> String) -> Option<usize> {
    if sampling.stop.is_empty() || tokens.len() < sampling.min_tokens {
        return None;
    }
    let exempt = match sampling.min_tokens {
        0 | 1 => 0,
        n => decode(&tokens[..n - 1]).len(),
    };
    find(&decode(tokens), &sampling.stop, exempt)
}

/// The beginning of the first stop string that ends after byte `exempt`.
pub(crate) fn find(text: &str, stop: &[String], exempt: usize) -> Option<usize> {
    let first = |s: &String| {
        let from = (exempt + 1).saturating_sub(s.len());
        let from = (from..=text.len()).find(|&i| text.is_char_boundary(i))?;
        text[from..].find(s.as_str()).map(|at| from + at)
    };
    stop.iter().filter_map(first).min()
}

/// Whether the answer has reached a stop string. This runs after every token, so it decodes only the last tokens that
/// can hold a stop string. A match is confirmed in the whole text, because the last tokens alone may decode
/// differently.
pub(crate) fn reached(tokens: &[u32], sampling: &Sampling, decode: impl Fn(&[u32]) -> String) -> bool {
    let Some(longest) = sampling.stop.iter().map(String::len).max() else { return false };
    // Every token except special ones has at least a byte of text. The extra tokens allow for special ones.
    let tail = &tokens[tokens.len().saturating_sub(longest + 8)..];
    find(&decode(tail), &sampling.stop, 0).is_some() && cut(tokens, sampling, decode).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(tokens: &[u32]) -> String {
        String::from_utf8_lossy(&tokens.iter().map(|&b| b as u8).collect::<Vec<_>>()).into_owned()
    }

    #[test]
    fn the_first_stop_counts_and_may_span_tokens() {
        let sampling = Sampling { stop: vec!["\n\n".into(), "END".into()], ..Sampling::default() };
        let at = |text: &str, min_tokens| {
            let tokens: Vec<u32> = text.bytes().map(u32::from).collect();
            let sampling = Sampling { min_tokens, ..sampling.clone() };
            let cut = cut(&tokens, &sampling, decode);
            assert_eq!(reached(&tokens, &sampling, decode), cut.is_some(), "{text:?}");
            cut
        };
        assert_eq!(at("a END", 0), Some(2));
        assert_eq!(at("a\n\nEND", 0), Some(1));
        assert_eq!(at("some longer text, then E", 0), None);
        assert_eq!(at("some longer text, then END", 0), Some(23));
        // A stop string that was complete before the least number of tokens does not count, one that ends there does.
        assert_eq!(at("END and END", 4), Some(8));
        assert_eq!(at("END and END", 3), Some(0));
        assert_eq!(at("END and EN", 4), None);
        assert_eq!(at("END", 4), None);
        assert_eq!(at("\u{1f600}\u{1f600}END", 6), Some(8));
    }
}
