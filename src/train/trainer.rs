//! [`Trainer`]: one optimizer step at a time.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::{DType, Device, Tensor, Var};
use rand_chacha::rand_core::Rng;

use super::adamw::{AdamW, AdamWConfig};
use super::metrics::StepMetrics;
use super::objective::Objective;
use super::pack::{ForwardLimits, Pack, runs};
use super::progress::Progress;
use super::rows::{Example, Pair, check_reference, sum};
use super::schedule::Schedule;
use crate::data::RngKey;
use crate::error::{Error, Result};
use crate::model::Llama;
use crate::model::backprop::{self, ForwardOptions, Gradients, Pool};

/// A model in training: its optimizer, schedule and position.
pub struct Trainer<'a> {
    llama: &'a Llama,
    adamw: AdamW,
    schedule: Schedule,
    total: usize,
    limits: ForwardLimits,
    num_tokens: u64,
    /// Learning rate of the next step, where the schedule does not give it.
    rate: Option<f64>,
    options: ForwardOptions,
    /// Key of the dropout.
    seed: u64,
    gradients: Gradients,
    pool: Pool,
}

impl<'a> Trainer<'a> {
    /// Prepares to train all of `llama`'s variables for `total` optimizer steps.
    ///
    /// # Errors
    /// The model is frozen, or not f32.
    pub fn new(
        llama: &'a Llama,
        optimizer: AdamWConfig,
        schedule: Schedule,
        total: usize,
        limits: ForwardLimits,
    ) -> Result<Self> {
        if llama.variables().is_empty() {
            return Err(Error::bug("the model to train was loaded frozen"));
        }
        let adamw = AdamW::new(llama.variables(), optimizer)?;
        let (options, gradients, pool) = (ForwardOptions::default(), Gradients::default(), Pool::default());
        Ok(Self { llama, adamw, schedule, total, limits, num_tokens: 0, rate: None, options, seed: 0, gradients, pool })
    }

    /// The same trainer with dropout or checkpointed activations. `seed` is the key of the dropout.
    pub fn recording(self, options: ForwardOptions, seed: u64) -> Self {
        Self { options, seed, ..self }
    }

    /// The dropout key of a step's item. It depends neither on how the step is divided into forwards nor on earlier
    /// steps.
    fn key(&self, kind: &str, item: usize) -> Option<u64> {
        let step = self.steps() as u32;
        let draw = || RngKey::new(self.seed, "train.dropout", step, kind, item as u32).rng().next_u64();
        (self.options.dropout.rate > 0. || self.llama.drops()).then(draw)
    }

    /// Optimizer steps taken.
    pub fn steps(&self) -> usize {
        self.adamw.steps() as usize
    }
    /// Optimizer steps planned.
    pub fn total(&self) -> usize {
        self.total
    }
    /// Tokens seen.
    pub fn num_tokens(&self) -> u64 {
        self.num_tokens
    }
    /// The optimizer's moments, for a checkpoint; see [`AdamW::moments`]. Together with the weights,
    /// [`Trainer::steps`] and [`Trainer::num_tokens`], they are the complete state.
    pub fn moments(&self) -> BTreeMap<String, Tensor> {
        self.adamw.moments()
    }
    /// Sets the learning rate of the next step, instead of the schedule's.
    pub fn next_rate(&mut self, rate: f64) {
        self.rate = Some(rate);
    }
    /// Continues from a checkpoint whose weights are already in the model.
    ///
    /// # Errors
    /// The moments do not fit the model.
    pub fn restore(&mut self, moments: &BTreeMap<String, Tensor>, steps: usize, num_tokens: u64) -> Result<()> {
        self.adamw.restore(moments, steps as u32)?;
        self.num_tokens = num_tokens;
        Ok(())
    }

    /// Takes a step of SFT. The loss is the mean over all completion tokens of `examples`, in any number of forwards.
    ///
    /// # Errors
    /// An example without a token to learn ([`usable_examples`](super::usable_examples) finds them), a loss or
    /// gradient that is not finite (the weights are then those before the step), a variable without gradient, or what
    /// `progress` returns.
    pub fn sft_step(&mut self, examples: &[&Example], progress: &mut dyn Progress) -> Result<StepMetrics> {
        if examples.is_empty() {
            return Err(Error::bug("an SFT step without examples"));
        }
        self.gradients.clear(&mut self.pool);
        let loss = self.sft_loss(examples, 1., progress)?;
        let mut metrics = StepMetrics { loss, ..StepMetrics::default() };
        self.apply(&mut metrics, || format!("{} sequences", examples.len()))?;
        Ok(metrics)
    }

    /// Adds the gradients of `weight x mean token loss`, and returns that mean.
    fn sft_loss(&mut self, examples: &[&Example], weight: f64, progress: &mut dyn Progress) -> Result<f64> {
        if let Some(e) = examples.iter().find(|e| e.tokens.len() <= e.context.max(1)) {
            let (n, context) = (e.tokens.len(), e.context);
            return Err(Error::user(format!(
                "an example of {n} tokens, {context} of them context, has nothing to learn"
            )));
        }
        let learnt: usize = examples.iter().map(|e| e.tokens.len() - e.context.max(1)).sum();
        let rows: Vec<usize> = examples.iter().map(|e| e.tokens.len() - 1).collect();
        let mut total = 0.;
        for run in runs(&rows, self.limits.max_rows, self.limits.max_items) {
            let mut pack = Pack::default();
            for item in run {
                pack.draw_by(self.key("sft", item));
                pack.example(&examples[item].tokens, examples[item].context);
            }
            progress.forward(pack.rows())?;
            let recorded = backprop::record(self.llama, &pack.packed, self.options, &mut self.pool)?;
            let value = -sum(recorded.log_probs()) / learnt as f64;
            if !value.is_finite() {
                return Err(self.not_finite("loss", value, &format!("{} sequences", pack.completions.len())));
            }
            total += value;
            let slopes = vec![(-weight / learnt as f64) as f32; pack.targets()];
            recorded.backward(&slopes, &mut self.gradients, &mut self.pool)?;
        }
        self.num_tokens += examples.iter().map(|e| e.tokens.len() as u64).sum::<u64>();
        Ok(total)
    }

    /// Takes a step of DPO on pairs that have their reference.
    ///
    /// # Errors
    /// A pair with an empty prompt or completion ([`usable_pairs`](super::usable_pairs) finds them) or without its
    /// reference ([`reference`](super::reference()) computes it), and as [`Trainer::sft_step`]; a loss that is not
    /// finite names its pairs.
    pub fn dpo_step(
        &mut self,
        pairs: &[&Pair],
        replay: &[&Example],
        objective: &Objective,
        progress: &mut dyn Progress,
    ) -> Result<StepMetrics> {
        if pairs.is_empty() {
            return Err(Error::bug("a DPO step without pairs"));
        }
        pairs.iter().try_for_each(|p| check_whole(p))?;
        let reference: Vec<(f64, f64)> =
            pairs.iter().map(|p| Ok(check_reference(p)?.weighted_sums(objective.ld_alpha))).collect::<Result<_>>()?;
        self.gradients.clear(&mut self.pool);
        let rows: Vec<usize> = pairs.iter().map(|p| pair_rows(p)).collect();
        let mut sums = StepSums::default();
        for run in runs(&rows, self.limits.max_rows, self.limits.max_items) {
            self.preference_loss(pairs, run, &reference, objective, &mut sums, progress)?;
        }
        let tokens = |p: &&Pair| (2 * p.prompt.len() + p.chosen.len() + p.rejected.len()) as u64;
        self.num_tokens += pairs.iter().map(tokens).sum::<u64>();

        let rewards = objective.rewards(&sums.chosen, &sums.rejected, &reference);
        let mean = |values: &[f64]| Some(values.iter().sum::<f64>() / pairs.len() as f64);
        let mut metrics = StepMetrics {
            loss: sums.loss,
            rewards_chosen: Some(rewards.chosen),
            rewards_rejected: Some(rewards.rejected),
            rewards_margins: Some(rewards.margins),
            rewards_accuracies: Some(rewards.accuracies),
            logps_chosen: mean(&sums.chosen),
            logps_rejected: mean(&sums.rejected),
            nll_loss: (objective.nll_weight != 0.).then_some(sums.nll),
            ..StepMetrics::default()
        };
        if objective.replay_weight != 0. && !replay.is_empty() {
            let replayed = self.sft_loss(replay, objective.replay_weight, progress)?;
            metrics.loss += objective.replay_weight * replayed;
            metrics.replay_loss = Some(replayed);
        }
        let ids = || quoted_list(&pairs.iter().map(|p| p.id.as_str()).collect::<Vec<_>>());
        self.apply(&mut metrics, ids)?;
        Ok(metrics)
    }

    /// Runs one forward of a DPO step, over the pairs `run` of the step, and adds its gradients and its part of the
    /// loss.
    fn preference_loss(
        &mut self,
        pairs: &[&Pair],
        run: Range<usize>,
        reference: &[(f64, f64)],
        objective: &Objective,
        step: &mut StepSums,
        progress: &mut dyn Progress,
    ) -> Result<()> {
        let (pairs_here, reference) = (&pairs[run.clone()], &reference[run.clone()]);
        let mut pack = Pack::default();
        for (item, p) in run.zip(pairs_here) {
            pack.draw_by(self.key("dpo", item));
            pack.branches(&p.prompt, &[&p.chosen, &p.rejected]);
        }
        progress.forward(pack.rows())?;
        let recorded = backprop::record(self.llama, &pack.packed, self.options, &mut self.pool)?;
        // Sums over hundreds of tokens and differences of such sums keep their digits in f64.
        let log_probs: Vec<f64> = recorded.log_probs().iter().map(|&l| l.into()).collect();
        let log_probs = Var::from_vec(log_probs, pack.targets(), &Device::Cpu)?;
        let plain = pack.sums(&log_probs)?.reshape((pairs_here.len(), 2))?;
        let sums = match objective.ld_alpha {
            None => plain.clone(),
            Some(alpha) => {
                let weights = Tensor::new(ld_weights(pairs_here, alpha), log_probs.device())?;
                pack.sums(&(log_probs.as_tensor() * weights)?)?.reshape((pairs_here.len(), 2))?
            }
        };
        let (chosen, rejected) = (sums.narrow(1, 0, 1)?.squeeze(1)?, sums.narrow(1, 1, 1)?.squeeze(1)?);
        let scores = objective.scores(chosen, rejected, reference, pairs_here)?;
        let each = (objective.loss.each)(&scores)?;
        let bad: Vec<_> = pairs_here.iter().zip(each.to_vec1::<f64>()?).filter(|(_, l)| !l.is_finite()).collect();
        if let Some((_, value)) = bad.first() {
            let ids: Vec<_> = bad.iter().map(|(p, _)| p.id.as_str()).collect();
            return Err(self.not_finite("loss", *value, &quoted_list(&ids)));
        }
        let mut part = (each.sum_all()? / pairs.len() as f64)?;
        if objective.nll_weight != 0. {
            let chosen_tokens: usize = pairs.iter().map(|p| p.chosen.len()).sum();
            let here = (plain.narrow(1, 0, 1)?.sum_all()? / -(chosen_tokens as f64))?;
            step.nll += here.to_scalar::<f64>()?;
            part = (part + (here * objective.nll_weight)?)?;
        }
        step.loss += part.to_scalar::<f64>()?;
        step.chosen.extend(scores.chosen.to_vec1::<f64>()?);
        step.rejected.extend(scores.rejected.to_vec1::<f64>()?);
        let slopes = part.backward()?.remove(&log_probs);
        let slopes = slopes.ok_or_else(|| Error::bug(format!("loss {} has no gradient", objective.loss.name)))?;
        let slopes: Vec<f32> = slopes.to_dtype(DType::F32)?.to_vec1()?;
        Ok(recorded.backward(&slopes, &mut self.gradients, &mut self.pool)?)
    }

    /// Takes the optimizer step and fills in its metrics.
    fn apply(&mut self, metrics: &mut StepMetrics, rows: impl Fn() -> String) -> Result<()> {
        if self.steps() == 0 {
            let cut = |name: &&String| self.gradients.get(name).is_none();
            let without: Vec<_> = self.llama.variables().keys().filter(cut).map(String::as_str).collect();
            if !without.is_empty() {
                let message =
                    format!("no gradient reaches {}; training would leave them as they are", quoted_list(&without));
                return Err(Error::bug(message));
            }
        }
        metrics.learning_rate = self.rate.take().unwrap_or_else(|| self.schedule.at(self.steps(), self.total));
        metrics.grad_norm = self.adamw.step(&self.gradients, metrics.learning_rate)?;
        if !metrics.grad_norm.is_finite() {
            return Err(self.not_finite("gradient norm", metrics.grad_norm, &rows()));
        }
        self.gradients.clear(&mut self.pool);
        metrics.step = self.steps() as u32;
        metrics.num_tokens = self.num_tokens as f64;
        Ok(())
    }

    fn not_finite(&self, what: &str, value: f64, rows: &str) -> Error {
        let step = self.steps() + 1;
        Error::user(format!("the {what} is {value} at training step {step}, from {rows}; the weights are as before it"))
            .help("lower learning_rate or max_grad_norm, or take these rows out of the dataset")
    }
}

/// Sums over the forwards of a DPO step.
#[derive(Default)]
struct StepSums {
    /// Summed log-probability of each pair's chosen completion.
    chosen: Vec<f64>,
    /// Of each pair's rejected completion.
    rejected: Vec<f64>,
    loss: f64,
    nll: f64,
}

/// Returns an error if a part of the pair has no token.
fn check_whole(pair: &Pair) -> Result<()> {
    if pair.prompt.is_empty() || pair.chosen.is_empty() || pair.rejected.is_empty() {
        return Err(Error::user(format!("pair `{}` has an empty prompt or completion", pair.id)));
    }
    Ok(())
}

/// The weight of each completion token of the pairs, in the order in which they are packed: 1 up to the length of the
/// pair's shorter completion, `alpha` beyond.
fn ld_weights(pairs: &[&Pair], alpha: f64) -> Vec<f64> {
    let of_pair = |p: &&Pair| {
        let shared = p.chosen.len().min(p.rejected.len());
        [p.chosen.len(), p.rejected.len()].map(|n| (0..n).map(move |i| if i < shared { 1. } else { alpha }))
    };
    pairs.iter().flat_map(of_pair).flatten().collect()
}

/// Number of rows of a pair: its prompt once, and the completions without their last tokens.
fn pair_rows(pair: &Pair) -> usize {
    pair.prompt.len() + pair.chosen.len() + pair.rejected.len() - 2
}

/// The first eight names in backticks, and the number of the others.
fn quoted_list(names: &[&str]) -> String {
    let first = names.iter().take(8).map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
    if names.len() > 8 { format!("{first} and {} more", names.len() - 8) } else { first }
}
