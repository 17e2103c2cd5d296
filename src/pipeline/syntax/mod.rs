//! The text of a pipeline file: its tree with places, values, `--set`, and faults that show where they are.

pub mod codes;
pub(crate) mod diagnostic;
pub(crate) mod overrides;
pub(crate) mod suggest;
pub(crate) mod tree;
pub(crate) mod values;
