//! `select`: of each prompt's answers, the best-scored is chosen and the worst-scored rejected; equal scores give no pair.
//!
//! The scores meet in a differential reduce as (prompt id, score in thousandths, response id). Among answers with the
//! same score the response id decides, which is arbitrary but always the same.

use std::collections::HashMap;

use super::prelude::*;
use crate::data::Id;
use crate::dataflow::{Item, Kept, Key, Keyed};

pub static KIND: Kind<dyn Operator> = Kind {
    name: "select",
    about: "turns the scores of a prompt's answers into a preference pair",
    shape: Shape::Keyed,
    model: NeedsModel::No,
    min_inputs: 1,
    max_inputs: 1,
    example: "[step.pairs]\nop = \"select\"\nfrom = \"scores\"\nstrategy = \"best-worst\"\n",
    parse: |f| {
        f.choice("strategy", "which answers become a pair", &[("best-worst", "the highest against the lowest score")], Some("best-worst"));
        Box::new(Select { min_margin: f.float("min_margin", "least difference of scores", Some(0.001), 0.0..=1e6) })
    },
};

struct Select {
    min_margin: f64,
}

impl Configured for Select {
    fn explain(&self) -> String {
        format!("best against worst, margin at least {}", self.min_margin)
    }
    fn output(&self, inputs: &[Port<'_>]) -> Result<&'static Schema, Vec<String>> {
        settings::needs(inputs, &["prompt_id", "response_id", "score", "response_tokens", "logprobs"], "scored answers")?;
        Ok(&named::PAIRS)
    }
}
impl Operator for Select {
    fn stage(&self) -> Stage<'_> {
        Stage::Keyed(self)
    }
}

fn parse_id(hex: &str) -> u128 {
    // A stranger's dataset may have ids of its own making.
    Id::parse(hex).unwrap_or_else(|| Id::of([hex])).0
}

impl Keyed for Select {
    fn items(&self, epoch: Epoch, rows: &RecordBatch) -> Result<Vec<(Key, Item)>> {
        let columns = Columns(rows);
        let (prompts, responses, scores) = (columns.text("prompt_id")?, columns.text("response_id")?, columns.float("score")?);
        // All answers to a prompt are in one microbatch.
        let scope = u64::from(epoch.iteration) << 32 | u64::from(epoch.microbatch);
        let scored = (0..rows.num_rows()).filter(|&i| scores.is_valid(i) && scores.value(i).is_finite());
        let item = |i: usize| Item { order: (f64::from(scores.value(i)) * 1000.).round() as i64, id: parse_id(responses.value(i)) };
        Ok(scored.map(|i| ((scope, parse_id(prompts.value(i))), item(i))).collect())
    }

    fn reduce(&self, group: &mut dyn Iterator<Item = Item>, kept: &mut Vec<Kept>) {
        let Some(worst) = group.next() else { return };
        let best = group.last().unwrap_or(worst);
        let margin = best.order - worst.order;
        if margin > 0 && margin as f64 >= self.min_margin * 1000. {
            kept.push(Kept { id: best.id, against: worst.id, margin });
        }
    }

    fn finish(&self, _: &Context<'_>, rows: &RecordBatch, kept: &[(Key, Kept)]) -> Result<Output> {
        let columns = Columns(rows);
        let response_ids = columns.text("response_id")?;
        let row_of: HashMap<u128, usize> = (0..rows.num_rows()).map(|i| (parse_id(response_ids.value(i)), i)).collect();
        let (tokens, mut errors) = (columns.tokens("response_tokens")?, Vec::new());
        let mut pairs: Vec<(usize, usize)> = Vec::new();
        for (_, pair) in kept {
            let (chosen, rejected) = (row_of[&pair.id], row_of[&pair.against]);
            if tokens.row(chosen) == tokens.row(rejected) {
                let message = "the best and the worst answer are the same text: the judge contradicts itself".into();
                errors.push(RowError { row: response_ids.value(chosen).into(), code: "same_answer".into(), message });
            } else {
                pairs.push((chosen, rejected));
            }
        }
        // In the order of the prompts' rows.
        pairs.sort_unstable_by_key(|(chosen, rejected)| *chosen.min(rejected));
        let (prompts, responses, scores) = (columns.text("prompt")?, columns.text("response")?, columns.float("score")?);
        let (prompt_ids, models) = (columns.text("prompt_id")?, columns.text("model")?);
        let (prompt_tokens, logprobs) = (columns.tokens("prompt_tokens")?, columns.floats("logprobs")?);
        let text = |of: &dyn Fn(&(usize, usize)) -> String| -> ArrayRef { Arc::new(StringArray::from_iter_values(pairs.iter().map(of))) };
        let number = |of: &dyn Fn(&(usize, usize)) -> f32| -> ArrayRef { Arc::new(Float32Array::from_iter_values(pairs.iter().map(of))) };
        let message = |role: &str, of: &dyn Fn(&(usize, usize)) -> String| {
            List::of_messages(&pairs.iter().map(|p| vec![(role.to_string(), of(p))]).collect::<Vec<_>>())
        };
        let ids = |of: &dyn Fn(&(usize, usize)) -> Vec<u32>| List::of_tokens(&pairs.iter().map(of).collect::<Vec<_>>());
        let floats = |of: &dyn Fn(&(usize, usize)) -> Vec<f32>| List::of_floats(&pairs.iter().map(of).collect::<Vec<_>>());
        let rows = named::PAIRS.batch(vec![
            text(&|p| prompt_ids.value(p.0).into()),
            message("user", &|p| prompts.value(p.0).into()),
            message("assistant", &|p| responses.value(p.0).into()),
            message("assistant", &|p| responses.value(p.1).into()),
            text(&|p| response_ids.value(p.0).into()),
            text(&|p| response_ids.value(p.1).into()),
            number(&|p| scores.value(p.0)),
            number(&|p| scores.value(p.1)),
            number(&|p| scores.value(p.0) - scores.value(p.1)),
            ids(&|p| prompt_tokens.row(p.0).to_vec()),
            ids(&|p| tokens.row(p.0).to_vec()),
            ids(&|p| tokens.row(p.1).to_vec()),
            floats(&|p| logprobs.row(p.0).to_vec()),
            floats(&|p| logprobs.row(p.1).to_vec()),
            text(&|p| models.value(p.0).into()),
        ])?;
        Ok(Output { rows, errors })
    }
}
