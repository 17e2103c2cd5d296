//! Finds the schema of a dataset.

use crate::data::{Schema, named};
use crate::dataflow::Operator;
use crate::pipeline::Plan;
use crate::report::owner;

/// Whether a dataset holds a training's references.
pub(super) fn is_reference(step: &str) -> bool {
    step.ends_with(".reference")
}

/// Returns the schema of a step's rows, if it is known.
pub(super) fn schema(plan: Option<&Plan<dyn Operator>>, step: &str) -> Option<&'static Schema> {
    if is_reference(step) {
        return Some(&named::REFERENCE);
    }
    if owner(step) != step {
        return Some(&named::CANDIDATES);
    }
    plan?.step(step).map(|s| s.schema)
}
