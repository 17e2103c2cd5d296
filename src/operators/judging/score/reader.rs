//! Reads scores by the grammar or a pattern, on a scale.

use std::ops::Range;

use regex::Regex;

use super::grammar::{self, ScoreScale};
use super::key::{GRAMMAR, compiled};
use super::outcome::{Outcome, Several};
use super::pattern::{self, PATTERN};
use crate::error::{Error, Result};
use crate::pipeline::Fields;

/// How a score is read.
#[derive(Clone, Debug)]
enum ReadingForm {
    /// The built-in grammar.
    Grammar,
    /// A regular expression whose first group is the score.
    Pattern(Regex),
}

/// Reads scores on a scale.
#[derive(Clone, Debug)]
pub struct Reader {
    form: ReadingForm,
    /// Lowest score.
    pub min: f32,
    /// Highest score.
    pub max: f32,
    several: Several,
}

impl Reader {
    /// Creates a reader of scores from `min` to `max`. It uses the grammar if `pattern` is [`GRAMMAR`],
    /// else a regular expression whose first group is the score.
    ///
    /// # Errors
    /// The regular expression is invalid or has no group, or the scale is empty.
    pub fn new(pattern: &str, min: f32, max: f32, several: Several) -> Result<Self> {
        // This also refuses not-a-number.
        if min.partial_cmp(&max) != Some(std::cmp::Ordering::Less) {
            return Err(Error::user(format!("the scale goes from {min} to {max}")));
        }
        if pattern == GRAMMAR {
            return Ok(Self { form: ReadingForm::Grammar, min, max, several });
        }
        let pattern = Regex::new(pattern).map_err(|e| Error::user(format!("not a regular expression: {e}")))?;
        if pattern.captures_len() < 2 {
            return Err(Error::user("the pattern has no group, so there is nothing to read"));
        }
        Ok(Self { form: ReadingForm::Pattern(pattern), min, max, several })
    }

    /// Reads the keys `pattern`, `several`, `min` and `max`. `default` is the default of `pattern`.
    pub fn fields(f: &mut Fields<'_>, default: &'static str) -> Self {
        let about = "how the score is read in the judge's own text: \"score\", the built-in grammar (docs/judging.md), or a regular \
                     expression whose first group is the score; a group named `of` is what the score is out of, and must be \
                     `max`; one named `more` makes it a span, which is ambiguous";
        let text = f.text("pattern", about, Some(default));
        let form =
            if text == GRAMMAR { ReadingForm::Grammar } else { ReadingForm::Pattern(compiled(f, "pattern", &text)) };
        let options = [
            ("agree", "all must be the same, else the judgement is ambiguous"),
            ("last", "the last counts"),
            ("first", "the first counts"),
        ];
        let several =
            match f.choice("several", "which score counts if a judgement has several", &options, Some("agree")) {
                "last" => Several::Last,
                "first" => Several::First,
                _ => Several::Agree,
            };
        let min = f.float("min", "lowest score of the rubric", Some(0.), -1e6..=1e6) as f32;
        let max = f.float("max", "highest score of the rubric", Some(5.), -1e6..=1e6) as f32;
        if min >= max {
            f.problem("max", format!("the scale goes from {min} to {max}"), "`max` must be greater than `min`");
        }
        Self { form, min, max, several }
    }

    /// Returns the regular expression. For the grammar it is [`PATTERN`], which knows fewer spellings.
    pub fn into_pattern(self) -> Regex {
        match self.form {
            ReadingForm::Pattern(pattern) => pattern,
            ReadingForm::Grammar => Regex::new(PATTERN).expect("the built-in pattern is one"),
        }
    }

    /// Reads a judge's text. `cut` says that it was cut by its length.
    pub fn read(&self, text: &str, cut: bool) -> Outcome {
        self.locate(text, cut).0
    }

    /// Reads like [`Reader::read`] and also returns the place of the score that counted.
    pub fn locate(&self, text: &str, cut: bool) -> (Outcome, Option<Range<usize>>) {
        let (min, max) = (self.min, self.max);
        match &self.form {
            ReadingForm::Grammar => grammar::read(text, cut, ScoreScale { min, max }, self.several),
            ReadingForm::Pattern(pattern) => pattern::read(pattern, text, cut, (min, max), self.several),
        }
    }
}
