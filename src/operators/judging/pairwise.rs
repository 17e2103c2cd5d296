//! Compares two answers by a judge, in both orders.
//!
//! A judge tends to prefer what it reads first, so each pair is shown in both orders. The verdict of an
//! order is that of most readable samples, or a tie if no verdict leads. The verdict of the pair is the one
//! both orders agree on, or a tie if they disagree (as in the head-to-head evaluation of arXiv 2401.10020).
//! If an order has no readable sample, the pair has no verdict.

use regex::Regex;

use super::client::{JudgeClient, JudgeReply, JudgeRequest};
use super::score::{self, Outcome};
use super::structured;
use crate::data::{Judgement, counted};
use crate::engine::{ConstraintForm, Engine};
use crate::operators::shared::prelude::*;

/// Help text of the key `pattern` for verdicts.
pub const ABOUT: &str = "regular expression whose first group is the verdict in the judge's own text, the last one counting; \"verdict\" is the built-in \
                         one, [[A]], [[B]] or [[C]]: A, first or 1; \
                         B, second or 2; C, tie, draw, equal or 0";

/// Which of two answers is better.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The first one.
    First,
    /// The second one.
    Second,
    /// Neither.
    Tie,
}

impl Verdict {
    /// Returns the verdict with the answers swapped.
    pub fn swapped(self) -> Self {
        match self {
            Verdict::First => Verdict::Second,
            Verdict::Second => Verdict::First,
            Verdict::Tie => Verdict::Tie,
        }
    }
    /// Returns the first answer's share of the win: 1, 1/2 or 0.
    pub fn share(self) -> f64 {
        match self {
            Verdict::First => 1.,
            Verdict::Second => 0.,
            Verdict::Tie => 0.5,
        }
    }
    /// Parses a judge's word.
    fn parse(word: &str) -> Option<Self> {
        match word.trim().to_ascii_lowercase().as_str() {
            "a" | "first" | "1" => Some(Verdict::First),
            "b" | "second" | "2" => Some(Verdict::Second),
            "c" | "tie" | "draw" | "equal" | "0" => Some(Verdict::Tie),
            _ => None,
        }
    }
}

/// How pairs are compared.
pub struct Pairwise {
    /// The judge's prompt, with the variables `prompt`, `first` and `second`.
    pub template: PromptTemplate,
    /// Its first group is the verdict; the last match in the judge's text counts.
    pub pattern: Regex,
    /// Number of judgements in each order.
    pub samples: u32,
    /// How the judge is asked.
    pub asking: JudgeClient,
}

/// Two answers to one prompt.
#[derive(Clone, Copy, Debug)]
pub struct AnswerPair<'a> {
    /// Id of the comparison. Random numbers depend on it.
    pub row: &'a str,
    /// The instruction.
    pub prompt: &'a str,
    /// One answer.
    pub a: &'a str,
    /// The other.
    pub b: &'a str,
}

/// The replies about a pair in one order.
pub struct OrderReplies {
    /// Every attempt of every sample. Its verdict is about the first and the second answer shown.
    pub said: Vec<JudgeReply<Verdict>>,
    /// The verdict about the pair: first is `a`, second is `b`, in whichever order they were shown. `None`
    /// if no sample was readable.
    pub verdict: Option<Verdict>,
}

impl OrderReplies {
    fn new(said: Vec<JudgeReply<Verdict>>, swapped: bool) -> Self {
        let readable: Vec<Verdict> = said.iter().filter_map(|s| s.value).collect();
        let verdict = (!readable.is_empty()).then(|| plurality(&readable));
        Self { said, verdict: verdict.map(|v| if swapped { v.swapped() } else { v }) }
    }

    /// Returns the replies as judgements. A score is the share of the win of the answer shown first, or of
    /// the other one if `swapped`.
    pub fn judgements(&self, swapped: bool) -> Vec<Judgement> {
        let share = |v: Verdict| if swapped { v.swapped() } else { v }.share() as f32;
        let judgement =
            |s: &JudgeReply<Verdict>| (s.text().to_owned(), s.outcome.to_owned(), s.value.map(share)).into();
        self.said.iter().map(judgement).collect()
    }
}

/// The replies about a pair in both orders.
pub struct PairReplies {
    /// `a` shown first, then `b` shown first.
    pub orders: [OrderReplies; 2],
    /// The verdict about the pair: first is `a`, second is `b`. A tie if the orders disagree; `None` if one
    /// of them has no verdict.
    pub verdict: Option<Verdict>,
}

impl PairReplies {
    /// Returns the judgements of both orders with the share of the win of `a`, or of `b`.
    pub fn judgements(&self, of_a: bool) -> Vec<Judgement> {
        let [ab, ba] = &self.orders;
        [ab.judgements(!of_a), ba.judgements(of_a)].concat()
    }
}

/// Returns the most frequent verdict; a tie if no verdict leads.
fn plurality(verdicts: &[Verdict]) -> Verdict {
    let count = |v| verdicts.iter().filter(|x| **x == v).count();
    let (first, second, tie) = (count(Verdict::First), count(Verdict::Second), count(Verdict::Tie));
    if first > second.max(tie) {
        Verdict::First
    } else if second > first.max(tie) {
        Verdict::Second
    } else {
        Verdict::Tie
    }
}

impl Pairwise {
    /// Keys read by [`Pairwise::fields`].
    pub const KEYS: [&'static str; 6] = ["template", "pattern", "samples", "structured", "retries", "sampling"];

    /// Reads the keys [`Pairwise::KEYS`].
    pub fn fields(f: &mut Fields<'_>) -> Self {
        let about = "the judge's prompt: a built-in template or a file with {{ prompt }}, {{ first }} and {{ second }}";
        let template = PromptTemplate::field(f, "template", about, "pairwise", Variables::COMPARE);
        let pattern = score::pattern(f, "pattern", ABOUT, "verdict");
        let samples = f.int("samples", "judgements per order", Some(1), 1..=1024) as u32;
        let form = structured::field(f);
        let mut by = Self { template, pattern, samples, asking: JudgeClient::fields(f, samples) };
        if let Some(form) = form {
            by.constrain(f, form);
        }
        by
    }

    /// Holds judgements to a form. A problem is reported if no verdict can be read in it.
    pub fn constrain(&mut self, f: &mut Fields<'_>, form: ConstraintForm) {
        let max_tokens = self.asking.sampling.max_tokens;
        let verdicts = [("A", Verdict::First), ("B", Verdict::Second), ("C", Verdict::Tie)];
        let constraint = structured::of_verdicts(f, form, verdicts, |text| self.read(text, false), max_tokens);
        self.asking.sampling.constraint = constraint;
    }

    /// Describes the settings for `explain`.
    pub fn describe(&self) -> String {
        let (name, n) = (self.template.name(), self.samples);
        format!("template {name}, both orders, {} of each, {}", counted(n, "judgement"), self.asking.describe())
    }

    /// Returns the shortest prompt.
    pub fn asks(&self) -> Option<Asks> {
        let empty = [("prompt", "".into()), ("first", "".into()), ("second", "".into())];
        self.template.asks(&empty, self.asking.sampling.max_tokens)
    }

    /// Reads a judge's text.
    pub fn read(&self, text: &str, cut: bool) -> Outcome<Verdict> {
        let words = self.pattern.captures_iter(text).filter_map(|c| c.iter().skip(1).flatten().next());
        match words.filter_map(|w| Verdict::parse(w.as_str())).last() {
            Some(verdict) => Outcome::Score(verdict),
            None if cut => Outcome::Truncated,
            None => Outcome::NoMatch,
        }
    }

    /// Compares all pairs, in order.
    ///
    /// # Errors
    /// The template fails, the run is cancelled, or the engine failed. A prompt that the judge cannot take,
    /// or an unreadable reply, is an outcome and no error.
    pub fn compare(&self, cx: &Context<'_>, engine: &dyn Engine, pairs: &[AnswerPair<'_>]) -> Result<Vec<PairReplies>> {
        let mut prompts = Vec::with_capacity(2 * pairs.len());
        for pair in pairs {
            for (order, first, second) in [("ab", pair.a, pair.b), ("ba", pair.b, pair.a)] {
                let variables = [("prompt", pair.prompt.into()), ("first", first.into()), ("second", second.into())];
                let text = self.template.render(&variables)?;
                prompts.push((format!("{} {order}", pair.row), text));
            }
        }
        let questions: Vec<JudgeRequest<'_>> =
            prompts.iter().map(|(row, text)| JudgeRequest { row, samples: 0..self.samples, text }).collect();
        let said = self.asking.ask(cx, engine, &questions, |text, cut| self.read(text, cut))?;
        let mut said = said.into_iter();
        let mut order = |swapped| OrderReplies::new(said.next().unwrap_or_default(), swapped);
        let comparison = |_| {
            let orders = [order(false), order(true)];
            let verdict = match (orders[0].verdict, orders[1].verdict) {
                (Some(one), Some(other)) => Some(if one == other { one } else { Verdict::Tie }),
                _ => None,
            };
            PairReplies { orders, verdict }
        };
        Ok(pairs.iter().map(comparison).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Sampling;

    fn pairwise() -> Pairwise {
        Pairwise {
            template: PromptTemplate::load("pairwise").unwrap(),
            pattern: Regex::new(score::VERDICT).unwrap(),
            samples: 1,
            asking: JudgeClient { sampling: Sampling::default(), retries: 0 },
        }
    }

    #[test]
    fn the_last_verdict_in_brackets_counts() {
        let p = pairwise();
        for (text, outcome) in [
            ("A is longer.\n[[A]]", Outcome::Score(Verdict::First)),
            ("Not [[A]] but [[B]]", Outcome::Score(Verdict::Second)),
            ("[[ tie ]]", Outcome::Score(Verdict::Tie)),
            ("[[Second]]", Outcome::Score(Verdict::Second)),
            ("[[C]]", Outcome::Score(Verdict::Tie)),
            ("[[D]] A is better", Outcome::NoMatch),
            ("[[a]]", Outcome::NoMatch),
            ("", Outcome::NoMatch),
        ] {
            assert_eq!(p.read(text, false), outcome, "{text:?}");
        }
        assert_eq!(p.read("I find [[", true), Outcome::Truncated);
        assert_eq!(p.read("[[A]] and then", true), Outcome::Score(Verdict::First));
    }

    #[test]
    fn most_samples_decide() {
        use Verdict::{First, Second, Tie};
        assert_eq!(plurality(&[First, Second, First]), First);
        assert_eq!(plurality(&[First, Second]), Tie);
        assert_eq!(plurality(&[Tie, Second, Second]), Second);
        assert_eq!(plurality(&[Tie, Tie, First]), Tie);
    }

    #[test]
    fn the_template_shows_both() {
        let text = pairwise()
            .template
            .render(&[("prompt", "P".into()), ("first", "one [[A]]".into()), ("second", "two".into())])
            .unwrap();
        assert!(
            text.contains("one [[A]]\n</response_a>")
                && text.contains("<response_b>\ntwo")
                && text.ends_with("if neither is.")
        );
    }
}
