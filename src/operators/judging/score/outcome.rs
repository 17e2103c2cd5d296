//! The result of reading a judgement.

/// The result of reading a judgement. `T` is the type of the value: a score, or a verdict.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Outcome<T = f32> {
    /// A score within the scale.
    Score(T),
    /// No score was found.
    NoMatch,
    /// The text has several different scores, or a range of scores.
    Ambiguous,
    /// A score is outside the scale, or states another scale.
    OutOfRange,
    /// The text was cut by its length before a score.
    Truncated,
}

impl<T> Outcome<T> {
    /// Returns the name used in the dataset.
    pub fn name(&self) -> &'static str {
        match self {
            Outcome::Score(_) => "score",
            Outcome::NoMatch => "no_match",
            Outcome::Ambiguous => "ambiguous",
            Outcome::OutOfRange => "out_of_range",
            Outcome::Truncated => "truncated",
        }
    }
    /// Returns the score if there is one.
    pub fn score(self) -> Option<T> {
        if let Outcome::Score(s) = self { Some(s) } else { None }
    }
}

/// What counts if a text has several scores.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Several {
    /// All must be equal.
    Agree,
    /// The last one counts.
    Last,
    /// The first one counts.
    First,
}
