//! Figures of an iteration's answers and pairs, for the bounds of `[health]`. They are counted row by row,
//! independent of the order of rows.

use std::collections::{BTreeMap, HashSet};

/// Entropy of a histogram in bits, `-sum p log2 p` (scipy's `entropy(counts, base=2)`); `None` where it is empty.
pub fn entropy(counts: impl IntoIterator<Item = u64>) -> Option<f64> {
    let counts: Vec<f64> = counts.into_iter().filter(|&n| n > 0).map(|n| n as f64).collect();
    let all: f64 = counts.iter().sum();
    // A sum of no terms is -0.
    (all > 0.).then(|| counts.iter().map(|n| -(n / all) * (n / all).log2()).sum::<f64>() + 0.)
}

/// Counts of judged answers.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    answers: u64,
    judgements: u64,
    readable: u64,
    /// By score in whole points.
    scores: BTreeMap<i64, u64>,
    /// Hashes of the texts.
    texts: HashSet<u64>,
}

impl Answers {
    /// Adds an answer by its text and the score of each of its judgements.
    pub fn add(&mut self, text: &str, judgements: impl IntoIterator<Item = Option<f32>>) {
        self.answers += 1;
        let hash = blake3::hash(text.as_bytes());
        let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
        self.texts.insert(u64::from_le_bytes([a, b, c, d, e, f, g, h]));
        for score in judgements {
            self.judgements += 1;
            if let Some(score) = score.filter(|s| s.is_finite()) {
                self.readable += 1;
                *self.scores.entry(score.round() as i64).or_default() += 1;
            }
        }
    }
    /// Share of the judgements without a score.
    pub fn parse_failures(&self) -> Option<f64> {
        (self.judgements > 0).then(|| (self.judgements - self.readable) as f64 / self.judgements as f64)
    }
    /// Entropy of the judgements' scores in whole points, in bits. None for a single judgement.
    pub fn score_entropy(&self) -> Option<f64> {
        if self.readable > 1 { entropy(self.scores.values().copied()) } else { None }
    }
    /// Share of answers that repeat the text of an earlier answer.
    pub fn duplicates(&self) -> Option<f64> {
        (self.answers > 0).then(|| 1. - self.texts.len() as f64 / self.answers as f64)
    }
}

/// Lengths of pairs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lengths {
    pairs: u64,
    chosen: u64,
    rejected: u64,
}

impl Lengths {
    /// Adds a pair by the tokens of its answers.
    pub fn add(&mut self, chosen: usize, rejected: usize) {
        self.pairs += 1;
        self.chosen += chosen as u64;
        self.rejected += rejected as u64;
    }
    /// Number of pairs.
    pub fn pairs(&self) -> u64 {
        self.pairs
    }
    /// Mean tokens of a chosen answer.
    pub fn chosen(&self) -> Option<f64> {
        (self.pairs > 0).then(|| self.chosen as f64 / self.pairs as f64)
    }
    /// Mean chosen length over mean rejected length, minus 1.
    pub fn gap(&self) -> Option<f64> {
        (self.rejected > 0).then(|| self.chosen as f64 / self.rejected as f64 - 1.)
    }
}

/// The fall of the chosen answers' log-probability below the reference's at the end of a training, in nats a token:
/// the mean of `rewards/chosen` over the last quarter of the steps, over `-beta` and the mean tokens of a chosen
/// answer. Negative if it has risen.
pub fn chosen_fall(rewards: &[f64], beta: f64, tokens: f64) -> Option<f64> {
    let last = &rewards[rewards.len() - rewards.len().div_ceil(4)..];
    (!last.is_empty() && beta > 0. && tokens > 0.)
        .then(|| 0. - last.iter().sum::<f64>() / last.len() as f64 / beta / tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_is_what_scipy_says() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/goldens/statistics/entropy.json")).unwrap();
        for case in golden.as_array().unwrap() {
            let counts = case["counts"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap());
            let want = case["bits"].as_f64().unwrap();
            assert!((entropy(counts).unwrap() - want).abs() < 1e-12, "{case}");
        }
        assert!(golden.as_array().unwrap().len() > 5);
        assert_eq!(entropy([0, 0]), None);
    }

    #[test]
    fn counts() {
        let mut answers = Answers::default();
        assert_eq!((answers.parse_failures(), answers.score_entropy(), answers.duplicates()), (None, None, None));
        answers.add("a", [Some(4.4), Some(3.6), None]);
        answers.add("b", [Some(1.), Some(f32::NAN)]);
        answers.add("a", [Some(1.), Some(4.), Some(4.)]);
        assert_eq!((answers.parse_failures(), answers.duplicates()), (Some(0.25), Some(1. - 2. / 3.)));
        // Four times 4, twice 1.
        assert!((answers.score_entropy().unwrap() - 0.918_295_834_054_489_6).abs() < 1e-12);
        let mut lengths = Lengths::default();
        assert_eq!((lengths.gap(), lengths.chosen()), (None, None));
        lengths.add(12, 10);
        lengths.add(6, 5);
        assert!((lengths.gap().unwrap() - 0.2).abs() < 1e-12 && lengths.chosen() == Some(9.));
    }

    #[test]
    fn the_fall_is_of_the_last_quarter() {
        // Of five steps the last two: a mean of -3, at beta 0.1 thirty nats, over ten tokens.
        assert!((chosen_fall(&[9., 9., 9., -2., -4.], 0.1, 10.).unwrap() - 3.).abs() < 1e-12);
        assert!(chosen_fall(&[1.], 0.1, 10.).unwrap() < 0.);
        assert_eq!(chosen_fall(&[], 0.1, 10.), None);
    }
}
