//! Measurements for the bounds of `[health]`: the rows that a training learns from, and the effect of the
//! training.

use std::collections::{HashMap, HashSet};

use super::datasets::references_of;
use super::prelude::*;
use crate::data::Id;
use crate::dataflow::{GateValues, Phase, TrainingIteration};
use crate::eval::health::{Answers, Lengths, chosen_fall};
use crate::pipeline::{Placement, Step};

/// Returns the nearest steps with rows of this schema: the step itself or steps above it.
fn nearest_with_schema<'a>(training: &TrainingIteration<'a>, schema: &Schema) -> Vec<&'a Step<dyn Operator>> {
    training.nearest(|step| step.schema.name == schema.name)
}

/// Reads a step's committed rows for this iteration.
fn rows<'a>(
    training: &TrainingIteration<'a>,
    step: &Step<dyn Operator>,
) -> impl Iterator<Item = Result<RecordBatch>> + 'a {
    let iteration = if step.placement == Placement::Once { 0 } else { training.iteration };
    training.run.batches(&step.name, Some(iteration)).map(|b| Ok(b?.1))
}

/// The pairs to train on.
#[derive(Default)]
struct TrainingPairs {
    lengths: Lengths,
    /// Margins of the pairs by their prompt.
    by_prompt: HashMap<Id, Vec<f32>>,
}

impl TrainingPairs {
    fn load(training: &TrainingIteration<'_>) -> Result<Self> {
        let mut pairs = Self::default();
        for step in nearest_with_schema(training, &named::PAIRS) {
            for batch in rows(training, step) {
                let batch = batch?;
                let columns = Columns(&batch);
                let (chosen, rejected) = (columns.tokens("chosen_tokens")?, columns.tokens("rejected_tokens")?);
                let (prompts, margins) = (columns.text("prompt_id")?, columns.float("margin")?);
                for i in 0..batch.num_rows() {
                    pairs.lengths.add(chosen.row(i).len(), rejected.row(i).len());
                    pairs.by_prompt.entry(Id::from_parts([prompts.value(i)])).or_default().push(margins.value(i));
                }
            }
        }
        Ok(pairs)
    }
    /// Counts the pairs of these prompts. Judge pairs are left out: they belong to the judge's prompts.
    fn count_of_prompts(&self, prompts: &HashSet<Id>) -> u64 {
        prompts.iter().filter_map(|prompt| self.by_prompt.get(prompt)).map(|margins| margins.len() as u64).sum()
    }
    /// Returns the lower median of their margins.
    fn median_margin(&self, prompts: &HashSet<Id>) -> Option<f64> {
        let mut margins: Vec<f32> =
            prompts.iter().filter_map(|prompt| self.by_prompt.get(prompt)).flatten().copied().collect();
        margins.sort_unstable_by(f32::total_cmp);
        margins.get(margins.len().saturating_sub(1) / 2).map(|&margin| margin.into())
    }
}

/// Returns the mean number of tokens of the chosen answers in a training, counted in its references.
fn chosen_tokens(training: &TrainingIteration<'_>) -> Result<Option<f64>> {
    let (mut tokens, mut answers) = (0, 0);
    for rows in training.run.batches(&references_of(&training.step.name), Some(training.iteration)) {
        let rows = rows?.1;
        let logprobs = Columns(&rows).floats("chosen_logprobs")?;
        (0..rows.num_rows()).for_each(|i| tokens += logprobs.row(i).len());
        answers += rows.num_rows();
    }
    Ok((answers > 0).then(|| tokens as f64 / answers as f64))
}

/// Measures a training. `beta` is given for a training on pairs.
///
/// # Errors
/// A committed file cannot be read.
pub(crate) fn measure(training: TrainingIteration<'_>, phase: Phase, beta: Option<f64>) -> Result<GateValues> {
    match phase {
        Phase::Training => measure_training(&training, beta),
        Phase::Rows => measure_rows(&training, beta.is_some()),
    }
}

/// Measures scores and the pairs made from them, if nothing is trained on them.
///
/// # Errors
/// A committed file cannot be read.
pub(crate) fn measure_judged(training: TrainingIteration<'_>) -> Result<GateValues> {
    measure_rows(&training, training.step.schema.name == named::PAIRS.name)
}

/// Measures the effect of a training on pairs.
fn measure_training(training: &TrainingIteration<'_>, beta: Option<f64>) -> Result<GateValues> {
    let Some(beta) = beta else { return Ok(Vec::new()) };
    let metrics = training.run.metrics();
    let entry = metrics.iter().rfind(|m| m.step == training.step.name && m.iteration == training.iteration);
    let rewards: Vec<f64> = match entry {
        Some(entry) => {
            let metrics = training.run.load_metrics(entry)?;
            Columns(&metrics).double("rewards/chosen")?.iter().flatten().collect()
        }
        None => Vec::new(),
    };
    // Preferences given as text have no token counts until the training tokenises them.
    let tokens = match TrainingPairs::load(training)?.lengths.chosen() {
        Some(tokens) => Some(tokens),
        None => chosen_tokens(training)?,
    };
    let fall = chosen_fall(&rewards, beta, tokens.unwrap_or(0.));
    Ok(fall.map(|fall| ("chosen_logprob", fall)).into_iter().collect())
}

/// Measures judged answers, and the pairs made from them if there are any.
///
/// # Errors
/// A committed file cannot be read.
pub(crate) fn measure_rows(training: &TrainingIteration<'_>, has_pairs: bool) -> Result<GateValues> {
    let pairs = if has_pairs { TrainingPairs::load(training)? } else { TrainingPairs::default() };
    let (mut answers, mut prompts, mut scale) = (Answers::default(), HashSet::new(), None);
    for step in nearest_with_schema(training, &named::SCORES) {
        scale = scale.or(step.op.scale());
        for batch in rows(training, step) {
            let batch = batch?;
            let (ids, texts) = (Columns(&batch).text("prompt_id")?, Columns(&batch).text("response")?);
            let judgements = Columns(&batch).judgements("judgements")?;
            prompts.extend(ids.iter().flatten().map(|id| Id::from_parts([id])));
            (0..batch.num_rows()).for_each(|i| answers.add(texts.value(i), judgements.row(i).map(|j| j.1)));
        }
    }
    let judged = has_pairs && !prompts.is_empty();
    let pair_yield = judged.then(|| pairs.count_of_prompts(&prompts) as f64 / prompts.len() as f64);
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
