//! Reading a score out of a judge's own words. The judged answer is never looked at, so it cannot vote for itself.
//!
//! What counts, where a text has several scores, is the key `several`. By default all must be the same, else the judgement is
//! ambiguous: a judge that rambles on after its verdict, or weighs two scores in words, has not said which it means.

use std::ops::Range;

use regex::Regex;

use super::prelude::*;

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

/// "Score: 4", "**Score:** 4/5", "score is 4 out of 5", "Score (0-5): four", "Score: 1 + 1 + 1 = 3".
pub const PATTERN: &str = concat!(
    r#"(?i)\bscore[ \t]*(?:\([^()\n]{0,40}\)[ \t]*)?["'*_`]{0,4}\s{0,4}"#,
    r#"(?:[:=]["'*_`\s\[(<{]{0,8}(?:(?:\d{1,4}[ \t]*\+[ \t]*){1,16}\d{1,4}[ \t]*=[ \t]*)?"#,
    r#"([-\u{2212}]?\d+(?:[.,]\d+)?|(?:zero|one|two|three|four|five|six|seven|eight|nine|ten)\b)"#,
    r#"|is["'*_`\s\[(<{]{1,8}([-\u{2212}]?\d+(?:[.,]\d+)?))"#,
    r#"(?P<more>[ \t]*(?:[-+\u{2013}\u{2212}]|to\b|or\b)[ \t]*\d+)?"#,
    r#"(?:["'*_`\])>}]{0,4}[ \t]*(?:/|(?:out[ \t]+)?of\b)[ \t]*(?P<of>\d+(?:[.,]\d+)?))?"#,
);

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

/// How scores are read.
#[derive(Clone, Debug)]
pub struct Reader {
    /// Its first group is the score.
    pub pattern: Regex,
    /// Least score.
    pub min: f32,
    /// Greatest score.
    pub max: f32,
    several: Several,
}

/// Patterns that have a name, which stands for them in a pipeline file: none of the names has a group, so none is a pattern itself.
const NAMED: [(&str, &str); 2] = [("score", PATTERN), ("verdict", super::pairwise::PATTERN)];

/// A regular expression with a group, from `key`; `default` is the name of one.
pub fn pattern(f: &mut Fields<'_>, key: &'static str, about: &'static str, default: &'static str) -> Regex {
    let text = f.text(key, about, Some(default));
    let text = NAMED.iter().find(|(name, _)| *name == text).map_or(text.as_str(), |(_, pattern)| pattern);
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
    /// Scores from `min` to `max`, by a regular expression whose first group is the score: [`PATTERN`], for one.
    ///
    /// # Errors
    /// It is no regular expression or has no group, or the scale is empty.
    pub fn new(pattern: &str, min: f32, max: f32, several: Several) -> Result<Self> {
        let pattern = Regex::new(pattern).map_err(|e| Error::user(format!("not a regular expression: {e}")))?;
        if pattern.captures_len() < 2 {
            return Err(Error::user("the pattern has no group, so there is nothing to read"));
        }
        // Not-a-number is no bound either.
        if min.partial_cmp(&max) != Some(std::cmp::Ordering::Less) {
            return Err(Error::user(format!("the scale goes from {min} to {max}")));
        }
        Ok(Self { pattern, min, max, several })
    }

    /// The keys `pattern`, `several`, `min` and `max`; `default` names the pattern if none is given.
    pub fn fields(f: &mut Fields<'_>, default: &'static str) -> Self {
        let about = "regular expression whose first group is the score in the judge's own text; \"score\" is the built-in one, which knows \
                     \"Score: 4\", \"**Score:** 4/5\" and the like; a group named `of` is what the \
                     score is out of, and must be `max`; one named `more` makes it a span, which is ambiguous";
        let pattern = pattern(f, "pattern", about, default);
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
        Self { pattern, min, max, several }
    }

    /// Reads a judge's text; `cut` says that it was cut by its length.
    pub fn read(&self, text: &str, cut: bool) -> Outcome {
        self.locate(text, cut).0
    }

    /// As [`Reader::read`], with the place of the score that counted.
    pub fn locate(&self, text: &str, cut: bool) -> (Outcome, Option<Range<usize>>) {
        let mut found: Option<Found> = None;
        for captures in self.pattern.captures_iter(text) {
            let Some(here) = Found::of(&self.pattern, &captures) else { continue };
            match &found {
                Some(before) if self.several == Several::Agree && !before.same(&here) => {
                    return (Outcome::Ambiguous, None);
                }
                _ => found = Some(here),
            }
            if self.several == Several::First {
                break;
            }
        }
        let Some(found) = found else { return (if cut { Outcome::Truncated } else { Outcome::NoMatch }, None) };
        let (score, max) = (found.score, self.max);
        // "Score: 1" may have become "Score: 10".
        let cut = cut && found.place.end == text.len() && (score * 10.).abs() <= max;
        let outcome = if found.span {
            Outcome::Ambiguous
        } else if !(self.min..=max).contains(&score) || found.of.is_some_and(|of| (of - max).abs() > 1e-6) {
            Outcome::OutOfRange
        } else if cut {
            Outcome::Truncated
        } else {
            Outcome::Score(score)
        };
        (outcome, Some(found.place))
    }
}

/// One score in a text.
struct Found {
    score: f32,
    /// What it says that it is out of.
    of: Option<f32>,
    /// Whether it goes on: "4-5".
    span: bool,
    place: Range<usize>,
}

impl Found {
    fn of(pattern: &Regex, captures: &regex::Captures<'_>) -> Option<Self> {
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

/// Where the digits of the scripts begin that a judge may write.
const ZEROS: [u32; 19] = [
    0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xe50, 0xed0, 0xf20, 0x1040,
    0x17e0, 0x1810, 0xff10,
];
const WORDS: [&str; 11] = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"];

/// A number as judges write them: "4", "4.5", "4,5", "٤", "four".
fn number(text: &str) -> Option<f32> {
    let text = text.trim();
    if let Some(n) = WORDS.iter().position(|w| text.eq_ignore_ascii_case(w)) {
        return Some(n as f32);
    }
    let plain = text.chars().map(|c| {
        let digit =
            || ZEROS.iter().find_map(|&zero| char::from_digit((c as u32).checked_sub(zero).filter(|d| *d < 10)?, 10));
        match c {
            '\u{2212}' => '-',
            _ if c.is_ascii() => c,
            _ => digit().unwrap_or(c),
        }
    });
    let mut plain: String = plain.collect();
    if let Some((whole, after)) = plain.split_once(',') {
        // Three digits after a comma are thousands, others a fraction.
        plain = if after.len() == 3 { format!("{whole}{after}") } else { format!("{whole}.{after}") };
    }
    // Rust reads words for what is not a number, too.
    plain.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'-' | b'+' | b'.')).then(|| plain.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reader(pattern: &str, max: f32, several: Several) -> Reader {
        Reader::new(pattern, 0., max, several).unwrap()
    }
    fn read(text: &str) -> Outcome {
        reader(PATTERN, 5., Several::Agree).read(text, false)
    }

    #[test]
    fn what_judges_write() {
        use Outcome::{Ambiguous, NoMatch, OutOfRange, Score};
        for (text, outcome) in [
            ("Good.\nScore: 4", Score(4.)),
            ("score:3.5 ... Score: 3.5", Score(3.5)),
            ("Score: 4/5", Score(4.)),
            ("Score: 4 / 5", Score(4.)),
            ("**Score:** 4", Score(4.)),
            ("**Score: 4**", Score(4.)),
            ("**Score**: 4/5.", Score(4.)),
            ("*Score:* **4** / 5", Score(4.)),
            ("Score: [[4]]", Score(4.)),
            ("Score: <4>", Score(4.)),
            ("Score: \"4\"", Score(4.)),
            ("Score (0-5): 4", Score(4.)),
            ("Final score = 4", Score(4.)),
            ("Score:\n4", Score(4.)),
            ("Score: 4.", Score(4.)),
            ("Score: 4, for it is short", Score(4.)),
            ("Score: 4,5", Score(4.5)),
            ("Score: 4.5", Score(4.5)),
            ("Score: four", Score(4.)),
            ("SCORE: FIVE.", Score(5.)),
            ("Score: \u{664}", Score(4.)),
            ("Score: \u{ff14}/\u{ff15}", Score(4.)),
            ("the score is 4 out of 5", Score(4.)),
            ("The score is **4** of 5", Score(4.)),
            ("The score is one of the best", NoMatch),
            ("Score: 5\nScore: 5", Score(5.)),
            ("Score: 5\nScore: 5/5", Score(5.)),
            ("Score: 1 + 1 + 1 = 3", Score(3.)),
            ("Score: 0", Score(0.)),
            ("Score: 05", Score(5.)),
            ("Score: 1+1+1", Ambiguous),
            ("Score: 4-5", Ambiguous),
            ("Score: 4 to 5", Ambiguous),
            ("Score: 3 or 4", Ambiguous),
            ("Score: 4 no, Score: 2", Ambiguous),
            ("Score: 4\nScore: 9", Ambiguous),
            ("Score: 9", OutOfRange),
            ("Score: -1", OutOfRange),
            ("Score: \u{2212}1", OutOfRange),
            ("Score: 4/10", OutOfRange),
            ("Score: 80/100", OutOfRange),
            ("Score: 1,000", OutOfRange),
            ("Score: 5.01", OutOfRange),
            ("Score: 999999999999999999999999999999999999999999999999", OutOfRange),
            ("Five points", NoMatch),
            ("Score: N", NoMatch),
            ("Score: none", NoMatch),
            ("Score: nan", NoMatch),
            ("Score: inf", NoMatch),
            ("Score: oneness", NoMatch),
            ("underscore: 4", NoMatch),
            ("A score of 5 would need more.\nScore: 3", Score(3.)),
            ("", NoMatch),
        ] {
            assert_eq!(read(text), outcome, "{text:?}");
        }
    }

    #[test]
    fn a_cut_text_has_a_score_only_if_it_is_whole() {
        let ten = reader(PATTERN, 10., Several::Agree);
        assert_eq!(ten.read("It is rele", true), Outcome::Truncated);
        assert_eq!(ten.read("Score: 1", true), Outcome::Truncated);
        assert_eq!(ten.read("Score: 1", false), Outcome::Score(1.));
        assert_eq!(ten.read("Score: 1. It", true), Outcome::Score(1.));
        assert_eq!(ten.read("Score: 7", true), Outcome::Score(7.));
    }

    #[test]
    fn several_scores_are_a_choice() {
        let text = "Score: 2\nNo: Score: 4";
        let read = |several| reader(PATTERN, 5., several).locate(text, false);
        assert_eq!(read(Several::Agree), (Outcome::Ambiguous, None));
        assert_eq!(read(Several::Last), (Outcome::Score(4.), Some(text.len() - 1..text.len())));
        assert_eq!(read(Several::First), (Outcome::Score(2.), Some(7..8)));
    }

    #[test]
    fn other_patterns_and_scales() {
        let listworld = reader(r"score ([0-5])$", 5., Several::Agree);
        assert_eq!(listworld.read("kind yes, score 3", false), Outcome::Score(3.));
        let scale = Reader { min: 1., ..reader(r"Rating: (\S+)", 10., Several::Agree) };
        assert_eq!(scale.read("Rating: 0", false), Outcome::OutOfRange);
        assert_eq!(scale.read("Rating: 10", false), Outcome::Score(10.));
        assert_eq!(scale.read("Rating: high", false), Outcome::NoMatch);
        assert_eq!(scale.read("Rating: infinity", false), Outcome::NoMatch);
    }

    #[test]
    fn huge_texts_are_read() {
        // Patterns that go back would not come to an end.
        assert_eq!(read(&"Score: ".repeat(300_000)), Outcome::NoMatch);
        assert_eq!(read(&format!("{}\nScore: 4", "score (".repeat(300_000))), Outcome::Score(4.));
        assert_eq!(read(&format!("Score: {}", "9".repeat(2_000_000))), Outcome::OutOfRange);
    }

    proptest! {
        /// No text makes a score that is not on the scale, or a place that is not in the text; nothing panics.
        #[test]
        fn any_text(words in prop::collection::vec("score|Score|:|is|=| |\n|[0-9]{1,3}|[.,/+-]|of|to|\\*\\*|four|\\PC", 0..24), cut: bool) {
            let text = words.concat();
            for several in [Several::Agree, Several::Last, Several::First] {
                let (outcome, place) = reader(PATTERN, 5., several).locate(&text, cut);
                if let Outcome::Score(s) = outcome {
                    prop_assert!((0. ..=5.).contains(&s));
                    prop_assert!(number(&text[place.clone().unwrap()]) == Some(s));
                }
                prop_assert!(place.is_none_or(|p| text.get(p).is_some()));
            }
        }

        /// Whatever is said before and after, a last line in the asked form is read, unless there is another score.
        #[test]
        fn a_score_in_words(before in "[a-rt-z .,\n]{0,80}", score in 0u8..=5, whole in any::<bool>(), after in "[a-np-z\n][a-z .,\n]{0,40}") {
            let text = format!("{before}\nScore: {score}{}{}", if whole { "/5" } else { "" }, after);
            prop_assert_eq!(read(&text), Outcome::Score(f32::from(score)));
        }

        /// The order of agreeing scores and their number do not matter; any that differs makes it ambiguous.
        #[test]
        fn scores_agree_or_not(scores in prop::collection::vec(0u8..=5, 1..6)) {
            let text = scores.iter().map(|s| format!("Score: {s}\n")).collect::<String>();
            let same = scores.iter().all(|s| *s == scores[0]);
            prop_assert_eq!(read(&text), if same { Outcome::Score(scores[0].into()) } else { Outcome::Ambiguous });
        }
    }
}
