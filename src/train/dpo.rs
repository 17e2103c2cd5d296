//! Direct preference optimisation: passes over pairs, against a frozen reference.

use super::logprobs::{Branches, branch_logprobs, frozen};
use super::sft::{longest, nothing_left, unknown_token};
use super::trainer::check_whole;
use super::{
    AdamWConfig, Decay, Example, Limits, Objective, Pair, Problem, Progress, Replay, Schedule, Trained, Trainer,
    Warmup, order, usable_examples,
};
use crate::error::{Error, Result};
use crate::model::{Config, Llama};

/// The settings of [`dpo`].
#[derive(Clone, Debug, PartialEq)]
pub struct DpoConfig {
    /// What a step minimises.
    pub objective: Objective,
    /// Rows replayed in each optimizer step; see [`Replay`].
    pub replay_batch: usize,
    /// Passes over the pairs.
    pub epochs: u32,
    /// Pairs of a batch.
    pub batch_size: usize,
    /// Batches whose gradients make one optimizer step.
    pub accumulation: usize,
    /// Learning rate by step.
    pub schedule: Schedule,
    /// The optimizer.
    pub optimizer: AdamWConfig,
    /// Longest prompt and completion together, in tokens; pairs with a longer one are left out, never cut. The model's
    /// own limit if absent.
    pub max_length: Option<usize>,
    /// Rows of a forward; see [`Limits`].
    pub max_rows_per_forward: usize,
    /// Whether every pass has its own order; see [`order`], purpose `train.dpo`.
    pub shuffle: bool,
    /// Key of the orders.
    pub seed: u64,
}

impl Default for DpoConfig {
    /// The paper's settings (beta 0.1, 16 pairs, 1e-6 to 1e-7), one pass, no warm-up.
    fn default() -> Self {
        Self {
            objective: Objective::default(),
            replay_batch: 0,
            epochs: 1,
            batch_size: 16,
            accumulation: 1,
            schedule: Schedule {
                decay: Decay::Cosine,
                learning_rate: 1e-6,
                final_learning_rate: 1e-7,
                warmup: Warmup::Steps(0),
            },
            optimizer: AdamWConfig::default(),
            max_length: None,
            max_rows_per_forward: Limits::default().max_rows,
            shuffle: true,
            seed: 0,
        }
    }
}

/// Which pairs can be trained on, and what is wrong with the others.
pub fn usable_pairs(model: &Config, pairs: &[Pair], max_length: Option<usize>) -> (Vec<usize>, Vec<Problem>) {
    let limit = longest(model, max_length);
    let (mut usable, mut problems) = (Vec::new(), Vec::new());
    for (i, pair) in pairs.iter().enumerate() {
        let length = pair.prompt.len() + pair.chosen.len().max(pair.rejected.len());
        let problem = if pair.prompt.is_empty() {
            Some(("empty_prompt", "the prompt has no token".to_owned()))
        } else if pair.chosen.is_empty() || pair.rejected.is_empty() {
            let which = if pair.chosen.is_empty() { "chosen" } else { "rejected" };
            Some(("empty_completion", format!("the {which} completion has no token")))
        } else if pair.chosen == pair.rejected {
            Some((
                "equal_completions",
                "chosen and rejected are the same tokens; there is nothing to prefer".to_owned(),
            ))
        } else if length > limit {
            let message = format!("prompt and completion have {length} tokens, at most {limit} fit");
            Some(("too_long", format!("{message}; ask for shorter answers or raise max_length")))
        } else if pair.reference.is_some_and(|(c, r)| !c.is_finite() || !r.is_finite()) {
            Some(("bad_reference", "the reference log-probabilities are not finite; compute them anew".to_owned()))
        } else if !pair.margin.is_finite() {
            Some(("bad_margin", "the difference of the scores is no finite number; judge the answers anew".to_owned()))
        } else {
            unknown_token(model, &[&pair.prompt, &pair.chosen, &pair.rejected])
        };
        match problem {
            Some((code, message)) => problems.push(Problem { id: pair.id.clone(), code, message }),
            None => usable.push(i),
        }
    }
    (usable, problems)
}

/// Summed log-probabilities of (chosen, rejected) under `llama`, with no gradient kept.
///
/// # Errors
/// A pair with an empty prompt or completion, one that does not fit the model, or whatever candle reports.
pub fn completion_logprobs(llama: &Llama, pairs: &[Pair]) -> Result<Vec<(f64, f64)>> {
    let pairs: Vec<&Pair> = pairs.iter().collect();
    let view = frozen(llama)?;
    logprobs(view.as_ref().unwrap_or(llama), &pairs, Limits::default(), &mut super::Quiet)
}

fn logprobs(llama: &Llama, pairs: &[&Pair], limits: Limits, progress: &mut dyn Progress) -> Result<Vec<(f64, f64)>> {
    pairs.iter().try_for_each(|p| check_whole(p))?;
    let rows: Vec<Branches<'_>> =
        pairs.iter().map(|p| Branches { prompt: &p.prompt, completions: vec![&p.chosen, &p.rejected] }).collect();
    let sums = branch_logprobs(llama, &rows, limits, progress)?;
    Ok(sums.chunks_exact(2).map(|both| (both[0], both[1])).collect())
}

/// Trains `llama` to prefer the chosen completions, relative to the reference: `reference`, a frozen model, or if there
/// is none the log-probabilities that the pairs carry. A reference model is asked once for each pair, batch by batch.
///
/// # Errors
/// No pair can be used, there is neither a reference model nor a pair's log-probabilities, a loss or gradient is not
/// finite, a variable gets no gradient, or what `progress` returns.
pub fn dpo(
    llama: &Llama,
    reference: Option<&Llama>,
    pairs: &[Pair],
    replay: &[Example],
    config: &DpoConfig,
    progress: &mut dyn Progress,
) -> Result<Trained> {
    let (usable, mut problems) = usable_pairs(llama.config(), pairs, config.max_length);
    nothing_left("pairs", &usable, &problems)?;
    let mut known: Vec<Option<(f64, f64)>> =
        usable.iter().map(|&i| pairs[i].reference.filter(|_| reference.is_none())).collect();
    if reference.is_none()
        && let Some(at) = known.iter().position(Option::is_none)
    {
        let id = &pairs[usable[at]].id;
        let message = format!("pair `{id}` has no reference log-probabilities and no reference model is given");
        return Err(Error::user(message).help("name a reference model, or compute them first"));
    }
    let replaying = config.objective.replay_weight != 0. && config.replay_batch > 0;
    let replay_rows: Vec<&Example> = if replaying {
        let (usable, bad) = usable_examples(llama.config(), replay, config.max_length);
        nothing_left("replay rows", &usable, &bad)?;
        problems.extend(bad.into_iter().map(|p| Problem { id: format!("replay {}", p.id), ..p }));
        usable.into_iter().map(|i| &replay[i]).collect()
    } else {
        Vec::new()
    };
    let mut replay = Replay::new(replay_rows.len(), config.seed);

    let (batch, accumulation) = (config.batch_size.max(1), config.accumulation.max(1));
    let step_size = batch.saturating_mul(accumulation);
    let total = usable.len().div_ceil(step_size) * config.epochs as usize;
    let limits = Limits { max_rows: config.max_rows_per_forward, max_items: batch };
    let mut trainer = Trainer::new(llama, config.optimizer, config.schedule, total, limits)?;
    let mut metrics = Vec::with_capacity(total);
    for pass in 0..config.epochs {
        let places: Vec<usize> = if config.shuffle {
            order(usable.len(), config.seed, "train.dpo", pass)
        } else {
            (0..usable.len()).collect()
        };
        let batches = usable.len().div_ceil(batch);
        for (i, places) in places.chunks(step_size).enumerate() {
            let rows: Vec<&Pair> = places.iter().map(|&p| &pairs[usable[p]]).collect();
            if let Some(model) = reference {
                let unknown: Vec<usize> = places.iter().copied().filter(|&p| known[p].is_none()).collect();
                let rows: Vec<&Pair> = unknown.iter().map(|&p| &pairs[usable[p]]).collect();
                for (p, both) in unknown.into_iter().zip(logprobs(model, &rows, limits, progress)?) {
                    known[p] = Some(both);
                }
            }
            let reference: Vec<(f64, f64)> = places.iter().filter_map(|&p| known[p]).collect();
            let replayed: Vec<&Example> =
                replay.draw(trainer.steps(), config.replay_batch).into_iter().map(|i| replay_rows[i]).collect();
            let mut m = trainer.dpo_step(&rows, &reference, &replayed, &config.objective, progress)?;
            m.epoch = f64::from(pass) + ((i + 1) * accumulation).min(batches) as f64 / batches as f64;
            progress.step(&m, trainer.steps(), total)?;
            metrics.push(m);
        }
    }
    Ok(Trained { metrics, problems })
}
