//! The pipeline file: parsed, resolved, checked, planned and explained.
//!
//! Knows the named schemas of [`crate::data`] and nothing above: operators come in as a slice of [`OperatorDef`], generic over
//! their trait object. Parsing has two stages so that every value keeps its place: `tree` turns TOML text into a
//! spanned tree (with `--set` merged in by `overrides`), and [`Fields`] is asked by each section and operator for its
//! keys. `resolve` then finds what names mean, works out what is in the loop, and typechecks the edges. All problems are
//! collected as [`Diagnostics`]; their codes are listed in [`codes`].

pub mod codes;
mod diagnostic;
mod explain;
mod external;
mod fields;
mod graph;
mod health;
mod kind;
mod names;
mod overrides;
mod plan;
mod reference;
pub mod replay;
mod resolve;
mod resolved;
mod sections;
mod study;
mod suggest;
mod tree;
mod values;
mod work;

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod stub;
#[cfg(test)]
mod tests;

pub use diagnostic::{Diagnostic, Diagnostics, Label, Source, Span};
pub use explain::{Format, explain, keys_markdown, keys_table};
pub use external::External;
pub use fields::{ChoiceOrCount, Fields, KeyDoc, REFERENCES};
pub use health::{GATES, Gate, GateKind, Verdict};
pub use kind::{Asks, NeedsModel, OperatorDef, Port, Shape, StepSpec};
pub use plan::{
    Dtype, Engine, Input, Loop, ModelKind, ModelSource, ModelUse, Placement, Plan, Step, load, load_without_data,
    parse_str, parse_str_without_data,
};
pub use sections::{SECTION_DOCS, SectionDoc, model_table, step_table};
pub use study::{Study, Variant};
pub use values::parse_bytes;
pub use work::{CostAssumptions, CostEstimate, InputStats, RowStats, TokenCount};
