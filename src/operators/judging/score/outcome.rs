//! What reading a judgement gives.

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
