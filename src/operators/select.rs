//! `select`: of each prompt's answers, the best-scored is chosen and the worst-scored rejected; equal scores give no pair.
//!
//! The scores meet in a differential reduce as (prompt id, score in thousandths, response id). Among answers with the
//! same score the response id decides, which is arbitrary but always the same.
//!
//! With `consistency`, scores of the same answers by another judge, a pair also learns how far the two judges rank the
//! prompt's answers alike: `C = (tau + 1) / 2` of CREAM (arXiv 2410.12735), tau being Kendall's tau-b over the answers that
//! both have scored. Where tau is not defined (fewer than two such answers, or a judge that scores them all the same) nothing
//! speaks for or against, and C is 1/2.

use std::collections::HashMap;

use super::prelude::*;
use crate::data::Id;
use crate::dataflow::{Item, Kept, Key, Keyed};
use crate::eval::statistics::kendall_tau;

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
        let other = f.step_beside("consistency", "step with another judge's scores of the same answers; the pairs then know how far the two agree, for the cream loss");
        let spans = [("row", "each prompt's own"), ("microbatch", "the mean over the microbatch's pairs, for all of them")];
        let span = f.choice("consistency_of", "whose agreement a pair has", &spans, Some("row"));
        Box::new(Select {
            min_margin: f.float("min_margin", "least difference of scores", Some(0.001), 0.0..=1e6),
            other,
            mean: span == "microbatch",
        })
    },
};

struct Select {
    min_margin: f64,
    /// The step whose scores say how consistent ours are.
    other: Option<String>,
    mean: bool,
}

impl Configured for Select {
    fn explain(&self) -> String {
        let consistency = self.other.as_ref().map(|o| format!(", consistency with {o}{}", if self.mean { " by microbatch" } else { "" }));
        format!("best against worst, margin at least {}{}", self.min_margin, consistency.unwrap_or_default())
    }
    fn output(&self, inputs: &[Port<'_>]) -> Result<&'static Schema, Vec<String>> {
        settings::needs(inputs, &["prompt_id", "response_id", "score", "response_tokens", "logprobs"], "scored answers")?;
        let wrong = |p: &Port<'_>| settings::needs(std::slice::from_ref(p), &["prompt_id", "response_id", "score"], "another judge's scores").err();
        match inputs.iter().filter(|p| p.key == "consistency").find_map(wrong) {
            Some(problems) => Err(problems),
            None => Ok(&named::PAIRS),
        }
    }
}
impl Operator for Select {
    fn stage(&self) -> Stage<'_> {
        Stage::Keyed(self)
    }
}

/// C of CREAM by prompt id: of two judges' scores of the same answers.
fn consistencies(ours: &RecordBatch, theirs: &RecordBatch) -> Result<HashMap<String, f32>> {
    let scores = |rows: &RecordBatch| -> Result<Vec<(String, String, f64)>> {
        let columns = Columns(rows);
        let (prompts, answers, scores) = (columns.text("prompt_id")?, columns.text("response_id")?, columns.float("score")?);
        let scored = (0..rows.num_rows()).filter(|&i| scores.is_valid(i) && scores.value(i).is_finite());
        Ok(scored.map(|i| (prompts.value(i).to_owned(), answers.value(i).to_owned(), f64::from(scores.value(i)))).collect())
    };
    let theirs: HashMap<(String, String), f64> = scores(theirs)?.into_iter().map(|(p, a, s)| ((p, a), s)).collect();
    let mut rankings: HashMap<String, (Vec<f64>, Vec<f64>)> = HashMap::new();
    for (prompt, answer, score) in scores(ours)? {
        let both = rankings.entry(prompt.clone()).or_default();
        if let Some(other) = theirs.get(&(prompt, answer)) {
            both.0.push(score);
            both.1.push(*other);
        }
    }
    let c = |(x, y): (Vec<f64>, Vec<f64>)| ((kendall_tau(&x, &y).unwrap_or(0.) + 1.) / 2.) as f32;
    Ok(rankings.into_iter().map(|(prompt, both)| (prompt, c(both))).collect())
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

    fn finish(&self, cx: &Context<'_>, rows: &RecordBatch, kept: &[(Key, Kept)]) -> Result<Output> {
        let columns = Columns(rows);
        let response_ids = columns.text("response_id")?;
        let row_of: HashMap<u128, usize> = (0..rows.num_rows()).map(|i| (parse_id(response_ids.value(i)), i)).collect();
        let (tokens, mut errors) = (columns.tokens("response_tokens")?, Vec::new());
        let mut pairs: Vec<(usize, usize)> = Vec::new();
        for (_, pair) in kept {
            let (chosen, rejected) = (row_of[&pair.id], row_of[&pair.against]);
            if tokens.row(chosen) == tokens.row(rejected) {
                let message = "the best and the worst answer are the same text: the judge contradicts itself";
                errors.push(RowError::dropped(response_ids.value(chosen), "same_answer", message));
            } else {
                pairs.push((chosen, rejected));
            }
        }
        // In the order of the prompts' rows.
        pairs.sort_unstable_by_key(|(chosen, rejected)| *chosen.min(rejected));
        let (prompts, responses, scores) = (columns.text("prompt")?, columns.text("response")?, columns.float("score")?);
        let (prompt_ids, models) = (columns.text("prompt_id")?, columns.text("model")?);
        let (prompt_tokens, logprobs) = (columns.tokens("prompt_tokens")?, columns.floats("logprobs")?);
        let consistency: Vec<Option<f32>> = match &self.other {
            None => vec![None; pairs.len()],
            Some(other) => {
                // A microbatch that the other judge lacks agrees with nothing and contradicts nothing.
                let theirs = cx.beside(other)?.unwrap_or_else(|| named::SCORES.empty());
                let by_prompt = consistencies(rows, &theirs)?;
                let each: Vec<f32> = pairs.iter().map(|p| by_prompt.get(prompt_ids.value(p.0)).copied().unwrap_or(0.5)).collect();
                let mean = each.iter().map(|&c| f64::from(c)).sum::<f64>() / each.len().max(1) as f64;
                each.into_iter().map(|c| Some(if self.mean { mean as f32 } else { c })).collect()
            }
        };
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
            Arc::new(Float32Array::from_iter(consistency)),
        ])?;
        Ok(Output { rows, errors })
    }
}
