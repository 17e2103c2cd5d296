//! reflux runs Self-Rewarding Language Models as a streaming dataflow.
pub mod cli;
pub mod data;
pub mod dataflow;
pub mod engine;
pub mod error;
pub mod eval;
pub mod model;
pub mod operators;
pub mod pipeline;
pub mod report;
pub mod store;
pub mod train;
