//! reflux runs Self-Rewarding Language Models as a streaming dataflow.
pub mod data;
pub mod engine;
pub mod error;
pub mod eval;
pub mod model;
pub mod pipeline;
pub mod store;
pub mod train;
