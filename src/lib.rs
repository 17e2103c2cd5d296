//! reflux runs Self-Rewarding Language Models as a streaming dataflow.
pub mod data;
pub mod error;
pub mod model;
pub mod store;
