//! Somebody else's preferences, texts only, as pairs: tokenised with the template of the model that is trained on them. Nobody
//! recorded log-probabilities, so those of the reference are computed.

use std::collections::HashMap;

use super::prelude::*;
use crate::model::{Message, Tokenizer};
use crate::train::Scored;

/// A batch of `pairs` as it is, or of `preferences` as `pairs`. An error row is what the template refuses, with `scored` what has
/// no scores to take a margin from, and what has the ids of another pair: log-probabilities are kept by them.
///
/// # Errors
/// A column is missing or of another type.
pub(super) fn as_pairs(
    rows: &RecordBatch,
    tokenizer: &Tokenizer,
    scored: bool,
    errors: &mut Vec<RowError>,
) -> Result<RecordBatch> {
    if rows.column_by_name("chosen_tokens").is_some() {
        return Ok(rows.clone());
    }
    let columns = Columns(rows);
    let [prompts, chosen, rejected] = ["prompt", "chosen", "rejected"].map(|name| columns.messages(name));
    let (prompts, chosen, rejected) = (prompts?, chosen?, rejected?);
    let (chosen_ids, rejected_ids) = (columns.text("chosen_id")?, columns.text("rejected_id")?);
    let (chosen_scores, rejected_scores) = (columns.float("chosen_score")?, columns.float("rejected_score")?);
    let (mut kept, mut tokens): (Vec<usize>, Vec<Scored>) = Default::default();
    let mut places: HashMap<String, usize> = HashMap::new();
    for i in 0..rows.num_rows() {
        let id = || super::reference::pair_id(chosen_ids.value(i), rejected_ids.value(i));
        if scored && (chosen_scores.is_null(i) || rejected_scores.is_null(i)) {
            let message =
                "this loss aims at the difference of the answers' scores, and they have none; choose another loss";
            errors.push(RowError::failed(id(), "no_score", message));
            continue;
        }
        let turns = |m: &crate::data::Messages<'_>| {
            m.row(i).map(|(role, content)| Message::new(role, content)).collect::<Vec<_>>()
        };
        match Scored::encode(tokenizer, &turns(&prompts), &[turns(&chosen), turns(&rejected)]) {
            Ok(pair) if places.get(&id()).is_some_and(|&at| tokens[at] != pair) => {
                let message =
                    "another pair with other texts has the same chosen_id and rejected_id; give each answer its own";
                errors.push(RowError::failed(id(), "id_taken", message));
            }
            Ok(pair) => {
                places.entry(id()).or_insert(kept.len());
                kept.push(i);
                tokens.push(pair);
            }
            Err(e) => errors.push(RowError::failed(
                id(),
                "no_template",
                format!("the policy's chat template does not take it: {e}"),
            )),
        }
    }
    let taken = UInt32Array::from_iter_values(kept.iter().map(|i| *i as u32));
    let given = |name: &str| -> Result<ArrayRef> {
        let column = rows.column_by_name(name).ok_or_else(|| Error::user(format!("column `{name}` is missing")))?;
        Ok(arrow::compute::take(column, &taken, None)?)
    };
    let score = |of: &Float32Array, i: usize| if of.is_valid(i) { of.value(i) } else { 0. };
    let number = |of: &dyn Fn(usize) -> f32| -> ArrayRef {
        Arc::new(Float32Array::from_iter_values(kept.iter().map(|&i| of(i))))
    };
    // Without both scores there is no margin.
    let both = |i: usize| chosen_scores.is_valid(i) && rejected_scores.is_valid(i);
    let mut all: Vec<ArrayRef> = Vec::new();
    for column in named::PAIRS.columns {
        all.push(match column.name {
            "chosen_score" => number(&|i| score(chosen_scores, i)),
            "rejected_score" => number(&|i| score(rejected_scores, i)),
            "margin" => number(&|i| if both(i) { chosen_scores.value(i) - rejected_scores.value(i) } else { 0. }),
            "prompt_tokens" => List::of_tokens(&tokens.iter().map(|t| t.prompt.clone()).collect::<Vec<_>>()),
            "chosen_tokens" => List::of_tokens(&tokens.iter().map(|t| t.completions[0].clone()).collect::<Vec<_>>()),
            "rejected_tokens" => List::of_tokens(&tokens.iter().map(|t| t.completions[1].clone()).collect::<Vec<_>>()),
            "chosen_logprobs" | "rejected_logprobs" => List::of_floats(&vec![Vec::new(); kept.len()]),
            "model" => Arc::new(StringArray::from(vec!["given"; kept.len()])),
            _ if column.nullable => arrow::array::new_null_array(&column.kind.arrow(), kept.len()),
            name => given(name)?,
        });
    }
    named::PAIRS.batch(all)
}
