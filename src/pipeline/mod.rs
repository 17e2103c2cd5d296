//! The pipeline file: parsed, resolved, checked, planned and explained.
//!
//! This room knows the named schemas of [`crate::data`] but no operator: operators are passed in as a slice
//! of [`OperatorDef`], generic over their trait object. Parsing has two stages so that every value keeps
//! its place: `syntax::tree` turns TOML text into a tree with spans, into which `syntax::overrides` merges
//! `--set`; then each section and operator reads its keys through [`Fields`]. `resolve` resolves names,
//! finds the steps of the loop, and typechecks the edges. All problems are collected as [`Diagnostics`];
//! their codes are listed in [`codes`].

mod command;
mod environment;
mod explain;
mod fields;
mod graph;
mod health;
mod kind;
mod load;
mod model_section;
mod names;
mod plan;
mod reference;
pub mod replay;
mod resolve;
mod resolved;
mod sections;
mod server;
mod server_section;
mod study;
mod syntax;
mod work;

#[cfg(test)]
mod stub;
#[cfg(test)]
mod tests;

pub use command::{CommandRules, CommandTemplate, Placeholder, shell_word};
pub use environment::{EnvironmentValue, EnvironmentVariable};
pub use explain::{PlanFormat, explain, keys_markdown, keys_table};
pub use fields::external::External;
pub use fields::{ChoiceOrCount, Fields, KeyDoc, REFERENCES};
pub use health::{GATES, Gate, GateKind, GateVerdict};
pub use kind::{Asks, NeedsModel, OperatorDef, Port, Shape, StepSpec};
pub use load::{load, load_without_data, parse_str, parse_str_without_data};
pub use plan::{Dtype, EngineSection, Input, Loop, ModelKind, ModelSource, ModelUse, Placement, Plan, Step};
pub use sections::{SECTION_DOCS, SectionDoc, model_table, step_table};
pub use server::{Price, ServerSource, SpecialTextKey};
pub use server_section::{ServerProgram, ServerUpdate};
pub use study::{Study, Variant};
pub use syntax::codes;
pub use syntax::diagnostic::{Diagnostic, Diagnostics, Label, SourceText, Span};
pub use syntax::values::parse_bytes;
pub use work::{CostAssumptions, CostEstimate, InputStats, RowStats, TokenCount};
