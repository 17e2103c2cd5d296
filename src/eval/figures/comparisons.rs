//! [`ComparisonStats`]: what is collected of comparisons for their figures.

use arrow::array::{Array as _, RecordBatch};

use super::sums::PromptSums;
use crate::data::Columns;
use crate::error::{Error, Result};
use crate::eval::win_rate::{ComparisonOutcome, WinRecord};

/// A comparison of two answers.
pub struct Comparison<'a> {
    /// The outcome of both orders together.
    pub outcome: ComparisonOutcome,
    /// The outcome that people or ranks expect, if known.
    pub expected: Option<&'a str>,
    /// The outcome where the first answer was shown first, if the verdict was readable.
    pub first_shown_first: Option<&'a str>,
    /// The outcome where the second answer was shown first.
    pub second_shown_first: Option<&'a str>,
}

/// The value of a comparison that a figure is the mean of.
pub(super) type ComparisonValue = fn(&Comparison<'_>) -> Option<f64>;

/// The comparisons of a step in one iteration or in all.
#[derive(Debug)]
pub struct ComparisonStats {
    /// Outcomes by prompt.
    pub record: WinRecord,
    /// Sums for the means, with the names of the figures.
    sums: Vec<(&'static str, ComparisonValue, PromptSums)>,
}

impl ComparisonStats {
    /// No comparisons yet. `means` are the figures that are means, by name.
    pub(super) fn new(means: impl Iterator<Item = (&'static str, ComparisonValue)>) -> Self {
        let sums = means.map(|(name, value)| (name, value, PromptSums::default())).collect();
        Self { record: WinRecord::default(), sums }
    }

    /// Adds rows.
    ///
    /// # Errors
    /// The rows lack a column of `comparisons`, or have another text than an outcome.
    pub fn take(&mut self, rows: &RecordBatch) -> Result<()> {
        let columns = Columns(rows);
        let (prompts, outcomes) = (columns.text("prompt_id")?, columns.text("outcome")?);
        let [expected, first, second] =
            [columns.text("expected")?, columns.text("first_shown_first")?, columns.text("second_shown_first")?];
        for i in 0..rows.num_rows() {
            let name = outcomes.value(i);
            let outcome = ComparisonOutcome::from_name(name).ok_or_else(|| {
                Error::user(format!("`{name}` is not an outcome; outcomes are win, tie, loss and null"))
            })?;
            let [expected, first_shown_first, second_shown_first] =
                [expected, first, second].map(|column| column.is_valid(i).then(|| column.value(i)));
            self.record.add(prompts.value(i), outcome);
            let comparison = Comparison { outcome, expected, first_shown_first, second_shown_first };
            for (_, value, sums) in &mut self.sums {
                if let Some(value) = value(&comparison) {
                    sums.add(prompts.value(i), value);
                }
            }
        }
        Ok(())
    }

    /// The sums of the figure with this name, if it is a mean over comparisons.
    pub(super) fn sums(&self, name: &str) -> Option<&PromptSums> {
        self.sums.iter().find(|sums| sums.0 == name).map(|sums| &sums.2)
    }
}
