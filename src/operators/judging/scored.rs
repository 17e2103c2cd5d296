//! Makes rows of the scores dataset from the replies about each answer.

use crate::data::{Judgement, counted};
use crate::engine::Finish;
use crate::operators::shared::prelude::*;
use arrow::array::{ListArray, UInt32Builder, new_null_array};

/// A judged answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct ScoredResponse {
    /// Its score; `None` if no reply was readable.
    pub score: Option<f32>,
    /// All replies about it.
    pub judgements: Vec<Judgement>,
    /// The judge's prompt and its token ids, if judgements keep them.
    pub prompt: Option<(String, Arc<[u32]>)>,
}

impl ScoredResponse {
    /// Makes an answer with the mean score of its readable judgements.
    pub fn mean(judgements: Vec<Judgement>) -> Self {
        let scores: Vec<f64> = judgements.iter().filter_map(|j| j.score).map(f64::from).collect();
        let score = (!scores.is_empty()).then(|| (scores.iter().sum::<f64>() / scores.len() as f64) as f32);
        Self { score, judgements, prompt: None }
    }

    /// Explains a missing score, as a code and a message.
    pub fn unreadable(&self, id: &str) -> RowError {
        let outcomes: Vec<&str> = self.judgements.iter().map(|j| j.outcome.as_str()).collect();
        let code = outcomes.first().copied().filter(|first| outcomes.iter().all(|o| o == first)).unwrap_or("no_match");
        let message = format!(
            "none of {} was readable ({}); the answer has no score",
            counted(outcomes.len(), "judgement"),
            outcomes.join(", ")
        );
        RowError::failed(id, code, message)
    }
}

/// Fills a column that answers without token ids lack: `ranked` rows were not sampled by a model of the
/// run.
fn given(input: &RecordBatch, column: &str) -> Result<ArrayRef> {
    let rows = input.num_rows();
    Ok(match column {
        "sample" => Arc::new(Columns(input).uint("rank")?.clone()),
        "finish" => Arc::new(StringArray::from(vec![Finish::Stop.as_str(); rows])),
        "model" => Arc::new(StringArray::from(vec!["given"; rows])),
        "prompt_tokens" | "response_tokens" => List::of_tokens(&vec![Vec::new(); rows]),
        "logprobs" => List::of_floats(&vec![Vec::new(); rows]),
        other => return Err(Error::user(format!("column `{other}` is missing"))),
    })
}

/// Makes the scores dataset of judged answers; also used by operators that score by a rule.
pub(crate) fn scored(
    input: &RecordBatch,
    rows: &[ScoredResponse],
    judge: &str,
    judge_tokenizer: Option<&str>,
) -> Result<RecordBatch> {
    let mut columns: Vec<ArrayRef> = Vec::new();
    for column in named::SCORES.columns {
        columns.push(match column.name {
            "score" => Arc::new(Float32Array::from_iter(rows.iter().map(|r| r.score))),
            "judgements" => List::of_judgements(&rows.iter().map(|r| r.judgements.clone()).collect::<Vec<_>>()),
            "judge" => Arc::new(StringArray::from(vec![judge; input.num_rows()])),
            "judge_tokenizer" => Arc::new(StringArray::from(vec![judge_tokenizer; input.num_rows()])),
            "score_before" | "changes" => new_null_array(&column.kind.arrow(), input.num_rows()),
            "judge_prompt" => {
                Arc::new(StringArray::from_iter(rows.iter().map(|r| r.prompt.as_ref().map(|p| p.0.as_str()))))
            }
            "judge_prompt_tokens" => tokens(rows.iter().map(|r| r.prompt.as_ref().map(|p| &*p.1))),
            kept => match input.column_by_name(kept) {
                Some(column) => Arc::clone(column),
                None if column.nullable => new_null_array(&column.kind.arrow(), input.num_rows()),
                None => given(input, kept)?,
            },
        });
    }
    named::SCORES.batch(columns)
}

/// Fills a column of token ids that some rows lack.
fn tokens<'a>(rows: impl Iterator<Item = Option<&'a [u32]>>) -> ArrayRef {
    let field = arrow::datatypes::Field::new_list_field(arrow::datatypes::DataType::UInt32, false);
    let mut column = arrow::array::ListBuilder::new(UInt32Builder::new()).with_field(field);
    for row in rows {
        if let Some(ids) = row {
            column.values().append_slice(ids);
        }
        column.append(row.is_some());
    }
    let column: ListArray = column.finish();
    Arc::new(column)
}
