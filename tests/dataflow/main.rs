//! The dataflow: what is open at a time, barriers, joins, streaming, steps that fail.

#[path = "../common/mod.rs"]
mod common;

mod barriers;
mod empty_batches;
mod joins;
mod misbehaving;
mod streaming;
