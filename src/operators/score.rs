//! Reading a score out of a judge's own words. The judged answer is never looked at, so it cannot vote for itself.

use regex::Regex;

/// What a judgement came to.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Outcome {
    /// A score within the scale.
    Score(f32),
    /// No score was found.
    NoMatch,
    /// Several scores that differ were found.
    Ambiguous,
    /// A score outside the scale was found.
    OutOfRange,
    /// No score was found and the text was cut by its length.
    Truncated,
}

impl Outcome {
    /// As in the dataset.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Score(_) => "score",
            Outcome::NoMatch => "no_match",
            Outcome::Ambiguous => "ambiguous",
            Outcome::OutOfRange => "out_of_range",
            Outcome::Truncated => "truncated",
        }
    }
    /// The score, if it is one.
    pub fn score(self) -> Option<f32> {
        if let Outcome::Score(s) = self { Some(s) } else { None }
    }
}

/// Reads `text` with a pattern whose first group is a number on the scale `0..=max`.
pub fn read(pattern: &Regex, max: f32, text: &str, cut: bool) -> Outcome {
    let numbers = pattern.captures_iter(text).filter_map(|c| c.get(1)?.as_str().parse::<f32>().ok());
    let mut found: Option<f32> = None;
    for number in numbers {
        match found {
            Some(before) if before != number => return Outcome::Ambiguous,
            _ => found = Some(number),
        }
    }
    match found {
        Some(score) if (0.0..=max).contains(&score) => Outcome::Score(score),
        Some(_) => Outcome::OutOfRange,
        None if cut => Outcome::Truncated,
        None => Outcome::NoMatch,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes() {
        let pattern = Regex::new(r"(?i)score:\s*(\d+(?:\.\d+)?)").unwrap();
        let read = |text: &str, cut| super::read(&pattern, 5., text, cut);
        assert_eq!(read("Good.\nScore: 4", false), Outcome::Score(4.));
        assert_eq!(read("score:3.5 ... Score: 3.5", false), Outcome::Score(3.5));
        assert_eq!(read("Score: 4 no, Score: 2", false), Outcome::Ambiguous);
        assert_eq!(read("Score: 9", false), Outcome::OutOfRange);
        assert_eq!(read("Five points", false), Outcome::NoMatch);
        assert_eq!(read("It is rele", true), Outcome::Truncated);
        assert_eq!(read("Score: 999999999999999999999999999999999999999999999999", false), Outcome::OutOfRange);
    }
}
