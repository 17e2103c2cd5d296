//! What the rows that a training learns from look like, and what it did to them, for the bounds of `[health]`.

use std::collections::{HashMap, HashSet};

use super::datasets::references_of;
use super::prelude::*;
use crate::data::Id;
use crate::dataflow::{GateValues, Phase, TrainingIteration};
use crate::eval::health::{Answers, Lengths, chosen_fall};
use crate::pipeline::{Placement, Step};

/// The nearest steps, from the round's own upwards, whose rows are of a schema.
fn above<'a>(round: &TrainingIteration<'a>, schema: &Schema) -> Vec<&'a Step<dyn Operator>> {
    round.nearest(|step| step.schema.name == schema.name)
}

/// A step's committed rows that belong to the round.
fn rows<'a>(
    round: &TrainingIteration<'a>,
    step: &Step<dyn Operator>,
) -> impl Iterator<Item = Result<RecordBatch>> + 'a {
    let iteration = if step.placement == Placement::Once { 0 } else { round.iteration };
    round.run.batches(&step.name, Some(iteration)).map(|b| Ok(b?.1))
}

/// The pairs that it is trained on.
#[derive(Default)]
struct Pairs {
    lengths: Lengths,
    /// Margins of the pairs by the prompt that they are answers to.
    by_prompt: HashMap<Id, Vec<f32>>,
}

impl Pairs {
    fn of(round: &TrainingIteration<'_>) -> Result<Self> {
        let mut pairs = Self::default();
        for step in above(round, &named::PAIRS) {
            for batch in rows(round, step) {
                let batch = batch?;
                let columns = Columns(&batch);
                let (chosen, rejected) = (columns.tokens("chosen_tokens")?, columns.tokens("rejected_tokens")?);
                let (prompts, margins) = (columns.text("prompt_id")?, columns.float("margin")?);
                for i in 0..batch.num_rows() {
                    pairs.lengths.add(chosen.row(i).len(), rejected.row(i).len());
                    pairs.by_prompt.entry(Id::of([prompts.value(i)])).or_default().push(margins.value(i));
                }
            }
        }
        Ok(pairs)
    }
    /// How many are of these prompts. Judge pairs answer the judge's prompts, which are others.
    fn of_prompts(&self, prompts: &HashSet<Id>) -> u64 {
        prompts.iter().filter_map(|prompt| self.by_prompt.get(prompt)).map(|margins| margins.len() as u64).sum()
    }
    /// The lower median of their margins.
    fn median_margin(&self, prompts: &HashSet<Id>) -> Option<f64> {
        let mut margins: Vec<f32> =
            prompts.iter().filter_map(|prompt| self.by_prompt.get(prompt)).flatten().copied().collect();
        margins.sort_unstable_by(f32::total_cmp);
        margins.get(margins.len().saturating_sub(1) / 2).map(|&margin| margin.into())
    }
}

/// Mean tokens of the chosen answers that a training had, of whatever it was given: those that its reference stands for.
fn chosen_tokens(round: &TrainingIteration<'_>) -> Result<Option<f64>> {
    let (mut tokens, mut answers) = (0, 0);
    for rows in round.run.batches(&references_of(&round.step.name), Some(round.iteration)) {
        let rows = rows?.1;
        let logprobs = Columns(&rows).floats("chosen_logprobs")?;
        (0..rows.num_rows()).for_each(|i| tokens += logprobs.row(i).len());
        answers += rows.num_rows();
    }
    Ok((answers > 0).then(|| tokens as f64 / answers as f64))
}

/// Measures a training. `beta` is that of a training on pairs.
///
/// # Errors
/// A committed file cannot be read.
pub(crate) fn measure(round: TrainingIteration<'_>, known: Phase, beta: Option<f64>) -> Result<GateValues> {
    match known {
        Phase::Training => of_training(&round, beta),
        Phase::Rows => of_rows(&round, beta.is_some()),
    }
}

/// Measures scores, and the pairs that were made of them, on which nothing is trained.
///
/// # Errors
/// A committed file cannot be read.
pub(crate) fn of_judged(round: TrainingIteration<'_>) -> Result<GateValues> {
    of_rows(&round, round.step.schema.name == named::PAIRS.name)
}

/// What a training on pairs says of itself.
fn of_training(round: &TrainingIteration<'_>, beta: Option<f64>) -> Result<GateValues> {
    let Some(beta) = beta else { return Ok(Vec::new()) };
    let metrics = round.run.metrics();
    let entry = metrics.iter().rfind(|m| m.step == round.step.name && m.iteration == round.iteration);
    let rewards: Vec<f64> = match entry {
        Some(entry) => {
            let metrics = round.run.load_metrics(entry)?;
            Columns(&metrics).double("rewards/chosen")?.iter().flatten().collect()
        }
        None => Vec::new(),
    };
    // Preferences given as text are no pairs before the training has tokenised them.
    let tokens = match Pairs::of(round)?.lengths.chosen() {
        Some(tokens) => Some(tokens),
        None => chosen_tokens(round)?,
    };
    let fall = chosen_fall(&rewards, beta, tokens.unwrap_or(0.));
    Ok(fall.map(|fall| ("chosen_logprob", fall)).into_iter().collect())
}

/// What judged answers look like, and the pairs of them if there are any.
fn of_rows(round: &TrainingIteration<'_>, has_pairs: bool) -> Result<GateValues> {
    let pairs = if has_pairs { Pairs::of(round)? } else { Pairs::default() };
    let (mut answers, mut prompts, mut scale) = (Answers::default(), HashSet::new(), None);
    for step in above(round, &named::SCORES) {
        scale = scale.or(step.op.scale());
        for batch in rows(round, step) {
            let batch = batch?;
            let (ids, texts) = (Columns(&batch).text("prompt_id")?, Columns(&batch).text("response")?);
            let judgements = Columns(&batch).judgements("judgements")?;
            prompts.extend(ids.iter().flatten().map(|id| Id::of([id])));
            (0..batch.num_rows()).for_each(|i| answers.add(texts.value(i), judgements.row(i).map(|j| j.1)));
        }
    }
    let judged = has_pairs && !prompts.is_empty();
    let pair_yield = judged.then(|| pairs.of_prompts(&prompts) as f64 / prompts.len() as f64);
    let range = scale.map(|(min, max)| f64::from(max - min));
    let margin = range.and_then(|range| Some(pairs.median_margin(&prompts)? / range));
    let gate_values = [
        ("pair_yield", pair_yield),
        ("parse_failures", answers.parse_failures()),
        ("score_entropy", answers.score_entropy()),
        ("margin", margin),
        ("length_gap", pairs.lengths.gap()),
        ("duplicates", answers.duplicates()),
    ];
    Ok(gate_values.into_iter().filter_map(|(name, value)| Some((name, value?))).collect())
}
