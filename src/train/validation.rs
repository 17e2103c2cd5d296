//! Validation while training: a metric on held-out rows decides when training stops early and which weights are kept
//! (arXiv 2401.10020, section 3.1.3: checkpoints every 200 steps, picked on held-out data).

use super::logprobs::{Branches, branch_logprobs, frozen};
use super::metrics::StepMetrics;
use super::objective::{Objective, on_cpu};
use super::pack::{ForwardLimits, Pack, runs};
use super::progress::Progress;
use super::rows::{Example, Pair, Reference, check_reference, sum};
use super::usable::{nothing_left, usable_examples, usable_pairs};
use crate::error::Result;
use crate::model::backprop::{self, Pool};
use crate::model::{Config, Llama};

/// Computes the metrics of a validation: fills in the `eval_` metrics.
pub(super) type Evaluate<'a> = Box<dyn Fn(&Llama, &mut StepMetrics, &mut dyn Progress) -> Result<()> + 'a>;

/// The metric on the held-out rows that decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ValidationMetric {
    /// The training loss without replay; lower is better.
    #[default]
    Loss,
    /// Share of pairs whose chosen reward is above the rejected one; higher is better. DPO only.
    Accuracy,
    /// Mean of chosen reward minus rejected reward; higher is better. DPO only.
    Margin,
}

impl ValidationMetric {
    /// The value in a step's metrics, if the step was measured.
    pub fn value(self, metrics: &StepMetrics) -> Option<f64> {
        match self {
            ValidationMetric::Loss => metrics.eval_loss,
            ValidationMetric::Accuracy => metrics.eval_rewards_accuracies,
            ValidationMetric::Margin => metrics.eval_rewards_margins,
        }
    }

    /// The name in the metrics.
    pub fn column(self) -> &'static str {
        match self {
            ValidationMetric::Loss => "eval_loss",
            ValidationMetric::Accuracy => "eval_rewards/accuracies",
            ValidationMetric::Margin => "eval_rewards/margins",
        }
    }

    fn better(self, new: f64, old: f64) -> bool {
        if self == ValidationMetric::Loss { new < old } else { new > old }
    }
}

/// The weights that a training ends with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum KeepWeights {
    /// The weights of the best measurement, the first of equals.
    #[default]
    Best,
    /// The weights after the last step.
    Last,
}

/// The rows to measure, and when.
#[derive(Clone, PartialEq, Debug)]
pub struct Validation<Row> {
    /// The held-out rows. Pairs carry their reference.
    pub rows: Vec<Row>,
    /// Optimizer steps between measurements; the last step is always measured.
    pub every: usize,
    /// The metric that decides.
    pub measure: ValidationMetric,
    /// Training stops after this many measurements in a row that do not improve on the best one.
    pub patience: Option<usize>,
    /// Which weights are kept.
    pub keep: KeepWeights,
}

/// The settings of a validation without its rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct ValidationRules {
    pub every: usize,
    pub measure: ValidationMetric,
    pub patience: Option<usize>,
    pub keep: KeepWeights,
}

impl<Row> Validation<Row> {
    pub(super) fn rules(&self) -> ValidationRules {
        ValidationRules { every: self.every.max(1), measure: self.measure, patience: self.patience, keep: self.keep }
    }
}

impl ValidationRules {
    /// Index and value of the best measurement.
    pub fn best(&self, metrics: &[StepMetrics]) -> Option<(usize, f64)> {
        let measured = metrics.iter().enumerate().filter_map(|(i, m)| Some((i, self.measure.value(m)?)));
        measured.filter(|(_, v)| v.is_finite()).reduce(
            |best, new| {
                if self.measure.better(new.1, best.1) { new } else { best }
            },
        )
    }

    /// Whether patience has run out.
    pub fn stops(&self, metrics: &[StepMetrics]) -> bool {
        let Some(patience) = self.patience else { return false };
        let after = self.best(metrics).map_or(0, |(i, _)| i + 1);
        metrics[after..].iter().filter(|m| self.measure.value(m).is_some()).count() >= patience
    }
}

impl Validation<Example> {
    /// The rules, and a function that measures the loss on the rows.
    pub(super) fn examples(&self, model: &Config, limits: ForwardLimits) -> Result<(ValidationRules, Evaluate<'_>)> {
        let (usable, problems) = usable_examples(model, &self.rows, None);
        nothing_left("validation rows", &usable, &problems)?;
        let rows: Vec<&Example> = usable.into_iter().map(|i| &self.rows[i]).collect();
        let evaluate = move |llama: &Llama, metrics: &mut StepMetrics, progress: &mut dyn Progress| {
            metrics.eval_loss = Some(mean_loss(llama, &rows, limits, progress)?);
            Ok(())
        };
        Ok((self.rules(), Box::new(evaluate)))
    }
}

impl Validation<Pair> {
    /// The rules, and a function that measures loss and rewards on the pairs.
    pub(super) fn pairs<'a>(
        &'a self,
        model: &Config,
        objective: &'a Objective,
        limits: ForwardLimits,
    ) -> Result<(ValidationRules, Evaluate<'a>)> {
        let (usable, problems) = usable_pairs(model, &self.rows, None);
        nothing_left("validation pairs", &usable, &problems)?;
        let rows: Vec<&Pair> = usable.into_iter().map(|i| &self.rows[i]).collect();
        for pair in &rows {
            check_reference(pair)?;
        }
        let evaluate = move |llama: &Llama, metrics: &mut StepMetrics, progress: &mut dyn Progress| {
            evaluate_pairs(llama, &rows, objective, limits, metrics, progress)
        };
        Ok((self.rules(), Box::new(evaluate)))
    }
}

/// Mean negative log-likelihood of the examples' completion tokens; no gradient is kept.
fn mean_loss(llama: &Llama, examples: &[&Example], limits: ForwardLimits, progress: &mut dyn Progress) -> Result<f64> {
    let view = frozen(llama)?;
    let llama = view.as_ref().unwrap_or(llama);
    let rows: Vec<usize> = examples.iter().map(|e| e.tokens.len() - 1).collect();
    let (mut total, mut learnt, mut pool) = (0., 0, Pool::default());
    for run in runs(&rows, limits.max_rows, limits.max_items) {
        let mut pack = Pack::default();
        examples[run].iter().for_each(|e| pack.example(&e.tokens, e.context));
        progress.forward(pack.rows())?;
        total -= sum(&backprop::log_probs(llama, &pack.packed, &mut pool)?);
        learnt += pack.targets();
    }
    Ok(total / learnt as f64)
}

/// The objective without replay, and the rewards, as a step of DPO has them; no gradient is kept.
fn evaluate_pairs(
    llama: &Llama,
    pairs: &[&Pair],
    objective: &Objective,
    limits: ForwardLimits,
    metrics: &mut StepMetrics,
    progress: &mut dyn Progress,
) -> Result<()> {
    let view = frozen(llama)?;
    let llama = view.as_ref().unwrap_or(llama);
    let rows: Vec<Branches<'_>> =
        pairs.iter().map(|p| Branches { prompt: &p.prompt, completions: vec![&p.chosen, &p.rejected] }).collect();
    let mut tokens = branch_logprobs(llama, &rows, limits, progress)?.into_iter();
    let mut next = || tokens.next().unwrap_or_default();
    let policy: Vec<Reference> = pairs.iter().map(|_| Reference { chosen: next(), rejected: next() }).collect();
    let alpha = objective.ld_alpha;
    let (chosen, rejected): (Vec<f64>, Vec<f64>) = policy.iter().map(|p| p.weighted_sums(alpha)).unzip();
    let reference = pairs.iter().map(|p| Ok(check_reference(p)?.weighted_sums(alpha))).collect::<Result<Vec<_>>>()?;
    let chosen_tokens: usize = pairs.iter().map(|p| p.chosen.len()).sum();
    let scores = objective.scores(on_cpu(chosen.clone())?, on_cpu(rejected.clone())?, &reference, pairs)?;
    let each = (objective.loss.each)(&scores)?.to_vec1::<f64>()?;
    let mean_loss = each.iter().sum::<f64>() / pairs.len() as f64;
    let nll = -policy.iter().map(|p| p.sums().0).sum::<f64>() / chosen_tokens as f64;
    let rewards = objective.rewards(&chosen, &rejected, &reference);
    metrics.eval_loss = Some(mean_loss + objective.nll_weight * nll);
    metrics.eval_rewards_chosen = Some(rewards.chosen);
    metrics.eval_rewards_rejected = Some(rewards.rejected);
    metrics.eval_rewards_margins = Some(rewards.margins);
    metrics.eval_rewards_accuracies = Some(rewards.accuracies);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(losses: &[Option<f64>]) -> Vec<StepMetrics> {
        losses.iter().map(|&eval_loss| StepMetrics { eval_loss, ..StepMetrics::default() }).collect()
    }

    #[test]
    fn the_first_of_equal_measurements_is_best_and_patience_counts_from_it() {
        let rules =
            ValidationRules { every: 2, measure: ValidationMetric::Loss, patience: Some(2), keep: KeepWeights::Best };
        let metrics = measured(&[None, Some(2.), None, Some(1.), None, Some(1.), None, Some(f64::NAN)]);
        assert_eq!(rules.best(&metrics), Some((3, 1.)));
        assert!(!rules.stops(&metrics[..6]) && rules.stops(&metrics));
        assert!(!ValidationRules { patience: None, ..rules }.stops(&metrics));
        assert_eq!(rules.best(&measured(&[None])), None);
        assert!(!rules.stops(&measured(&[None, Some(1.)])));
        // Never a finite measurement: nothing to choose, and no reason to go on.
        assert!(rules.stops(&measured(&[Some(f64::NAN), Some(f64::NAN)])));
        let higher = ValidationRules { measure: ValidationMetric::Margin, ..rules };
        let metrics: Vec<_> =
            [1., 3., 2.].map(|v| StepMetrics { eval_rewards_margins: Some(v), ..StepMetrics::default() }).into();
        assert_eq!(higher.best(&metrics), Some((1, 3.)));
    }
}
