//! Arrow batches, the named schemas they follow, typed access to their columns, and content-hash ids.
//!
//! This folder knows Arrow and nothing of reflux above it.

mod batch;
mod columns;
mod ids;
mod judgements;
mod regular;
mod schema;

pub use batch::{Batch, Epoch};
pub use columns::{Columns, List, Messages};
pub use ids::{Id, RngKey, hash_hex};
pub use judgements::{Judgement, Judgements};
pub use regular::{open_regular, read_regular};
pub use schema::{ALL as SCHEMAS, Column, Schema, Type, named};
