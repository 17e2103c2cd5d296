//! What the rows that a training learns from look like, and what it did to them, for the bounds of `[health]`.

use std::collections::{HashMap, HashSet};

use super::prelude::*;
use super::reference;
use crate::data::Id;
use crate::dataflow::{Known, Readings, Round};
use crate::eval::health::{Answers, Lengths, chosen_fall};
use crate::pipeline::{Placement, Step};

/// The nearest steps above a training, along `from`, whose rows are of a schema.
fn above<'a>(round: &Round<'a>, schema: &Schema) -> Vec<&'a Step<dyn Operator>> {
    let (mut found, mut seen, mut todo) = (Vec::new(), HashSet::new(), vec![round.step]);
    while let Some(step) = todo.pop() {
        for input in step.inputs.iter().filter(|i| i.key == "from") {
            let Some(step) = round.plan.step(&input.step).filter(|s| seen.insert(s.name.as_str())) else { continue };
            if step.schema.name == schema.name { found.push(step) } else { todo.push(step) }
        }
    }
    found
}

/// A step's committed rows that belong to the round.
fn rows<'a>(round: &Round<'a>, step: &Step<dyn Operator>) -> impl Iterator<Item = Result<RecordBatch>> + 'a {
    let iteration = if step.placement == Placement::Once { 0 } else { round.iteration };
    round.run.batches(&step.name, Some(iteration)).map(|b| Ok(b?.1))
}

/// The pairs that it is trained on.
#[derive(Default)]
struct Pairs {
    lengths: Lengths,
    /// Pairs by the prompt that they are answers to.
    by_prompt: HashMap<Id, u64>,
}

impl Pairs {
    fn of(round: &Round<'_>) -> Result<Self> {
        let mut pairs = Self::default();
        for step in above(round, &named::PAIRS) {
            for batch in rows(round, step) {
                let batch = batch?;
                let columns = Columns(&batch);
                let (chosen, rejected) = (columns.tokens("chosen_tokens")?, columns.tokens("rejected_tokens")?);
                let prompts = columns.text("prompt_id")?;
                for i in 0..batch.num_rows() {
                    pairs.lengths.add(chosen.row(i).len(), rejected.row(i).len());
                    *pairs.by_prompt.entry(Id::of([prompts.value(i)])).or_default() += 1;
                }
            }
        }
        Ok(pairs)
    }
    /// How many are of these prompts. Judge pairs answer the judge's prompts, which are others.
    fn of_prompts(&self, prompts: &HashSet<Id>) -> u64 {
        prompts.iter().filter_map(|prompt| self.by_prompt.get(prompt)).sum()
    }
}

/// Mean tokens of the chosen answers that a training had, of whatever it was given: those that its reference stands for.
fn chosen_tokens(round: &Round<'_>) -> Result<Option<f64>> {
    let (mut tokens, mut answers) = (0, 0);
    for rows in round.run.batches(&reference::dataset(&round.step.name), Some(round.iteration)) {
        let rows = rows?.1;
        let logprobs = Columns(&rows).floats("chosen_logprobs")?;
        (0..rows.num_rows()).for_each(|i| tokens += logprobs.row(i).len());
        answers += rows.num_rows();
    }
    Ok((answers > 0).then(|| tokens as f64 / answers as f64))
}

/// Measures a round. `beta` is that of a training on pairs.
///
/// # Errors
/// A committed file cannot be read.
pub(super) fn measure(round: Round<'_>, known: Known, beta: Option<f64>) -> Result<Readings> {
    let pairs = if beta.is_some() { Pairs::of(&round)? } else { Pairs::default() };
    let lengths = pairs.lengths;
    let readings: [(&'static str, Option<f64>); 6] = match known {
        Known::Training => {
            let metrics = round.run.metrics();
            let entry = metrics.iter().rfind(|m| m.step == round.step.name && m.iteration == round.iteration);
            let rewards: Vec<f64> = match (entry, beta) {
                (Some(entry), Some(_)) => {
                    let metrics = round.run.load_metrics(entry)?;
                    Columns(&metrics).double("rewards/chosen")?.iter().flatten().collect()
                }
                _ => Vec::new(),
            };
            // Preferences given as text are no pairs before the training has tokenised them.
            let tokens = if let Some(tokens) = lengths.chosen() { Some(tokens) } else { chosen_tokens(&round)? };
            let fall = chosen_fall(&rewards, beta.unwrap_or(0.), tokens.unwrap_or(0.));
            return Ok(fall.map(|fall| ("chosen_logprob", fall)).into_iter().collect());
        }
        Known::Rows => {
            let (mut answers, mut prompts) = (Answers::default(), HashSet::new());
            for step in above(&round, &named::SCORES) {
                for batch in rows(&round, step) {
                    let batch = batch?;
                    let (ids, texts) = (Columns(&batch).text("prompt_id")?, Columns(&batch).text("response")?);
                    let judgements = Columns(&batch).judgements("judgements")?;
                    prompts.extend(ids.iter().flatten().map(|id| Id::of([id])));
                    (0..batch.num_rows()).for_each(|i| answers.add(texts.value(i), judgements.row(i).map(|j| j.1)));
                }
            }
            let judged = beta.is_some() && !prompts.is_empty();
            let pair_yield = judged.then(|| pairs.of_prompts(&prompts) as f64 / prompts.len() as f64);
            [
                ("pair_yield", pair_yield),
                ("parse_failures", answers.parse_failures()),
                ("score_entropy", answers.score_entropy()),
                ("length_gap", lengths.gap()),
                ("duplicates", answers.duplicates()),
                ("chosen_logprob", None),
            ]
        }
    };
    Ok(readings.into_iter().filter_map(|(name, value)| Some((name, value?))).collect())
}
