//! Suggestions for column names.

use crate::data;

/// Common names in public datasets for our columns.
const ALIASES: &[(&str, &[&str])] = &[
    ("prompt", &["instruction", "question", "query", "input", "user"]),
    ("response", &["output", "answer", "completion", "assistant", "reply"]),
    ("judgement", &["judgment", "critique", "rationale", "feedback", "evaluation"]),
    ("score", &["rating", "grade", "reward", "label"]),
    ("text", &["content", "document", "body"]),
];

/// The most likely name for `want` in `have`: an alias, or the nearest spelling.
pub(crate) fn nearest<'a>(want: &str, have: &[&'a str]) -> Option<&'a str> {
    let aliases = ALIASES.iter().find(|(name, _)| *name == want).map_or(&[][..], |(_, aliases)| aliases);
    let alias = aliases.iter().find_map(|a| have.iter().find(|h| h.eq_ignore_ascii_case(a)));
    alias.copied().or_else(|| data::nearest(want, have.iter().copied()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_aliases_and_misspellings() {
        assert_eq!(nearest("prompt", &["id", "Instruction"]), Some("Instruction"));
        assert_eq!(nearest("response", &["id", "responce"]), Some("responce"));
        assert_eq!(nearest("score", &["zebra"]), None);
    }
}
