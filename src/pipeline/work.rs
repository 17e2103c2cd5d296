//! Estimates the work of a step in tokens, from its settings and averages, for `reflux cost`, which runs
//! nothing.

use crate::data::Schema;

/// The rows of a step in an iteration.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RowStats {
    /// Number of rows.
    pub rows: f64,
    /// Mean number of tokens of a row's prompt.
    pub prompt: f64,
    /// Mean number of tokens of a row's answer; for a pair, of each answer.
    pub answer: f64,
    /// Number of rows per prompt.
    pub per_prompt: f64,
}

impl RowStats {
    /// Returns the number of different prompts.
    pub fn prompts(&self) -> f64 {
        self.rows / self.per_prompt.max(1.)
    }
}

/// Averages that no pipeline file states.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CostAssumptions {
    /// Tokens of a given prompt.
    pub prompt: f64,
    /// Tokens of a given answer.
    pub answer: f64,
    /// Tokens of the judge's prompt without prompt and answer.
    pub rubric: f64,
    /// Tokens of a given judgement.
    pub judgement: f64,
    /// Share of `max_tokens` that a sampled answer uses.
    pub fill: f64,
    /// Share of prompts whose answers give pairs.
    pub pair_yield: f64,
    /// Share of answers that `positives` keeps.
    pub positives: f64,
}

impl Default for CostAssumptions {
    fn default() -> Self {
        let (prompt, answer, rubric, judgement) = (60., 250., 300., 120.);
        Self { prompt, answer, rubric, judgement, fill: 0.5, pair_yield: 0.8, positives: 0.25 }
    }
}

impl CostAssumptions {
    /// Checks that the averages are within their ranges.
    ///
    /// # Errors
    /// An average is out of range; the message names its flag of `reflux cost`.
    pub fn check(&self) -> Result<(), String> {
        let numbers = [
            ("--prompt-tokens", self.prompt, f64::MAX),
            ("--answer-tokens", self.answer, f64::MAX),
            ("--rubric-tokens", self.rubric, f64::MAX),
            ("--judgement-tokens", self.judgement, f64::MAX),
            ("--fill", self.fill, 1.),
            ("--pair-yield", self.pair_yield, 1.),
            ("--positives", self.positives, 1.),
        ];
        match numbers.into_iter().find(|&(_, n, most)| !(0. ..=most).contains(&n)) {
            None => Ok(()),
            Some((flag, n, 1.)) => Err(format!("{flag} is a share from 0 to 1, not {n}")),
            Some((flag, n, _)) => Err(format!("{flag} is a number from 0 on, not {n}")),
        }
    }
}

/// An input of a step.
#[derive(Clone, Copy, Debug)]
pub struct InputStats {
    /// The key that names it.
    pub key: &'static str,
    /// Schema of its rows.
    pub schema: &'static Schema,
    /// Number and length of its rows.
    pub amount: RowStats,
}

/// Tokens that go through a model.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TokenCount {
    /// Number of tokens.
    pub tokens: f64,
    /// Mean number of tokens that each of them attends to.
    pub context: f64,
}

impl TokenCount {
    /// Counts sequences of `length` tokens, each after `before` tokens that were computed already.
    pub fn of_sequences(sequences: f64, before: f64, length: f64) -> Self {
        Self { tokens: sequences * length, context: before + length / 2. }
    }
    /// Adds two counts.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let tokens = self.tokens + other.tokens;
        let attended = self.tokens * self.context + other.tokens * other.context;
        Self { tokens, context: if tokens > 0. { attended / tokens } else { 0. } }
    }
    /// Multiplies a count.
    #[must_use]
    pub fn times(self, n: f64) -> Self {
        Self { tokens: n * self.tokens, ..self }
    }
}

/// The work of a step in an iteration.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CostEstimate {
    /// The rows that it makes.
    pub out: RowStats,
    /// Prompt tokens; shared parts (the rubric, the prompt of several samples) count once.
    pub read: TokenCount,
    /// Tokens sampled one after the other.
    pub sampled: TokenCount,
    /// Tokens whose log-probabilities are computed: for a reference, or on held-out rows.
    pub scored: TokenCount,
    /// Tokens trained on, including prompts, in all passes over the rows.
    pub trained: TokenCount,
    /// Optimizer steps.
    pub steps: f64,
    /// Longest sampled sequence.
    pub longest: f64,
    /// Number of tokens computed at once in training, whose activations are held.
    pub held: f64,
    /// Whether activations are recomputed in the backward pass.
    pub recompute: bool,
    /// The adapter that is trained instead of the weights: its rank and its matrices.
    pub adapter: Option<(f64, Vec<&'static str>)>,
    /// Whether a program outside does the work: its time and memory are not known.
    pub external: bool,
}

impl CostEstimate {
    /// Returns the cost of a step that uses no model and makes these rows.
    pub fn rows(out: RowStats) -> Self {
        Self { out, ..Self::default() }
    }
    /// Returns the cost of requests to a judge. Each reads `read` tokens after the rubric, and has `samples`
    /// replies of at most `most` tokens.
    pub fn of_judging(
        out: RowStats,
        requests: f64,
        samples: f64,
        read: f64,
        most: f64,
        assume: &CostAssumptions,
    ) -> Self {
        // The rubric is read once and shared by all requests.
        let rubric = TokenCount::of_sequences(1., 0., assume.rubric);
        let before = assume.rubric + read;
        Self {
            out,
            read: rubric.and(TokenCount::of_sequences(requests, assume.rubric, read)),
            sampled: TokenCount::of_sequences(requests * samples, before, assume.fill * most),
            longest: before + most,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_context_of_two_passes_is_the_mean_over_their_tokens() {
        // A prompt of 10 tokens and two answers of 20 after it: positions 0..10 and twice 10..30.
        let pass = TokenCount::of_sequences(1., 0., 10.).and(TokenCount::of_sequences(2., 10., 20.));
        assert_eq!(pass, TokenCount { tokens: 50., context: (10. * 5. + 40. * 20.) / 50. });
        assert_eq!(TokenCount::default().and(TokenCount::default()), TokenCount::default());
        assert_eq!(pass.times(3.), TokenCount { tokens: 150., context: 17. });
    }
}
