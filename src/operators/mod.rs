//! The operators: one file each, and the list of them all. A new operator is one new file and one line here; how it is
//! parsed, checked, explained and documented all comes from that file.

/// What every operator file needs.
mod prelude {
    pub use std::sync::Arc;

    pub use arrow::array::{Array, ArrayRef, Float32Array, RecordBatch, StringArray, UInt32Array};

    pub(super) use super::shared::models::Models;
    pub(super) use super::shared::settings;
    pub(super) use super::shared::template::{Template, Variables};
    pub use crate::data::{Columns, Epoch, List, Prompts, Schema, hash_hex, named};
    pub use crate::dataflow::{Context, Ledger, Operator, Output, RowError, Stage};
    pub use crate::error::{Context as _, Error, Result};
    pub(super) use crate::pipeline::{Amount, Asks, Assume, Load, Pass, Work};
    pub use crate::pipeline::{Configured, Fields, Kind, NeedsModel, Port, Shape};
}

mod generation;
pub mod judging;
mod selection;
pub mod shared;
pub mod sources;
mod training;

pub use shared::models::{EngineUse, Models};
pub use shared::preflight::{Preflight, preflight};
pub use shared::template::Template;
pub use training::reference::ReferenceUse;

/// Every operator, in the order in which `reflux operators` lists them.
pub static ALL: &[&crate::pipeline::Kind<dyn crate::dataflow::Operator>] = &[
    &sources::read::KIND,
    &sources::listworld::KIND,
    &training::sft::KIND,
    &generation::synthesize::KIND,
    &generation::dedup::KIND,
    &generation::generate::KIND,
    &judging::judge::KIND,
    &judging::rescore::KIND,
    &judging::meta_judge::KIND,
    &selection::concat::KIND,
    &judging::oracle::KIND,
    &selection::split::KIND,
    &selection::build_eft::KIND,
    &selection::select::KIND,
    &selection::positives::KIND,
    &judging::compare::KIND,
    &selection::measure::KIND,
    &training::dpo::KIND,
];
