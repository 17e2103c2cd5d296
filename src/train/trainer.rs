//! [`Trainer`]: one optimizer step at a time.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};

use super::adamw::{AdamW, AdamWConfig};
use super::losses::{self, Loss, LossParams, Scores};
use super::pack::{Pack, runs};
use super::reference::Reference;
use super::reference::sum;
use super::schedule::Schedule;
use super::{Example, Pair, Progress, StepMetrics};
use rand_chacha::rand_core::Rng;

use crate::data::RngKey;
use crate::error::{Error, Result};
use crate::model::Llama;
use crate::model::backprop::{self, Gradients, Options, Pool};

/// How much one forward may hold. Activation memory grows with it; results do not depend on it but for float order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Rows (tokens) of a forward. A sequence or pair that alone has more still gets its own forward.
    pub max_rows: usize,
    /// Sequences or pairs of a forward.
    pub max_items: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_rows: 2048, max_items: usize::MAX }
    }
}

/// What a DPO step minimises: `mean loss of the pairs + nll_weight x NLL of chosen + replay_weight x SFT loss of replay`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Objective {
    /// The preference loss.
    pub loss: &'static Loss,
    /// What it is tuned by.
    pub knobs: LossParams,
    /// Weight of the NLL of the chosen completions: the mean over their tokens in the batch, which is TRL's `sft` loss
    /// and was its `rpo_alpha` (IRPO, arXiv 2404.19733, divides by each completion's length first).
    pub nll_weight: f64,
    /// Weight of the SFT loss of the replayed rows.
    pub replay_weight: f64,
    /// LD-DPO (arXiv 2409.06411 eq. 9; TRL's `ld_alpha`), for any loss: in the log-probabilities of policy and reference,
    /// tokens beyond the length of the shorter completion count by this much. The NLL of chosen counts every token.
    pub ld_alpha: Option<f64>,
}

impl Default for Objective {
    fn default() -> Self {
        Self {
            loss: &losses::LOSSES[0],
            knobs: LossParams::default(),
            nll_weight: 0.,
            replay_weight: 0.,
            ld_alpha: None,
        }
    }
}

/// A model in training: its optimizer, schedule and position.
pub struct Trainer<'a> {
    llama: &'a Llama,
    adamw: AdamW,
    schedule: Schedule,
    total: usize,
    limits: Limits,
    num_tokens: u64,
    /// Learning rate of the next step, where the schedule does not give it.
    rate: Option<f64>,
    options: Options,
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
        limits: Limits,
    ) -> Result<Self> {
        if llama.variables().is_empty() {
            return Err(Error::bug("the model to train was loaded frozen"));
        }
        let adamw = AdamW::new(llama.variables(), optimizer)?;
        let (options, gradients, pool) = (Options::default(), Gradients::default(), Pool::default());
        Ok(Self { llama, adamw, schedule, total, limits, num_tokens: 0, rate: None, options, seed: 0, gradients, pool })
    }

    /// The same with dropout or checkpointed activations; `seed` is the key of the dropout.
    pub fn recording(self, options: Options, seed: u64) -> Self {
        Self { options, seed, ..self }
    }

    /// What the rows of a step's item draw their dropout by: neither how the step is cut into forwards nor what came
    /// before it matters.
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
    /// The optimizer's moments, for a checkpoint; see [`AdamW::moments`]. With the weights, [`Trainer::steps`] and
    /// [`Trainer::num_tokens`] they are all the state there is.
    pub fn moments(&self) -> BTreeMap<String, Tensor> {
        self.adamw.moments()
    }
    /// Gives the next step another learning rate than the schedule's.
    pub fn next_rate(&mut self, rate: f64) {
        self.rate = Some(rate);
    }
    /// Continues from a checkpoint whose weights the model has already.
    ///
    /// # Errors
    /// The moments are not those of this model.
    pub fn restore(&mut self, moments: &BTreeMap<String, Tensor>, steps: usize, num_tokens: u64) -> Result<()> {
        self.adamw.restore(moments, steps as u32)?;
        self.num_tokens = num_tokens;
        Ok(())
    }

    /// One step of SFT: the loss is the mean over all completion tokens of `examples`, however many forwards they take.
    ///
    /// # Errors
    /// An example without a token to learn ([`usable_examples`](super::sft::usable_examples) finds them), a loss or gradient that is not finite (the weights are then those before the step), a variable without gradient,
    /// or what `progress` returns.
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

    /// One step of DPO on pairs that carry their reference.
    ///
    /// # Errors
    /// A pair with an empty prompt or completion ([`usable_pairs`](super::dpo::usable_pairs) finds them) or without its
    /// reference ([`reference`](super::reference()) computes it), and as [`Trainer::sft_step`]; a loss that is not finite names its pairs.
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
        let chosen_tokens: usize = pairs.iter().map(|p| p.chosen.len()).sum();
        let rows: Vec<usize> = pairs.iter().map(|p| pair_rows(p)).collect();
        let (mut chosen, mut rejected, mut loss, mut nll) = (Vec::new(), Vec::new(), 0., 0.);
        for run in runs(&rows, self.limits.max_rows, self.limits.max_items) {
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
            let column = |values: Vec<f64>| Tensor::new(values, sums.device());
            let scores = Scores {
                chosen: sums.narrow(1, 0, 1)?.squeeze(1)?,
                rejected: sums.narrow(1, 1, 1)?.squeeze(1)?,
                ref_chosen: column(reference.iter().map(|r| r.0).collect())?,
                ref_rejected: column(reference.iter().map(|r| r.1).collect())?,
                chosen_tokens: column(pairs_here.iter().map(|p| p.chosen.len() as f64).collect())?,
                rejected_tokens: column(pairs_here.iter().map(|p| p.rejected.len() as f64).collect())?,
                margin: column(pairs_here.iter().map(|p| p.margin).collect())?,
                consistency: column(pairs_here.iter().map(|p| p.consistency).collect())?,
                knobs: objective.knobs,
            };
            let each = (objective.loss.each)(&scores)?;
            let bad: Vec<_> = pairs_here.iter().zip(each.to_vec1::<f64>()?).filter(|(_, l)| !l.is_finite()).collect();
            if let Some((_, value)) = bad.first() {
                let ids: Vec<_> = bad.iter().map(|(p, _)| p.id.as_str()).collect();
                return Err(self.not_finite("loss", *value, &named(&ids)));
            }
            let mut part = (each.sum_all()? / pairs.len() as f64)?;
            if objective.nll_weight != 0. {
                let here = (plain.narrow(1, 0, 1)?.sum_all()? / -(chosen_tokens as f64))?;
                nll += here.to_scalar::<f64>()?;
                part = (part + (here * objective.nll_weight)?)?;
            }
            loss += part.to_scalar::<f64>()?;
            chosen.extend(scores.chosen.to_vec1::<f64>()?);
            rejected.extend(scores.rejected.to_vec1::<f64>()?);
            let slopes = part.backward()?.remove(&log_probs);
            let slopes = slopes.ok_or_else(|| Error::bug(format!("loss {} has no gradient", objective.loss.name)))?;
            let slopes: Vec<f32> = slopes.to_dtype(DType::F32)?.to_vec1()?;
            recorded.backward(&slopes, &mut self.gradients, &mut self.pool)?;
        }
        let tokens = |p: &&Pair| (2 * p.prompt.len() + p.chosen.len() + p.rejected.len()) as u64;
        self.num_tokens += pairs.iter().map(tokens).sum::<u64>();

        let mean = |values: &mut dyn Iterator<Item = f64>| Some(values.sum::<f64>() / pairs.len() as f64);
        let beta = objective.knobs.beta;
        let rewards: Vec<(f64, f64)> = (0..pairs.len())
            .map(|i| (beta * (chosen[i] - reference[i].0), beta * (rejected[i] - reference[i].1)))
            .collect();
        let mut metrics = StepMetrics {
            loss,
            rewards_chosen: mean(&mut rewards.iter().map(|r| r.0)),
            rewards_rejected: mean(&mut rewards.iter().map(|r| r.1)),
            rewards_margins: mean(&mut rewards.iter().map(|r| r.0 - r.1)),
            rewards_accuracies: mean(&mut rewards.iter().map(|r| f64::from(u8::from(r.0 > r.1)))),
            logps_chosen: mean(&mut chosen.iter().copied()),
            logps_rejected: mean(&mut rejected.iter().copied()),
            nll_loss: (objective.nll_weight != 0.).then_some(nll),
            ..StepMetrics::default()
        };
        if objective.replay_weight != 0. && !replay.is_empty() {
            let replayed = self.sft_loss(replay, objective.replay_weight, progress)?;
            metrics.loss += objective.replay_weight * replayed;
            metrics.replay_loss = Some(replayed);
        }
        let ids = || named(&pairs.iter().map(|p| p.id.as_str()).collect::<Vec<_>>());
        self.apply(&mut metrics, ids)?;
        Ok(metrics)
    }

    /// Takes the optimizer step and fills in what it knows.
    fn apply(&mut self, metrics: &mut StepMetrics, rows: impl Fn() -> String) -> Result<()> {
        if self.steps() == 0 {
            let cut = |name: &&String| self.gradients.get(name).is_none();
            let without: Vec<_> = self.llama.variables().keys().filter(cut).map(String::as_str).collect();
            if !without.is_empty() {
                let message = format!("no gradient reaches {}; training would leave them as they are", named(&without));
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

/// An error if a part of the pair has no token.
fn check_whole(pair: &Pair) -> Result<()> {
    if pair.prompt.is_empty() || pair.chosen.is_empty() || pair.rejected.is_empty() {
        return Err(Error::user(format!("pair `{}` has an empty prompt or completion", pair.id)));
    }
    Ok(())
}

/// The pair's reference; an error if it has none.
pub(super) fn check_reference(pair: &Pair) -> Result<&Reference> {
    pair.reference.as_ref().ok_or_else(|| {
        Error::user(format!("pair `{}` has no log-probabilities under the reference", pair.id))
            .help("compute them before training, with the model that is the reference")
    })
}

/// What each completion token of the pairs counts, in the order in which they are packed: 1 up to the length of the
/// pair's shorter completion, `alpha` beyond.
fn ld_weights(pairs: &[&Pair], alpha: f64) -> Vec<f64> {
    let of_pair = |p: &&Pair| {
        let shared = p.chosen.len().min(p.rejected.len());
        [p.chosen.len(), p.rejected.len()].map(|n| (0..n).map(move |i| if i < shared { 1. } else { alpha }))
    };
    pairs.iter().flat_map(of_pair).flatten().collect()
}

/// Rows that a pair takes: its prompt once, and no last tokens.
fn pair_rows(pair: &Pair) -> usize {
    pair.prompt.len() + pair.chosen.len() + pair.rejected.len() - 2
}

/// Up to eight names, and how many more there are.
fn named(names: &[&str]) -> String {
    let shown = names.iter().take(8).map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
    if names.len() > 8 { format!("{shown} and {} more", names.len() - 8) } else { shown }
}
