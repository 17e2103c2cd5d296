//! The differentiable operations of Llama. candle-nn's `softmax_last_dim`, `rms_norm` and `rope` silently
//! drop the gradient, so none of them is used.
//!
//! Each operation has two definitions: one composed of candle's operations, for every device and type, and
//! one fused for f32 on the CPU with a handwritten backward pass. Tests compare the two with each other and
//! with finite differences.
//!
//! Activations are f32 whatever the weights' type, so every norm, softmax, rotation and sum is f32. Weights
//! in bf16 or f16 only enter matrix products. On the CPU a product widens the weight and runs in f32. On
//! other devices it rounds the activations to the weight's type, multiplies in that type (the device sums
//! in f32) and widens the result, like torch's autocast.

mod attention;
mod attention_cpu;
mod cpu;
mod dropout;
mod embedding;
mod float;
mod linear;
pub(in crate::model) mod log_prob;
mod packed_weight;
mod product;
pub(in crate::model) mod rms_norm;
mod rope;
mod segment;
pub(in crate::model) mod swiglu;
mod tile;

pub use attention::{Attention, Packed};
pub use cpu::{Floats, fma, with_composed};
pub use dropout::Dropout;
pub use embedding::embedding;
pub use linear::linear;
pub use log_prob::log_prob_of;
pub use packed_weight::PackedWeight;
pub use rms_norm::rms_norm;
pub use rope::{RopeRows, RopeTable, frequencies, rope};
pub use segment::Segment;
pub use swiglu::swiglu;

/// The operations composed of candle's own: the reference for the fused ones.
pub mod composed {
    pub use super::attention::composed as attention;
    pub use super::linear::composed as linear;
    pub use super::log_prob::composed as log_prob_of;
    pub use super::rms_norm::composed as rms_norm;
    pub use super::rope::composed as rope;
    pub use super::swiglu::composed as swiglu;
}

pub(in crate::model) use cpu::composed_only;
pub(in crate::model) use float::{FloatTensor, computed_in};

/// Building blocks of the handwritten pass: the same operations on plain numbers.
pub(in crate::model) mod fused {
    pub(in crate::model) use super::attention_cpu::HeadShape;
    pub(in crate::model) use super::cpu::Matrix;
    pub(in crate::model) use super::product::product;
    pub(in crate::model) use super::rope::rotate;
    pub(in crate::model) use super::{log_prob, rms_norm, swiglu};

    pub(in crate::model) mod attention {
        pub(in crate::model) use super::super::attention::check;
        pub(in crate::model) use super::super::attention_cpu::{Forward, backward, forward};
    }
}
