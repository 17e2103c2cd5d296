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
    pub(super) use crate::pipeline::{Asks, CostAssumptions, CostEstimate, InputStats, RowStats, TokenCount};
    pub use crate::pipeline::{Fields, NeedsModel, OperatorDef, Port, Shape, StepSpec};
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
pub static ALL: &[&crate::pipeline::OperatorDef<dyn crate::dataflow::Operator>] = &[
    &sources::read::DEF,
    &sources::listworld::DEF,
    &training::sft::DEF,
    &generation::synthesize::DEF,
    &generation::dedup::DEF,
    &generation::generate::DEF,
    &judging::judge::DEF,
    &judging::rescore::DEF,
    &judging::meta_judge::DEF,
    &selection::concat::DEF,
    &judging::oracle::DEF,
    &selection::split::DEF,
    &selection::build_eft::DEF,
    &selection::select::DEF,
    &selection::positives::DEF,
    &judging::compare::DEF,
    &selection::measure::DEF,
    &training::dpo::DEF,
];
