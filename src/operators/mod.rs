//! The operators: one file each, and the list of them all. A new operator is one new file and one line here; how it is
//! parsed, checked, explained and documented all comes from that file.

/// What every operator file needs.
mod prelude {
    pub use std::sync::Arc;

    pub use arrow::array::{Array, ArrayRef, Float32Array, RecordBatch, StringArray, UInt32Array};

    pub(super) use super::models::Models;
    pub(super) use super::settings;
    pub(super) use super::template::{Template, Variables};
    pub use crate::data::{Columns, Epoch, List, Prompts, Schema, hash_hex, named};
    pub use crate::dataflow::{Context, Ledger, Operator, Output, RowError, Stage};
    pub use crate::error::{Context as _, Error, Result};
    pub(super) use crate::pipeline::{Amount, Asks, Assume, Load, Pass, Work};
    pub use crate::pipeline::{Configured, Fields, Kind, NeedsModel, Port, Shape};
}

mod asking;
mod expected;
mod fence;
mod health;
pub mod hub;
mod hub_files;
mod judged;
mod models;
mod pairwise;
mod preferences;
mod preflight;
mod reference;
mod reject;
pub mod revised;
pub mod score;
mod settings;
mod strategies;
mod template;
mod tournament;
mod training;

pub use models::{EngineUse, Models};
pub use preflight::{Preflight, preflight};
pub use reference::ReferenceUse;
pub use template::Template;

macro_rules! operators {
    ($($name:ident),* $(,)?) => {
        $(mod $name;)*
        /// Every operator, in the order in which `reflux operators` lists them.
        pub static ALL: &[&crate::pipeline::Kind<dyn crate::dataflow::Operator>] = &[$(&$name::KIND),*];
    };
}

operators! {
    read,
    listworld,
    sft,
    synthesize,
    dedup,
    generate,
    judge,
    rescore,
    meta_judge,
    concat,
    oracle,
    split,
    build_eft,
    select,
    positives,
    compare,
    measure,
    dpo,
}
