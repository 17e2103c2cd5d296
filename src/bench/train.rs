//! The rate of training steps.

use std::time::Instant;

use serde::Serialize;
use serde_json::{Map, Value};

use super::gemm::{Product, rate};
use super::{flops_per_token, peak_rss_mb, round};
use crate::error::{Error, ErrorContext, Result};
use crate::model::Model;
use crate::train::losses::PairColumns;
use crate::train::{
    AdamWConfig, Decay, Example, ForwardLimits, Objective, Pair, Quiet, Schedule, Scored, StepMetrics, Trainer, Warmup,
    reference,
};

/// The work: steps on batches of rows in their order, repeated when they run out.
pub struct TrainingWorkload {
    /// Prompts with two completions for DPO (chosen, rejected), one or more for SFT, which takes the first.
    pub rows: Vec<Scored>,
    /// Rows of a step.
    pub batch: usize,
    /// Steps.
    pub steps: usize,
    /// Rows (tokens) computed at once.
    pub limits: ForwardLimits,
}

/// The result of a training benchmark.
#[derive(Clone, Debug, Serialize)]
pub struct TrainingReport {
    /// `dpo` or `sft`.
    pub work: &'static str,
    /// Pairs or sequences of a step.
    pub batch: usize,
    /// Steps.
    pub steps: usize,
    /// Pairs a second, the reference's log-probabilities being computed; absent for SFT.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pairs_per_s: Option<f64>,
    /// Pairs a second where they were recorded while sampling; absent for SFT.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pairs_per_s_recorded: Option<f64>,
    /// Tokens a second, counted as TRL does: a pair's prompt twice, though it is computed once.
    pub tokens_per_s: f64,
    /// Median seconds of a step, without the reference.
    pub median_step_s: f64,
    /// Median seconds of a step's reference pass; absent for SFT.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub median_reference_s: Option<f64>,
    /// Most memory this process has held, in MB, measured before the machine's own rate is.
    pub peak_rss_mb: u64,
    /// Threads.
    pub threads: usize,
    /// GFLOP a second of the steps: three times the forward's matrix products over rows that are needed, logits for
    /// completion tokens only.
    pub gflops: f64,
    /// What the gemm crate reaches at this model's shapes with 512 rows.
    pub gemm_gflops: f64,
    /// `gflops / gemm_gflops`.
    pub share_of_gemm: f64,
    /// The first steps, with TRL's names.
    pub log: Vec<Map<String, Value>>,
}

/// DPO as the recipe has it (beta 0.1, learning rate 1e-6, linear decay, no weight decay): TRL's defaults too.
///
/// # Errors
/// A row that is no pair or does not fit the model, or whatever training reports.
pub fn dpo(model: &Model, work: &TrainingWorkload) -> Result<TrainingReport> {
    let pair = |(i, row): (usize, &Scored)| match row.completions.as_slice() {
        [chosen, rejected] => Ok(Pair {
            id: (i + 1).to_string(),
            prompt: row.prompt.clone(),
            chosen: chosen.clone(),
            rejected: rejected.clone(),
            reference: None,
            columns: PairColumns::default(),
        }),
        _ => Err(Error::user(format!("row {} has no chosen and rejected completion", i + 1))),
    };
    let pairs: Vec<Pair> = work.rows.iter().enumerate().map(pair).collect::<Result<_>>()?;
    // Making the optimizer's state is part of the first step, as it is in the peers.
    let began = Instant::now();
    let mut trainer = trainer(model, work)?;
    let mut making = began.elapsed().as_secs_f64();
    let (mut times, mut references) = (Vec::new(), Vec::new());
    let mut metrics = Vec::new();
    let (mut rows, mut targets) = (0, 0);
    // All references are computed before the first step, because training changes the model.
    let mut passes = Vec::new();
    for step in 0..work.steps {
        let places = batch(step, work);
        let mut batch: Vec<Pair> = places.iter().map(|&i| pairs[i].clone()).collect();
        let began = Instant::now();
        reference(&model.llama, &mut batch, work.limits, &mut Quiet)?;
        references.push(began.elapsed().as_secs_f64());
        passes.push(batch);
        rows += places.iter().map(|&i| work.rows[i].rows()).sum::<usize>();
    }
    for batch in &passes {
        let batch: Vec<&Pair> = batch.iter().collect();
        let began = Instant::now();
        metrics.push(trainer.dpo_step(&batch, &[], &Objective::default(), &mut Quiet)?);
        times.push(began.elapsed().as_secs_f64() + std::mem::take(&mut making));
        targets += batch.iter().map(|p| p.chosen.len() + p.rejected.len()).sum::<usize>();
    }
    // The rate is over all steps: rows differ in length, so a median step would stand for some rows only.
    let rate = |seconds: f64| Some(round((work.batch * work.steps) as f64 / seconds, 3));
    let (trained_s, reference_s) = (times.iter().sum::<f64>(), references.iter().sum::<f64>());
    let trained = report("dpo", model, work, &times, rows, targets, &metrics)?;
    Ok(TrainingReport {
        pairs_per_s: rate(trained_s + reference_s),
        pairs_per_s_recorded: rate(trained_s),
        median_reference_s: Some(round(median(&references), 3)),
        ..trained
    })
}

/// SFT on the first completions, the loss on their tokens.
///
/// # Errors
/// As [`dpo`].
pub fn sft(model: &Model, work: &TrainingWorkload) -> Result<TrainingReport> {
    let example = |row: &Scored| Example {
        tokens: [row.prompt.as_slice(), &row.completions[0]].concat(),
        context: row.prompt.len(),
    };
    let examples: Vec<Example> = work.rows.iter().map(example).collect();
    // Making the optimizer's state is part of the first step, as it is in the peers.
    let began = Instant::now();
    let mut trainer = trainer(model, work)?;
    let mut making = began.elapsed().as_secs_f64();
    let (mut times, mut metrics) = (Vec::new(), Vec::new());
    let (mut rows, mut targets) = (0, 0);
    for step in 0..work.steps {
        let batch: Vec<&Example> = batch(step, work).into_iter().map(|i| &examples[i]).collect();
        let began = Instant::now();
        metrics.push(trainer.sft_step(&batch, &mut Quiet)?);
        times.push(began.elapsed().as_secs_f64() + std::mem::take(&mut making));
        rows += batch.iter().map(|e| e.tokens.len() - 1).sum::<usize>();
        targets += batch.iter().map(|e| e.tokens.len() - e.context).sum::<usize>();
    }
    report("sft", model, work, &times, rows, targets, &metrics)
}

fn trainer<'a>(model: &'a Model, work: &TrainingWorkload) -> Result<Trainer<'a>> {
    if work.rows.is_empty() || work.batch == 0 || work.steps == 0 {
        return Err(Error::user("there is nothing to train on"));
    }
    if let Some((i, problem)) =
        work.rows.iter().enumerate().find_map(|(i, r)| Some((i, r.problem(model.llama.config(), None)?)))
    {
        return Err(Error::user(format!("row {}: {problem}", i + 1)).help("drop the row"));
    }
    let schedule =
        Schedule { decay: Decay::Linear, learning_rate: 1e-6, final_learning_rate: 0., warmup: Warmup::Steps(0) };
    let optimizer = AdamWConfig { weight_decay: 0., ..AdamWConfig::default() };
    Trainer::new(&model.llama, optimizer, schedule, work.steps, work.limits)
}

/// The places of a step's rows.
fn batch(step: usize, work: &TrainingWorkload) -> Vec<usize> {
    (step * work.batch..(step + 1) * work.batch).map(|i| i % work.rows.len()).collect()
}

fn median(times: &[f64]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn report(
    kind: &'static str,
    model: &Model,
    work: &TrainingWorkload,
    times: &[f64],
    rows: usize,
    targets: usize,
    metrics: &[StepMetrics],
) -> Result<TrainingReport> {
    let config = model.llama.config();
    let head = 2. * (config.vocab_size * config.hidden_size) as f64;
    let needed = 3. * ((flops_per_token(config) - head) * rows as f64 + head * targets as f64);
    let seconds: f64 = times.iter().sum();
    let (gflops, peak_rss_mb) = (needed / seconds * 1e-9, peak_rss_mb());
    let gemm_gflops = rate(config, 512, Product::Gemm).doing(|| "the matrix products")? * 1e-9;
    let named = |m: &StepMetrics| {
        m.columns().into_iter().filter_map(|(name, value)| Some((name.to_owned(), Value::from(value?)))).collect()
    };
    Ok(TrainingReport {
        work: kind,
        batch: work.batch,
        steps: work.steps,
        pairs_per_s: None,
        pairs_per_s_recorded: None,
        tokens_per_s: round(metrics.last().map_or(0., |m| m.num_tokens) / seconds, 1),
        median_step_s: round(median(times), 3),
        median_reference_s: None,
        peak_rss_mb,
        threads: rayon::current_num_threads(),
        gflops: round(gflops, 1),
        gemm_gflops: round(gemm_gflops, 1),
        share_of_gemm: round(gflops / gemm_gflops, 3),
        log: metrics.iter().take(2).map(named).collect(),
    })
}
