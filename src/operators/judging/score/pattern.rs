//! Reads a score by a user's regular expression.

use std::ops::Range;

use regex::Regex;

use super::outcome::{Outcome, Several};
use super::tokens::digit;

/// The most common spellings of a score, for operators that need a pattern instead of the grammar: "Score:
/// 4", "**Score:** 4/5", "score is 4 out of 5".
pub const PATTERN: &str = concat!(
    r#"(?i)\bscore[ \t]*(?:\([^()\n]{0,40}\)[ \t]*)?["'*_`]{0,4}\s{0,4}"#,
    r#"(?:[:=]["'*_`\s\[(<{]{0,8}(?:(?:\d{1,4}[ \t]*\+[ \t]*){1,16}\d{1,4}[ \t]*=[ \t]*)?"#,
    r#"([-\u{2212}]?\d+(?:[.,]\d+)?|(?:zero|one|two|three|four|five|six|seven|eight|nine|ten)\b)"#,
    r#"|is["'*_`\s\[(<{]{1,8}([-\u{2212}]?\d+(?:[.,]\d+)?))"#,
    r#"(?P<more>[ \t]*(?:[-+\u{2013}\u{2212}]|to\b|or\b)[ \t]*\d+)?"#,
    r#"(?:["'*_`\])>}]{0,4}[ \t]*(?:/|(?:out[ \t]+)?of\b)[ \t]*(?P<of>\d+(?:[.,]\d+)?))?"#,
);

/// Reads a text by `pattern`, whose first group is the score. `cut` says that the text was cut by its
/// length. Also returns the place of the score that counted.
pub(super) fn read(
    pattern: &Regex,
    text: &str,
    cut: bool,
    (min, max): (f32, f32),
    several: Several,
) -> (Outcome, Option<Range<usize>>) {
    let mut found: Option<FoundScore> = None;
    for captures in pattern.captures_iter(text) {
        let Some(here) = FoundScore::from_captures(pattern, &captures) else { continue };
        match &found {
            Some(before) if several == Several::Agree && !before.same(&here) => {
                return (Outcome::Ambiguous, None);
            }
            _ => found = Some(here),
        }
        if several == Several::First {
            break;
        }
    }
    let Some(found) = found else { return (if cut { Outcome::Truncated } else { Outcome::NoMatch }, None) };
    let score = found.score;
    // The cut may have shortened "Score: 10" to "Score: 1".
    let cut = cut && found.place.end == text.len() && (score * 10.).abs() <= max;
    let outcome = if found.span {
        Outcome::Ambiguous
    } else if !(min..=max).contains(&score) || found.of.is_some_and(|of| (of - max).abs() > 1e-6) {
        Outcome::OutOfRange
    } else if cut {
        Outcome::Truncated
    } else {
        Outcome::Score(score)
    };
    (outcome, Some(found.place))
}

/// One score in a text.
struct FoundScore {
    score: f32,
    /// The highest score that it names.
    of: Option<f32>,
    /// Whether it is a range: "4-5".
    span: bool,
    place: Range<usize>,
}

impl FoundScore {
    fn from_captures(pattern: &Regex, captures: &regex::Captures<'_>) -> Option<Self> {
        let names = pattern.capture_names().enumerate().skip(1);
        let mut groups =
            names.filter(|(_, name)| !matches!(name, Some("of" | "more"))).filter_map(|(i, _)| captures.get(i));
        let group = groups.next()?;
        let of = captures.name("of").and_then(|m| number(m.as_str()));
        Some(Self { score: number(group.as_str())?, of, span: captures.name("more").is_some(), place: group.range() })
    }
    fn same(&self, other: &Self) -> bool {
        self.score == other.score && self.of.or(other.of) == other.of.or(self.of) && self.span == other.span
    }
}

const WORDS: [&str; 11] = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"];

/// Parses a number as judges write it: "4", "4.5", "4,5", "٤", "four".
pub(super) fn number(text: &str) -> Option<f32> {
    let text = text.trim();
    if let Some(n) = WORDS.iter().position(|w| text.eq_ignore_ascii_case(w)) {
        return Some(n as f32);
    }
    // Digits of other scripts, and the typographic minus sign.
    let plain = text.chars().map(|c| match c {
        '\u{2212}' => '-',
        _ => digit(c).and_then(|d| char::from_digit(d, 10)).unwrap_or(c),
    });
    let mut plain: String = plain.collect();
    if let Some((whole, after)) = plain.split_once(',') {
        // Three digits after a comma are thousands; other counts are a fraction.
        plain = if after.len() == 3 { format!("{whole}{after}") } else { format!("{whole}.{after}") };
    }
    // Rust also parses words such as `nan` and `inf`.
    plain.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'-' | b'+' | b'.')).then(|| plain.parse().ok()).flatten()
}
