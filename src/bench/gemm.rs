//! The rate of a model's matrix products, without the model.

use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use serde::Serialize;

use super::round;
use crate::error::{ErrorContext, Result};
use crate::model::{Config, ops};

/// Bytes of weights to multiply in turn: more than any cache holds.
const BYTES: usize = 256 << 20;

/// Outputs of a part of the output matrix.
const PART: usize = 4096;

/// The implementation of the matrix product.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Product {
    /// The gemm crate, as candle calls it.
    Gemm,
    /// Weights laid out for inference.
    PackedWeight,
}

/// Rates for one number of rows, in GFLOP a second.
#[derive(Clone, Debug, Serialize)]
pub struct Gemm {
    /// Rows of each product.
    pub rows: usize,
    /// Threads.
    pub threads: usize,
    /// The gemm crate's rate over a whole model: its layers and its output matrix, each as often as it occurs.
    pub gemm_gflops: f64,
    /// The rate of [`ops::PackedWeight`], which the engine uses on the CPU.
    pub panels_gflops: f64,
    /// Tokens a second that the gemm crate's rate would allow.
    pub gemm_tok_per_s: f64,
}

/// Multiplications and additions of one token through the model's matrices.
pub fn flops_per_token(config: &Config) -> f64 {
    let shapes = matrices(config).into_iter().map(|(out, width)| (out * width) as f64);
    2. * (shapes.sum::<f64>() * config.num_hidden_layers as f64 + (config.vocab_size * config.hidden_size) as f64)
}

/// The shapes `(out, in)` of one layer.
fn matrices(config: &Config) -> Vec<(usize, usize)> {
    let one_layer = Config { num_hidden_layers: 1, tie_word_embeddings: true, ..config.clone() };
    let shapes = one_layer.weights().into_iter().skip(1).map(|(_, shape)| shape);
    shapes.filter_map(|shape| <[usize; 2]>::try_from(shape).ok()).map(|[out, width]| (out, width)).collect()
}

/// Measures at the model's shapes with random numbers, on the CPU.
///
/// # Errors
/// Whatever candle reports.
pub fn gemm(config: &Config, rows: usize) -> Result<Gemm> {
    let rate = |product| rate(config, rows, product).doing(|| "the matrix products");
    let (gemm, panels) = (rate(Product::Gemm)?, rate(Product::PackedWeight)?);
    Ok(Gemm {
        rows,
        threads: rayon::current_num_threads(),
        gemm_gflops: round(gemm * 1e-9, 1),
        panels_gflops: round(panels * 1e-9, 1),
        gemm_tok_per_s: round(gemm / flops_per_token(config), 1),
    })
}

/// FLOP a second, the best of several rounds, because the figure is what the machine can do.
pub fn rate(config: &Config, rows: usize, product: Product) -> candle_core::Result<f64> {
    let random = |shape: (usize, usize)| Tensor::rand(-1f32, 1., shape, &Device::Cpu);
    let shapes = matrices(config);
    let bytes: usize = shapes.iter().map(|(out, width)| 4 * out * width).sum();
    let layers = (BYTES / bytes.max(1)).clamp(1, config.num_hidden_layers);
    let repeated = std::iter::repeat_n(shapes, layers).flatten();
    let inner = repeated.map(|s| BenchWeight::new(&random(s)?, product)).collect::<candle_core::Result<Vec<_>>>()?;
    // In parts: one result for the whole vocabulary would be so large that the system's zeroing of its pages is
    // measured too.
    let parts = (0..config.vocab_size).step_by(PART).map(|start| PART.min(config.vocab_size - start));
    let head = parts.map(|out| BenchWeight::new(&random((out, config.hidden_size))?, product));
    let head = head.collect::<candle_core::Result<Vec<_>>>()?;
    let all = [config.hidden_size, config.intermediate_size, config.num_attention_heads * config.head_dim()];
    let inputs = all.map(|width| random((rows, width)));
    let [hidden, mlp, attention] = inputs;
    let inputs = [hidden?, mlp?, attention?];
    let time = |weights: &[BenchWeight]| -> candle_core::Result<Duration> {
        let mut best = Duration::MAX;
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(800) {
            let round = Instant::now();
            weights.iter().try_for_each(|w| w.multiply(&inputs).map(drop))?;
            best = best.min(round.elapsed());
        }
        Ok(best)
    };
    let seconds =
        time(&inner)?.as_secs_f64() * config.num_hidden_layers as f64 / layers as f64 + time(&head)?.as_secs_f64();
    Ok(rows as f64 * flops_per_token(config) / seconds)
}

enum BenchWeight {
    Gemm(Tensor),
    PackedWeight(ops::PackedWeight, usize),
}

impl BenchWeight {
    fn new(w: &Tensor, product: Product) -> candle_core::Result<Self> {
        Ok(match product {
            Product::Gemm => BenchWeight::Gemm(w.clone()),
            Product::PackedWeight => BenchWeight::PackedWeight(ops::PackedWeight::new(w)?, w.dim(1)?),
        })
    }
    fn multiply(&self, inputs: &[Tensor]) -> candle_core::Result<Tensor> {
        let of = |width: usize| {
            let fits = inputs.iter().find(|x| x.dim(1).is_ok_and(|w| w == width));
            fits.ok_or_else(|| candle_core::Error::msg("a matrix of the layer has an input that is not the model's"))
        };
        match self {
            BenchWeight::Gemm(w) => ops::composed::linear(of(w.dim(1)?)?, w),
            BenchWeight::PackedWeight(w, width) => w.product(of(*width)?),
        }
    }
}
