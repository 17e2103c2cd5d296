//! Llama-family models: one definition that is differentiable and serves inference too, their weights, tokenizer
//! and chat template. This folder knows candle and nothing of dataflow, engine or training.

pub mod llama;
pub mod ops;

pub use llama::{Attention, Config, Llama};
