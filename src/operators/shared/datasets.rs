//! Names of datasets that operators write next to the rows of a step.

/// Name of the dataset with the log-probabilities of a training step's references.
pub(crate) fn references_of(step: &str) -> String {
    format!("{step}.reference")
}
