//! The built-in grammar: tokenises a text, finds mentions of a score, and decides which of them is the
//! judge's score.
//!
//! Anything uncertain is [`Outcome::Ambiguous`], never a number: a new judgement is cheap, but training on
//! a wrong score is not.

use std::ops::Range;

use super::mentions::{Mention, Rank, Standing, mentions};
use super::outcome::{Outcome, Several};
use super::tokens::{ScoreToken, after_reasoning, tokens};
use super::value::{alone, announces_correction, corrected};

/// The scale of the scores.
#[derive(Clone, Copy, Debug)]
pub(super) struct ScoreScale {
    pub min: f32,
    pub max: f32,
}

impl ScoreScale {
    /// Returns the score of a mention if it is certain and on the scale.
    fn outcome(self, mention: &Mention) -> Outcome {
        let value = &mention.value;
        if value.of.is_some_and(|of| (of - self.max).abs() > 1e-6) || !(self.min..=self.max).contains(&value.score) {
            Outcome::OutOfRange
        } else if !value.certain {
            Outcome::Ambiguous
        } else {
            Outcome::Score(value.score)
        }
    }
}

/// Reads a judge's text. `cut` says that it was cut by its length. Also returns the place of the score that
/// counted.
pub(super) fn read(text: &str, cut: bool, scale: ScoreScale, several: Several) -> (Outcome, Option<Range<usize>>) {
    let tokens = tokens(text, after_reasoning(text));
    let mut all = mentions(&tokens);
    if all.is_empty() && !cut {
        // The text is nothing but a score.
        let whole = alone(&tokens);
        all.extend(whole.map(|value| Mention {
            at: 0,
            value,
            standing: Standing::Verdict,
            rank: Rank::Plain,
            fenced: false,
        }));
    }
    let nothing = if cut { Outcome::Truncated } else { Outcome::NoMatch };
    if all.is_empty() {
        return (nothing, None);
    }
    let own = judges_own(&all, cut);
    if own.is_empty() {
        // All mentions are about scores other than the answer's.
        return (if cut { Outcome::Truncated } else { Outcome::Ambiguous }, None);
    }
    let chosen = match several {
        Several::First => own[0],
        Several::Last => own[own.len() - 1],
        Several::Agree => match agreed(&own, scale) {
            Some(mention) => mention,
            None => return (Outcome::Ambiguous, None),
        },
    };
    let place = Some(tokens[chosen.value.token].place.clone());
    // The cut may have shortened "Score: 10", "Score: 1 + 1 = 2" or "Score: 1 or 2" to "Score: 1".
    let rest = &tokens[chosen.value.end..];
    let ended = |(i, t): (usize, &ScoreToken)| {
        t.is_newline() || (t.is_mark(".!;") && rest.get(i + 1).is_some_and(|t| t.spaced))
    };
    if cut && !rest.iter().enumerate().any(ended) {
        return (Outcome::Truncated, place);
    }
    if several == Several::Agree && taken_back(&tokens, chosen, cut) {
        return (Outcome::Ambiguous, None);
    }
    (scale.outcome(chosen), place)
}

/// Returns the mentions that state the judge's score. A verdict outside of code fences takes precedence
/// over one inside. A sentence counts only if no verdict exists, and never in a text that was cut.
fn judges_own(all: &[Mention], cut: bool) -> Vec<&Mention> {
    let own: Vec<&Mention> = all.iter().filter(|m| m.standing != Standing::Other && !(cut && m.fenced)).collect();
    let unfenced: Vec<&Mention> = own.iter().copied().filter(|m| !m.fenced).collect();
    let own = if unfenced.is_empty() { own } else { unfenced };
    let has_verdict = own.iter().any(|m| m.standing == Standing::Verdict);
    let others = all.iter().any(|m| m.standing == Standing::Other);
    match has_verdict {
        true => own,
        false if others || cut => Vec::new(),
        false => own,
    }
}

/// Returns the mention that all mentions that count agree with: the final ones if the last is final, else
/// the plain ones.
fn agreed<'a>(own: &[&'a Mention], scale: ScoreScale) -> Option<&'a Mention> {
    let last = own.iter().rev().find(|m| m.rank != Rank::Part);
    let counting = match last.map(|m| m.rank) {
        Some(Rank::Final) => own.iter().copied().filter(|m| m.rank == Rank::Final).collect(),
        Some(_) => own.iter().copied().filter(|m| m.rank != Rank::Part).collect::<Vec<_>>(),
        // Scores of criteria are not the answer's score.
        None => return None,
    };
    let (first, rest) = counting.split_first()?;
    // A scale named by only one of them applies to all.
    let same = |m: &&Mention| {
        scale.outcome(m) == scale.outcome(first)
            && m.value.score == first.value.score
            && m.value.certain == first.value.certain
    };
    rest.iter().all(same).then_some(*counting.last()?)
}

/// Whether a sentence after a mention takes it back: "Wait, that should be 3."; a text that was cut may
/// lack the correction.
fn taken_back(tokens: &[ScoreToken], mention: &Mention, cut: bool) -> bool {
    let begins = |i: &usize| tokens[i - 1].is_newline() || tokens[i - 1].is_mark(".!?;");
    let mut sentences = (mention.value.end + 1..tokens.len()).filter(begins);
    sentences.any(|i| {
        let plain = matches!(tokens[i].word(), Some("or" | "not" | "no" | "maybe" | "perhaps" | "make"));
        (tokens[i].word() != Some("or") && corrected(tokens, i)) || (cut && !plain && announces_correction(tokens, i))
    })
}
