//! Statistics of a step's answers: their length, variety and scores, and the changes since the iteration before.

use std::collections::BTreeMap;

use arrow::array::{Array as _, RecordBatch};

use super::bootstrap::{Bootstrap, ClusterSum, Estimate};
use super::drift::{self, IterationMeans};
use super::text::{Length, distinct_n};
use crate::data::Columns;
use crate::error::Result;

/// A figure: its name, and its value with interval and count. It has no value if no row counts for it.
pub type Figure = (&'static str, Option<Estimate>);

/// A count as a figure.
pub fn count(n: u64, of: u64) -> Option<Estimate> {
    Some(Estimate::exact(n as f64, of))
}

/// Adds a value to its prompt's sum.
pub fn add(parts: &mut BTreeMap<String, ClusterSum>, prompt: &str, value: f64) {
    let part = match parts.get_mut(prompt) {
        Some(part) => part,
        None => parts.entry(prompt.into()).or_default(),
    };
    *part = (part.0 + value, part.1 + 1.);
}

fn mean(parts: &BTreeMap<String, ClusterSum>) -> f64 {
    let sum = parts.values().fold((0., 0.), |a, b| (a.0 + b.0, a.1 + b.1));
    sum.0 / sum.1
}

/// Sums over answers, by prompt, from which figures with intervals are computed.
#[derive(Debug, Default)]
pub struct AnswerStats {
    tokens: BTreeMap<String, ClusterSum>,
    characters: BTreeMap<String, ClusterSum>,
    words: BTreeMap<String, ClusterSum>,
    cut: BTreeMap<String, ClusterSum>,
    score: BTreeMap<String, ClusterSum>,
    scores: Vec<f64>,
    unscored: u64,
    /// The first answers' texts.
    texts: Vec<String>,
    scored: bool,
    /// Answers with tokens: ranked ones have none.
    tokenised: bool,
}

impl AnswerStats {
    /// Adds rows. Distinct-n is computed from the first `texts` answers, because it falls with their number.
    ///
    /// # Errors
    /// The rows lack `prompt_id` or `response`, or have a column of another type.
    pub fn take(&mut self, rows: &RecordBatch, texts: usize) -> Result<()> {
        let columns = Columns(rows);
        let has = |name: &str| rows.column_by_name(name).is_some();
        let (prompts, responses) = (columns.text("prompt_id")?, columns.text("response")?);
        let scores = has("score").then(|| columns.float("score")).transpose()?;
        let tokens = has("response_tokens").then(|| columns.tokens("response_tokens")).transpose()?;
        let finish = has("finish").then(|| columns.text("finish")).transpose()?;
        self.scored |= scores.is_some();
        for i in 0..rows.num_rows() {
            let (prompt, text) = (prompts.value(i), responses.value(i));
            let length = Length::from_text(text);
            add(&mut self.characters, prompt, length.characters as f64);
            add(&mut self.words, prompt, length.words as f64);
            if let Some(tokens) = &tokens {
                self.tokenised |= !tokens.row(i).is_empty();
                add(&mut self.tokens, prompt, tokens.row(i).len() as f64);
            }
            if let Some(finish) = finish {
                add(&mut self.cut, prompt, f64::from(u8::from(finish.value(i) == "length")));
            }
            match scores.filter(|s| s.is_valid(i) && s.value(i).is_finite()).map(|s| f64::from(s.value(i))) {
                Some(score) => {
                    add(&mut self.score, prompt, score);
                    self.scores.push(score);
                }
                None => self.unscored += u64::from(scores.is_some()),
            }
            if self.texts.len() < texts {
                self.texts.push(text.into());
            }
        }
        Ok(())
    }

    /// Whether the answers can have a score.
    pub fn scored(&self) -> bool {
        self.scored
    }

    fn means(&self, iteration: u32) -> Option<IterationMeans> {
        let known = self.tokenised && !self.scores.is_empty();
        known.then(|| IterationMeans { iteration, tokens: mean(&self.tokens), score: mean(&self.score) })
    }

    /// `tokens`, `cut`, `characters`, `words`, `distinct_1` and `distinct_2`; of scored ones `score` and `unscored`.
    pub fn figures(&self, bootstrap: &Bootstrap) -> Vec<Figure> {
        let ratio =
            |parts: &BTreeMap<String, ClusterSum>| bootstrap.ratio(&parts.values().copied().collect::<Vec<_>>());
        let mut figures: Vec<Figure> = Vec::new();
        if self.tokenised {
            figures.push(("tokens", ratio(&self.tokens)));
            figures.push(("cut", ratio(&self.cut)));
        }
        figures.push(("characters", ratio(&self.characters)));
        figures.push(("words", ratio(&self.words)));
        for (n, name) in [(1, "distinct_1"), (2, "distinct_2")] {
            let distinct = distinct_n(self.texts.iter().map(String::as_str), n);
            figures.push((name, distinct.map(|(value, all)| Estimate::exact(value, all))));
        }
        if self.scored {
            let n = self.scores.len() as u64;
            figures.push(("score", ratio(&self.score)));
            figures.push(("unscored", count(self.unscored, n + self.unscored)));
        }
        figures
    }

    /// How the answers of `iteration` differ from those of the iteration before: `score_shift`, `score_variation` (in
    /// bins of `bin` points), `length_growth` and `score_growth`; and a warning where the length has grown by
    /// `growth` or more, and more than the score.
    pub fn changes(&self, before: &Self, iteration: u32, bin: f64, growth: f64) -> (Vec<Figure>, Option<String>) {
        let n = self.scores.len() as u64;
        let exact = |v: Option<f64>| v.filter(|v| v.is_finite()).map(|v| Estimate::exact(v, n));
        let mut figures = vec![
            ("score_shift", exact(drift::wasserstein(&before.scores, &self.scores))),
            ("score_variation", exact(drift::total_variation(&before.scores, &self.scores, bin))),
        ];
        let means = before.means(iteration.saturating_sub(1)).zip(self.means(iteration));
        let Some((was, is)) = means else { return (figures, None) };
        figures.push(("length_growth", exact(Some(drift::growth(was.tokens, is.tokens)))));
        figures.push(("score_growth", exact(Some(drift::growth(was.score, is.score)))));
        (figures, drift::outgrown(&was, &is, growth))
    }
}
