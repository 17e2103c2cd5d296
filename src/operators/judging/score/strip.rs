//! Removes the scores from a judgement, so that it can be judged by its reasons.

use std::ops::Range;

use regex::Regex;

use super::key::{GRAMMAR, compiled};
use super::mentions::{Mention, Standing, is_score, mentions};
use super::tokens::{ScoreToken, tokens};
use super::value::alone;
use crate::pipeline::Fields;

/// Most passes over a text. Judgements need two at most.
const MAX_PASSES: usize = 8;

/// What is removed.
pub enum Strip {
    /// Every score that the grammar finds, including those of criteria; remarks about the scale stay.
    Grammar,
    /// Matches of a regular expression.
    Pattern(Regex),
}

impl Strip {
    /// Reads the key `key`.
    pub fn field(f: &mut Fields<'_>, key: &'static str) -> Self {
        let about = "what is taken out: \"score\", every score that the built-in grammar of `judge` finds, or what a regular \
                     expression matches";
        let text = f.text(key, about, Some(GRAMMAR));
        if text == GRAMMAR { Self::Grammar } else { Self::Pattern(compiled(f, key, &text)) }
    }

    /// Returns the judgement without its scores.
    pub fn strip(&self, text: &str) -> String {
        match self {
            Self::Pattern(pattern) => pattern.replace_all(text, "").trim().to_owned(),
            Self::Grammar => {
                let mut left = text.trim().to_owned();
                // Text next to a removed score may now read as a score.
                for _ in 0..MAX_PASSES {
                    let places = places(&left);
                    if places.is_empty() {
                        break;
                    }
                    left = without(&left, &places);
                }
                left
            }
        }
    }
}

/// Returns the places of a text's scores, in order.
fn places(text: &str) -> Vec<Range<usize>> {
    // Scores within a judge's reasoning reveal its verdict just as well.
    let tokens = tokens(text, 0..text.len());
    let found = mentions(&tokens);
    if found.is_empty()
        && let Some(value) = alone(&tokens)
    {
        // A sum is a score from its first term on.
        let all = tokens[0].place.start..tokens[value.end - 1].place.end;
        return vec![all];
    }
    found.iter().filter(|m| m.standing != Standing::Other).map(|m| place(&tokens, m)).collect()
}

/// Returns the place of a mention: "Score: 4/5" with its marks if it stands alone, only the value within a
/// sentence.
fn place(tokens: &[ScoreToken], mention: &Mention) -> Range<usize> {
    let (mut from, mut end) = (mention.value.token, mention.value.end);
    if mention.standing == Standing::Verdict && mention.at < from {
        from = mention.at;
        while from > 0 && belongs(&tokens[from - 1]) {
            from -= 1;
        }
        while end < tokens.len() && belongs(&tokens[end]) {
            end += 1;
        }
    }
    tokens[from].place.start..tokens[end - 1].place.end
}

/// Whether a token next to a score belongs to it: emphasis, brackets, tags.
fn belongs(token: &ScoreToken) -> bool {
    token.is_mark("*_`#\"'{}[]<>/|\\$") || token.word().is_some_and(|w| is_score(w) || super::mentions::is_final(w))
}

/// Returns a text without these places.
fn without(text: &str, places: &[Range<usize>]) -> String {
    let (mut kept, mut at) = (String::with_capacity(text.len()), 0);
    for place in places {
        if place.start >= at {
            kept.push_str(&text[at..place.start]);
        }
        at = at.max(place.end);
    }
    kept.push_str(&text[at..]);
    kept.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_taken_out_as_the_grammar_reads_them() {
        for (text, left) in [
            ("It is clear.\nScore: 4", "It is clear."),
            ("It is clear.\n**Final score:** 4/5", "It is clear."),
            ("It is clear.\n**Score: 4**\n", "It is clear."),
            ("It is clear.\nRating: [[4]]", "It is clear."),
            ("It is clear. <score>4</score>", "It is clear."),
            ("It is clear.\n\\boxed{4}", "It is clear."),
            ("1 + 1 + 1 = 3\n\nScore: 3/5", ""),
            ("It is clear.\nScore: 1 (relevant) + 1 (useful) = 2", "It is clear."),
            ("It is clear.\nScore: four and a half", "It is clear."),
            ("Relevance score: 1\nIt is clear.", "Relevance score: \nIt is clear."),
            ("So the final score is 4.", "So the final score is ."),
            ("I give it a score of 4 for its clarity.", "I give it a score of  for its clarity."),
            ("The maximum score is 5. It is clear.", "The maximum score is 5. It is clear."),
            ("It names 4 trees in 5 lines.", "It names 4 trees in 5 lines."),
            ("4/5", ""),
            ("", ""),
        ] {
            assert_eq!(Strip::Grammar.strip(text), left, "{text:?}");
        }
        let own = Strip::Pattern(Regex::new(r"Points: (\d)").unwrap());
        assert_eq!(own.strip("Fair. Points: 3 Score: 4"), "Fair.  Score: 4");
    }

    /// A stripped judgement of the corpus contains no score that can be read.
    #[test]
    fn nothing_is_read_in_what_is_left() {
        let reader = super::super::Reader::new(GRAMMAR, 0., 5., super::super::Several::Agree).unwrap();
        let corpus = include_str!("../../../../tests/goldens/judgements/judgements.jsonl");
        let mut read = 0;
        for line in corpus.lines() {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            let text = row["text"].as_str().unwrap();
            if reader.read(text, false).score().is_none() {
                continue;
            }
            read += 1;
            let left = Strip::Grammar.strip(text);
            assert_eq!(reader.read(&left, false).score(), None, "{text:?} becomes {left:?}");
        }
        assert!(read > 200, "only {read} judgements have a score");
    }
}
