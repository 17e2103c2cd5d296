//! Length and variety of texts.

use std::collections::HashSet;

/// The length of a text, in every unit that published figures use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Length {
    /// Unicode scalar values, as Python's `len` counts and AlpacaEval's `avg_length` does.
    pub characters: u64,
    /// Words, separated by white space.
    pub words: u64,
}

impl Length {
    /// Of a text.
    pub fn from_text(text: &str) -> Self {
        Self { characters: text.chars().count() as u64, words: text.split_whitespace().count() as u64 }
    }
}

/// Distinct-n (Li et al. 2016, arXiv 1510.03055): the different n-grams of all texts together over the n-grams in
/// them. Words are what white space separates, as they are written; no n-gram reaches from one text into the next.
/// `None` without an n-gram. It falls as texts become more, so compare equal numbers.
pub fn distinct_n<'a>(texts: impl IntoIterator<Item = &'a str>, n: usize) -> Option<(f64, u64)> {
    let texts: Vec<Vec<&str>> = texts.into_iter().map(|t| t.split_whitespace().collect()).collect();
    let grams = || texts.iter().flat_map(|words| words.windows(n.max(1)));
    let all = grams().count();
    let distinct = grams().collect::<HashSet<_>>().len();
    (all > 0).then(|| (distinct as f64 / all as f64, all as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_distinct_n_are_pythons() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/goldens/eval/texts.json")).unwrap();
        let texts: Vec<String> = serde_json::from_value(golden["texts"].clone()).unwrap();
        let lengths: Vec<(u64, u64)> = serde_json::from_value(golden["lengths"].clone()).unwrap();
        assert_eq!(texts.len(), lengths.len());
        for (text, (characters, words)) in texts.iter().zip(lengths) {
            assert_eq!(Length::from_text(text), Length { characters, words }, "{text:?}");
        }
        for n in 1..=4 {
            let (got, all) = distinct_n(texts.iter().map(String::as_str), n).unwrap();
            let want = &golden["distinct"][n - 1];
            assert!((got - want[0].as_f64().unwrap()).abs() < 1e-15);
            assert_eq!(all, want[1].as_u64().unwrap());
        }
        assert_eq!(distinct_n(["one two", ""], 3), None);
    }
}
