//! [`AnswerStats`]: what is collected of answers for their figures.

use arrow::array::{Array as _, RecordBatch};

use super::sums::PromptSums;
use crate::data::Columns;
use crate::error::Result;

/// An answer.
pub struct AnswerRow<'a> {
    /// Its text.
    pub text: &'a str,
    /// Its number of tokens, if the rows have tokens. Stored answers have 0.
    pub tokens: Option<usize>,
    /// Why it ended, if the rows say so: `length` if `max_tokens` cut it.
    pub finish: Option<&'a str>,
    /// Its score, if it has a finite one.
    pub score: Option<f64>,
}

/// The value of an answer that a figure is the mean of.
pub(super) type AnswerValue = fn(&AnswerRow<'_>) -> Option<f64>;

/// A step's answers, in one iteration or in all.
#[derive(Debug)]
pub struct AnswerStats {
    /// Sums for the means, with the names of the figures.
    sums: Vec<(&'static str, AnswerValue, PromptSums)>,
    scores: Vec<f64>,
    unscored: u64,
    /// The first answers' texts.
    texts: Vec<String>,
    scored: bool,
    tokenised: bool,
}

impl AnswerStats {
    /// No answers yet. `means` are the figures that are means, by name.
    pub(super) fn new(means: impl Iterator<Item = (&'static str, AnswerValue)>) -> Self {
        let sums = means.map(|(name, value)| (name, value, PromptSums::default())).collect();
        Self { sums, scores: Vec::new(), unscored: 0, texts: Vec::new(), scored: false, tokenised: false }
    }

    /// Adds rows. The texts of the first `texts` answers are kept.
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
            let score = scores.filter(|s| s.is_valid(i) && s.value(i).is_finite()).map(|s| f64::from(s.value(i)));
            let answer = AnswerRow {
                text: responses.value(i),
                tokens: tokens.as_ref().map(|tokens| tokens.row(i).len()),
                finish: finish.map(|finish| finish.value(i)),
                score,
            };
            self.tokenised |= answer.tokens.is_some_and(|tokens| tokens > 0);
            for (_, value, sums) in &mut self.sums {
                if let Some(value) = value(&answer) {
                    sums.add(prompts.value(i), value);
                }
            }
            match score {
                Some(score) => self.scores.push(score),
                None => self.unscored += u64::from(scores.is_some()),
            }
            if self.texts.len() < texts {
                self.texts.push(answer.text.into());
            }
        }
        Ok(())
    }

    /// Whether the answers can have a score.
    pub fn scored(&self) -> bool {
        self.scored
    }

    /// Whether the answers have tokens, as generated ones do. Stored and ranked answers have none.
    pub fn tokenised(&self) -> bool {
        self.tokenised
    }

    /// The scores, in the order of the rows.
    pub fn scores(&self) -> &[f64] {
        &self.scores
    }

    /// Number of answers that could have a score and have none.
    pub fn unscored(&self) -> u64 {
        self.unscored
    }

    /// Texts of the first answers: distinct-n falls with their number.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.texts.iter().map(String::as_str)
    }

    /// The sums of the figure with this name, if it is a mean over answers.
    pub(super) fn sums(&self, name: &str) -> Option<&PromptSums> {
        self.sums.iter().find(|sums| sums.0 == name).map(|sums| &sums.2)
    }
}
