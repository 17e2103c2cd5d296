//! [`RankedStats`]: what is collected of scored answers with ranks by people for their figures.

use std::collections::{BTreeMap, HashMap, HashSet};

use arrow::array::{Array as _, RecordBatch};

use crate::data::Columns;
use crate::error::Result;
use crate::eval::reward::RankedAnswer;

/// Scored answers with their ranks by people. The scores are taken first.
#[derive(Debug, Default)]
pub struct RankedStats {
    /// The judge's scores by `response_id`.
    scores: HashMap<String, f64>,
    ranked: HashSet<String>,
    prompts: BTreeMap<String, Vec<RankedAnswer>>,
    given: BTreeMap<String, Vec<(f64, f64)>>,
}

impl RankedStats {
    /// Adds rows with the judge's scores.
    ///
    /// # Errors
    /// The rows lack `response_id` or `score`.
    pub fn take_scores(&mut self, rows: &RecordBatch) -> Result<()> {
        let columns = Columns(rows);
        let (ids, scores) = (columns.text("response_id")?, columns.float("score")?);
        let known = (0..rows.num_rows()).filter(|&i| scores.is_valid(i));
        self.scores.extend(known.map(|i| (ids.value(i).to_owned(), f64::from(scores.value(i)))));
        Ok(())
    }

    /// Adds rows with the ranks of the same answers. Ranks that come from scores have these beside them.
    ///
    /// # Errors
    /// The rows lack `prompt_id`, `response_id` or `rank`.
    pub fn take_ranks(&mut self, rows: &RecordBatch) -> Result<()> {
        let columns = Columns(rows);
        let (prompts, ids, ranks) = (columns.text("prompt_id")?, columns.text("response_id")?, columns.uint("rank")?);
        let given = rows.column_by_name("score").map(|_| columns.float("score")).transpose()?;
        for i in 0..rows.num_rows() {
            let (prompt, id) = (prompts.value(i), ids.value(i));
            let score = self.scores.get(id).copied();
            if let (Some(given), Some(score)) = (given.filter(|given| given.is_valid(i)), score) {
                self.given.entry(prompt.into()).or_default().push((given.value(i).into(), score));
            }
            self.ranked.insert(id.to_owned());
            let answer = RankedAnswer { rank: f64::from(ranks.value(i)), score };
            self.prompts.entry(prompt.into()).or_default().push(answer);
        }
        Ok(())
    }

    /// Number of scored answers without a rank.
    pub fn unranked(&self) -> u64 {
        self.scores.keys().filter(|id| !self.ranked.contains(*id)).count() as u64
    }

    /// The answers of each prompt.
    pub fn prompts(&self) -> impl Iterator<Item = &[RankedAnswer]> {
        self.prompts.values().map(Vec::as_slice)
    }

    /// Pairs of the score that an answer was given and the judge's score, of each prompt with such a pair.
    pub fn given(&self) -> impl Iterator<Item = &Vec<(f64, f64)>> {
        self.given.values()
    }
}
