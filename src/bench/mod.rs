//! Speed of this machine and of reflux on it, as `reflux bench` prints it, to compare machines and tools.
//!
//! Every figure that depends on the model comes with the rate of the machine's matrix products alone, which bounds any
//! engine.

mod gemm;
mod generate;
mod train;

pub use crate::engine::memory;
pub use gemm::{Gemm, Product, flops_per_token, gemm, rate};
pub use generate::{GenerationReport, GenerationWorkload, generate};
pub use train::{TrainingReport, TrainingWorkload, dpo, sft};

/// The peak memory of this process, in bytes. 0 if the system does not report it.
pub fn peak_rss() -> u64 {
    memory("/proc/self/status", "VmHWM:").unwrap_or(0)
}

/// The same in MB (10^6 bytes).
pub fn peak_rss_mb() -> u64 {
    peak_rss() / 1_000_000
}

fn round(x: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (x * scale).round() / scale
}
