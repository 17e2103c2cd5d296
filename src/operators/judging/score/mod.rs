//! Reading a score out of a judge's own words. The judged answer is never looked at, so it cannot vote for itself.
//!
//! By default a small grammar reads it: `tokens` cuts the text up, `mentions` finds where a score is spoken of and how it
//! is meant, `value` reads the number with its scale, and `grammar` decides. A user's regular expression takes its place.
//!
//! What counts, where a text has several scores, is the key `several`. By default all must be the same, else the judgement is
//! ambiguous: a judge that rambles on after its verdict, or weighs two scores in words, has not said which it means.

mod grammar;
mod mentions;
mod pattern;
mod strip;
mod tokens;
mod value;
mod words;

use std::ops::Range;

use regex::Regex;

use crate::operators::prelude::*;
use grammar::Scale;

/// What a judgement came to. `T` is what is read: a score, or a verdict.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Outcome<T = f32> {
    /// A score within the scale.
    Score(T),
    /// No score was found.
    NoMatch,
    /// Several scores that differ were found, or a span of scores.
    Ambiguous,
    /// A score outside the scale was found, or one that says it is of another scale.
    OutOfRange,
    /// No score was found and the text was cut by its length.
    Truncated,
}

impl<T> Outcome<T> {
    /// As in the dataset.
    pub fn name(&self) -> &'static str {
        match self {
            Outcome::Score(_) => "score",
            Outcome::NoMatch => "no_match",
            Outcome::Ambiguous => "ambiguous",
            Outcome::OutOfRange => "out_of_range",
            Outcome::Truncated => "truncated",
        }
    }
    /// The score, if it is one.
    pub fn score(self) -> Option<T> {
        if let Outcome::Score(s) = self { Some(s) } else { None }
    }
}

/// What counts where a text has several scores.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Several {
    /// All are to be the same.
    Agree,
    /// The last.
    Last,
    /// The first.
    First,
}

/// What reads a score.
#[derive(Clone, Debug)]
enum Form {
    /// The built-in grammar.
    Grammar,
    /// A regular expression whose first group is the score.
    Pattern(Regex),
}

/// How scores are read.
#[derive(Clone, Debug)]
pub struct Reader {
    form: Form,
    /// Least score.
    pub min: f32,
    /// Greatest score.
    pub max: f32,
    several: Several,
}

pub use pattern::PATTERN;
pub use strip::Strip;

/// The name of the built-in grammar in a pipeline file.
pub const GRAMMAR: &str = "score";

/// Patterns that have a name, which stands for them in a pipeline file: none of the names has a group, so none is a pattern itself.
const NAMED: [(&str, &str); 2] = [(GRAMMAR, PATTERN), ("verdict", super::pairwise::PATTERN)];

/// A regular expression with a group, from `key`; `default` is the name of one.
pub fn pattern(f: &mut Fields<'_>, key: &'static str, about: &'static str, default: &'static str) -> Regex {
    let text = f.text(key, about, Some(default));
    compiled(f, key, &text)
}

/// The regular expression that a key's text is or names; reports what is wrong with it.
fn compiled(f: &mut Fields<'_>, key: &'static str, text: &str) -> Regex {
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

impl Reader {
    /// Scores from `min` to `max`, read by the grammar if `pattern` is [`GRAMMAR`], else by a regular expression whose
    /// first group is the score.
    ///
    /// # Errors
    /// It is no regular expression or has no group, or the scale is empty.
    pub fn new(pattern: &str, min: f32, max: f32, several: Several) -> Result<Self> {
        // Not-a-number is no bound either.
        if min.partial_cmp(&max) != Some(std::cmp::Ordering::Less) {
            return Err(Error::user(format!("the scale goes from {min} to {max}")));
        }
        if pattern == GRAMMAR {
            return Ok(Self { form: Form::Grammar, min, max, several });
        }
        let pattern = Regex::new(pattern).map_err(|e| Error::user(format!("not a regular expression: {e}")))?;
        if pattern.captures_len() < 2 {
            return Err(Error::user("the pattern has no group, so there is nothing to read"));
        }
        Ok(Self { form: Form::Pattern(pattern), min, max, several })
    }

    /// The keys `pattern`, `several`, `min` and `max`; `default` names the pattern if none is given.
    pub fn fields(f: &mut Fields<'_>, default: &'static str) -> Self {
        let about = "how the score is read in the judge's own text: \"score\", the built-in grammar (docs/judging.md), or a regular \
                     expression whose first group is the score; a group named `of` is what the score is out of, and must be \
                     `max`; one named `more` makes it a span, which is ambiguous";
        let text = f.text("pattern", about, Some(default));
        let form = if text == GRAMMAR { Form::Grammar } else { Form::Pattern(compiled(f, "pattern", &text)) };
        let options = [
            ("agree", "all must be the same, else the judgement is ambiguous"),
            ("last", "the last counts"),
            ("first", "the first counts"),
        ];
        let several =
            match f.choice("several", "what counts where a judgement has several scores", &options, Some("agree")) {
                "last" => Several::Last,
                "first" => Several::First,
                _ => Several::Agree,
            };
        let min = f.float("min", "least score of the rubric", Some(0.), -1e6..=1e6) as f32;
        let max = f.float("max", "greatest score of the rubric", Some(5.), -1e6..=1e6) as f32;
        if min >= max {
            f.problem("max", format!("the scale goes from {min} to {max}"), "`max` must be greater than `min`");
        }
        Self { form, min, max, several }
    }

    /// The regular expression that it reads by. For the grammar it is [`PATTERN`], which knows fewer spellings.
    pub fn into_pattern(self) -> Regex {
        match self.form {
            Form::Pattern(pattern) => pattern,
            Form::Grammar => Regex::new(PATTERN).expect("the built-in pattern is one"),
        }
    }

    /// Reads a judge's text; `cut` says that it was cut by its length.
    pub fn read(&self, text: &str, cut: bool) -> Outcome {
        self.locate(text, cut).0
    }

    /// As [`Reader::read`], with the place of the score that counted.
    pub fn locate(&self, text: &str, cut: bool) -> (Outcome, Option<Range<usize>>) {
        let (min, max) = (self.min, self.max);
        match &self.form {
            Form::Grammar => grammar::read(text, cut, Scale { min, max }, self.several),
            Form::Pattern(pattern) => pattern::read(pattern, text, cut, (min, max), self.several),
        }
    }
}

#[cfg(test)]
mod tests;
