//! The rows of `select`: pairs with their texts, token ids and scores.

use crate::dataflow::Decision;
use crate::operators::shared::prelude::*;

/// Makes the rows of the pairs.
pub(super) fn batch(columns: Columns<'_>, pairs: &[Decision], consistency: Vec<Option<f32>>) -> Result<RecordBatch> {
    let (prompts, responses, scores) = (Prompts::new(columns.0)?, columns.text("response")?, columns.float("score")?);
    let (prompt_ids, response_ids, models) =
        (columns.text("prompt_id")?, columns.text("response_id")?, columns.text("model")?);
    let (prompt_tokens, tokens, logprobs) =
        (columns.tokens("prompt_tokens")?, columns.tokens("response_tokens")?, columns.floats("logprobs")?);
    let text = |of: &dyn Fn(&Decision) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(pairs.iter().map(of)))
    };
    let number =
        |of: &dyn Fn(&Decision) -> f32| -> ArrayRef { Arc::new(Float32Array::from_iter_values(pairs.iter().map(of))) };
    let asked = |pair: &Decision| -> Vec<(String, String)> {
        prompts.turns(pair.chosen).into_iter().map(|(role, content)| (role.to_owned(), content.to_owned())).collect()
    };
    let answer = |of: &dyn Fn(&Decision) -> String| {
        List::of_messages(&pairs.iter().map(|p| vec![("assistant".to_owned(), of(p))]).collect::<Vec<_>>())
    };
    let ids = |of: &dyn Fn(&Decision) -> Vec<u32>| List::of_tokens(&pairs.iter().map(of).collect::<Vec<_>>());
    let floats = |of: &dyn Fn(&Decision) -> Vec<f32>| List::of_floats(&pairs.iter().map(of).collect::<Vec<_>>());
    named::PAIRS.batch(vec![
        text(&|p| prompt_ids.value(p.chosen).into()),
        List::of_messages(&pairs.iter().map(asked).collect::<Vec<_>>()),
        answer(&|p| responses.value(p.chosen).into()),
        answer(&|p| responses.value(p.rejected).into()),
        text(&|p| response_ids.value(p.chosen).into()),
        text(&|p| response_ids.value(p.rejected).into()),
        number(&|p| scores.value(p.chosen)),
        number(&|p| scores.value(p.rejected)),
        number(&|p| p.margin),
        ids(&|p| prompt_tokens.row(p.chosen).to_vec()),
        ids(&|p| tokens.row(p.chosen).to_vec()),
        ids(&|p| tokens.row(p.rejected).to_vec()),
        floats(&|p| logprobs.row(p.chosen).to_vec()),
        floats(&|p| logprobs.row(p.rejected).to_vec()),
        text(&|p| models.value(p.chosen).into()),
        Arc::new(Float32Array::from_iter(consistency)),
        Arc::new(tokenizers(columns, pairs)?),
    ])
}

/// Returns the tokenizer of each pair's token ids; null if its answers have different or unknown ones.
fn tokenizers(columns: Columns<'_>, pairs: &[Decision]) -> Result<StringArray> {
    let known = columns.0.column_by_name("tokenizer").map(|_| columns.text("tokenizer")).transpose()?;
    let of = |row: usize| known.filter(|column| column.is_valid(row)).map(|column| column.value(row));
    Ok(pairs.iter().map(|pair| of(pair.chosen).filter(|chosen| of(pair.rejected) == Some(chosen))).collect())
}
