//! Log-probabilities and their gradients: a recorded forward over packed rows, and its backward pass.
//!
//! On the CPU the pass is handwritten (`fused.rs`): a layer stores nothing that is cheap to recompute,
//! gradients are accumulated in place, and each step reuses the memory of the previous one. Other devices
//! use candle's graph. Tests compare the two.

mod composed;
mod cpu_weights;
mod fused;
mod gradients;
mod pool;
mod rows;
#[cfg(test)]
mod tests;

use candle_core::Result;

pub use gradients::{Gradient, Gradients};
pub use pool::Pool;
pub use rows::{ForwardOptions, PackedRows};

use super::nn::llama::Llama;

/// A forward that is ready for its backward pass.
pub struct Recorded<'a> {
    log_probs: Vec<f32>,
    tape: Tape<'a>,
}

enum Tape<'a> {
    Fused(Box<fused::FusedTape<'a>>),
    Composed(composed::ComposedTape<'a>),
}

/// Computes the log-probability of every target. It records nothing and applies no dropout.
///
/// # Errors
/// An id or position is out of range, or candle fails.
pub fn log_probs(llama: &Llama, rows: &PackedRows, pool: &mut Pool) -> Result<Vec<f32>> {
    match cpu_weights::CpuWeights::of(llama) {
        Some(plain) => fused::log_probs(plain, rows, pool),
        None => composed::log_probs(llama, rows),
    }
}

/// Computes the log-probability of every target and records the forward.
///
/// # Errors
/// As [`log_probs`], or the model is frozen.
pub fn record<'a>(
    llama: &'a Llama,
    rows: &'a PackedRows,
    options: ForwardOptions,
    pool: &mut Pool,
) -> Result<Recorded<'a>> {
    if llama.variables().is_empty() {
        candle_core::bail!("a frozen model has no gradients")
    }
    if (options.dropout.rate > 0. || llama.drops()) && rows.keys.len() != rows.ids.len() {
        candle_core::bail!("dropout: {} rows have {} keys", rows.ids.len(), rows.keys.len())
    }
    // The fused pass does not implement dropout within a product.
    let plain = if llama.drops() { None } else { cpu_weights::CpuWeights::of(llama) };
    let (log_probs, tape) = match plain {
        Some(plain) => {
            let (log_probs, tape) = fused::record(plain, rows, options, pool)?;
            (log_probs, Tape::Fused(Box::new(tape)))
        }
        None => {
            let (log_probs, tape) = composed::record(llama, rows, options)?;
            (log_probs, Tape::Composed(tape))
        }
    };
    Ok(Recorded { log_probs, tape })
}

impl Recorded<'_> {
    /// The log-probability of every target.
    pub fn log_probs(&self) -> &[f32] {
        &self.log_probs
    }

    /// Runs the backward pass and adds the gradients of all variables. `slopes` are the derivatives of the
    /// loss with respect to the log-probabilities.
    ///
    /// # Errors
    /// Returns any error of candle.
    pub fn backward(self, slopes: &[f32], gradients: &mut Gradients, pool: &mut Pool) -> Result<()> {
        if slopes.len() != self.log_probs.len() {
            candle_core::bail!("{} derivatives for {} log-probabilities", slopes.len(), self.log_probs.len())
        }
        match self.tape {
            Tape::Fused(tape) => tape.backward(slopes, gradients, pool),
            Tape::Composed(tape) => tape.backward(slopes, gradients),
        }
    }
}
