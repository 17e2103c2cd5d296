//! The operators, one file each, in rooms by what they do.
//!
//! To add an operator, write one file and two lines:
//!
//! 1. `src/operators/ROOM/NAME.rs` with a `pub static DEF: OperatorDef<dyn Operator>`. Its name, shape, inputs, example and
//!    keys stand there, and `reflux operators`, `reflux keys`, the checks and the docs are made from them. Begin it with
//!    `use crate::operators::shared::prelude::*;`.
//! 2. `pub(crate) mod NAME;` in `src/operators/ROOM/mod.rs`.
//! 3. `&ROOM::NAME::DEF` in [`ALL`].
//!
//! The rooms import from `shared` and never from each other.

mod generation;
pub mod judging;
mod selection;
pub mod shared;
mod sources;
mod training;

pub use shared::models::{EngineUse, Models};
pub use shared::preflight::{Preflight, preflight};
pub use shared::servers::{check_servers, server_engine};
pub use shared::template::PromptTemplate;
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
    &training::train::DEF,
];
