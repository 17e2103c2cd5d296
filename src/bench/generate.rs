//! The rate of sampling many answers.

use std::time::Instant;

use serde::Serialize;

use super::gemm::{Product, rate};
use super::{flops_per_token, peak_rss_mb, round};
use crate::cancel::CancelFlag;
use crate::data::RngKey;
use crate::engine::{BatchedEngine, Engine, EngineConfig, Message, Request, Sampling};
use crate::error::{Error, ErrorContext, Result};
use crate::model::Model;

/// The work: `samples` answers to every prompt, each of exactly `new_tokens` tokens.
pub struct GenerationWorkload {
    /// Texts of users' turns.
    pub prompts: Vec<String>,
    /// Answers of each.
    pub samples: u32,
    /// Tokens of each answer; end tokens are not drawn before.
    pub new_tokens: usize,
    /// Key of the draws.
    pub seed: u64,
}

/// The result of a generation benchmark.
#[derive(Clone, Debug, Serialize)]
pub struct GenerationReport {
    /// Prompts.
    pub prompts: usize,
    /// Answers of each.
    pub samples: u32,
    /// Tokens of each answer.
    pub new_tokens: usize,
    /// Tokens of the prompts, each prompt counted once.
    pub prompt_tokens: u64,
    /// Share of the prompts' tokens, each counted for each answer, that were not computed again.
    pub prefix_hit_rate: f64,
    /// Seconds of the steps in proportion to their prompt rows. Prompts are computed beside the decoding of others.
    pub prefill_s: f64,
    /// New tokens a second of `wall_s`.
    pub tok_per_s: f64,
    /// Seconds from the first request to the last answer, the model being loaded.
    pub wall_s: f64,
    /// Passes through the model.
    pub steps: u64,
    /// Most memory this process has held, in MB, measured before the machine's own rate is.
    pub peak_rss_mb: u64,
    /// Threads.
    pub threads: usize,
    /// GFLOP a second of the new tokens' matrix products alone; prompts are not counted.
    pub gflops: f64,
    /// What the gemm crate reaches at this model's shapes with 128 rows.
    pub gemm_gflops: f64,
    /// `gflops / gemm_gflops`.
    pub share_of_gemm: f64,
}

/// Runs the workload on the model and measures the machine afterwards.
///
/// # Errors
/// The model cannot be run, a prompt cannot be answered, or `cancel` was set.
pub fn generate(
    model: Model,
    config: EngineConfig,
    work: &GenerationWorkload,
    cancel: &CancelFlag,
) -> Result<GenerationReport> {
    let shape = model.llama.config().clone();
    let threads = config.pool.as_ref().map_or_else(rayon::current_num_threads, |p| p.current_num_threads());
    let engine = BatchedEngine::spawn(model, config)?;
    let sampling = Sampling {
        temperature: 0.7,
        top_p: 0.9,
        max_tokens: work.new_tokens,
        min_tokens: work.new_tokens,
        ..Sampling::default()
    };
    let request = |(i, prompt): (usize, &String)| {
        let messages = vec![Message::new("user", prompt.clone())];
        let (sampling, seed) = (sampling.clone(), work.seed);
        (0..work.samples).map(move |sample| Request {
            messages: messages.clone(),
            sampling: sampling.clone(),
            key: RngKey::new(seed, "bench", 0, &i.to_string(), sample),
        })
    };
    let requests: Vec<Request> = work.prompts.iter().enumerate().flat_map(request).collect();
    let began = Instant::now();
    let answers = engine.generate(requests, cancel)?;
    let wall = began.elapsed().as_secs_f64();
    let mut prompt_tokens = 0;
    for (i, answer) in answers.into_iter().enumerate() {
        let prompt = i / work.samples as usize;
        let answer = answer.map_err(|e| Error::user(format!("prompt {}: {}", prompt + 1, e.message)))?;
        if answer.tokens.len() < work.new_tokens {
            let said = format!("prompt {} leaves room for {} tokens only", prompt + 1, answer.tokens.len());
            return Err(Error::user(said).help("lower --new-tokens, or drop the prompt"));
        }
        if i % work.samples as usize == 0 {
            prompt_tokens += answer.prompt_tokens.len() as u64;
        }
    }
    let (stats, peak_rss_mb) = (engine.stats(), peak_rss_mb());
    drop(engine);
    let tokens = (work.prompts.len() * work.samples as usize * work.new_tokens) as f64;
    let gflops = tokens * flops_per_token(&shape) / wall * 1e-9;
    let gemm_gflops = rate(&shape, 128, Product::Gemm).doing(|| "the matrix products")? * 1e-9;
    Ok(GenerationReport {
        prompts: work.prompts.len(),
        samples: work.samples,
        new_tokens: work.new_tokens,
        prompt_tokens,
        prefix_hit_rate: round(stats.hit_rate(), 4),
        prefill_s: round(stats.prefill_seconds, 2),
        tok_per_s: round(tokens / wall, 1),
        wall_s: round(wall, 2),
        steps: stats.steps,
        peak_rss_mb,
        threads,
        gflops: round(gflops, 1),
        gemm_gflops: round(gemm_gflops, 1),
        share_of_gemm: round(gflops / gemm_gflops, 3),
    })
}
