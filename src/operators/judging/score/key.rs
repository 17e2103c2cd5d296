//! Reads keys that hold a regular expression or the name of a built-in one.

use regex::Regex;

use super::pattern::PATTERN;
use crate::pipeline::Fields;

/// Name of the built-in grammar in a pipeline file.
pub const GRAMMAR: &str = "score";

/// Finds the verdict of a comparison: `[[A]]`, `[[B]]`, `[[C]]` for a tie, or the words for them.
pub const VERDICT: &str = r"\[\[\s*(A|B|C|(?i:first|second|tie))\s*\]\]";

/// Built-in patterns by their name in a pipeline file. No name contains a group, so no name is a valid
/// pattern.
const NAMED: [(&str, &str); 2] = [(GRAMMAR, PATTERN), ("verdict", VERDICT)];

/// Reads a regular expression with a group from `key`. `default` is the name of a built-in one.
pub fn pattern(f: &mut Fields<'_>, key: &'static str, about: &'static str, default: &'static str) -> Regex {
    let text = f.text(key, about, Some(default));
    compiled(f, key, &text)
}

/// Compiles a pattern or the built-in pattern of that name, and reports errors in it.
pub(super) fn compiled(f: &mut Fields<'_>, key: &'static str, text: &str) -> Regex {
    let text = NAMED.iter().find(|(name, _)| *name == text).map_or(text, |(_, pattern)| pattern);
    let pattern = Regex::new(text).unwrap_or_else(|e| {
        f.problem(key, format!("not a regular expression: {e}"), "");
        Regex::new(PATTERN).expect("the built-in pattern is one")
    });
    if pattern.captures_len() < 2 {
        let message = "the pattern has no group, so there is nothing to read";
        f.problem(key, message, "put what is read in parentheses: `Score: ([0-5])`");
    }
    pattern
}
