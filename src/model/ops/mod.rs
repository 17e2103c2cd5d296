//! The differentiable operations that Llama is made of. candle-nn's `softmax_last_dim`, `rms_norm` and `rope` cut the
//! gradient without a word, so none of them is used.
//!
//! Each operation is defined twice: composed of candle's own operations, which runs on every device and in every type, and
//! fused for f32 on the CPU with a backward written by hand. Tests hold the two against each other and against finite
//! differences.

mod attention;
mod attention_cpu;
mod cpu;
mod linear;
mod log_prob;
mod panels;
mod rms_norm;
mod rope;
mod swiglu;

pub use attention::{Packed, Segment};
pub use cpu::{Floats, fma};
pub use linear::linear;
pub use log_prob::log_prob_of;
pub use panels::Panels;
pub use rms_norm::rms_norm;
pub use rope::{RopeRows, RopeTable, frequencies, rope};
pub use swiglu::swiglu;

/// The operations composed of candle's own: what the fused ones must equal.
pub mod composed {
    pub use super::attention::composed as attention;
    pub use super::linear::composed as linear;
    pub use super::log_prob::composed as log_prob_of;
    pub use super::rms_norm::composed as rms_norm;
    pub use super::rope::composed as rope;
    pub use super::swiglu::composed as swiglu;
}
