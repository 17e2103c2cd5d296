//! [`PromptSums`]: sums over rows by prompt, from which a mean with its interval is computed.

use std::collections::BTreeMap;

use crate::eval::bootstrap::{Bootstrap, ClusterSum, Estimate};

/// Sums of a value over rows, by prompt. Prompts are in the order of their names, so that the result does not depend on
/// the order of rows.
#[derive(Debug, Default)]
pub struct PromptSums(BTreeMap<String, ClusterSum>);

impl PromptSums {
    /// Adds a row's value.
    pub(super) fn add(&mut self, prompt: &str, value: f64) {
        let sum = match self.0.get_mut(prompt) {
            Some(sum) => sum,
            None => self.0.entry(prompt.into()).or_default(),
        };
        *sum = (sum.0 + value, sum.1 + 1.);
    }

    /// Whether no row has a value.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The mean over all rows.
    pub(super) fn mean(&self) -> f64 {
        let sum = self.0.values().fold((0., 0.), |a, b| (a.0 + b.0, a.1 + b.1));
        sum.0 / sum.1
    }

    /// The mean with its interval. Rows of a prompt are drawn together.
    pub(super) fn estimate(&self, bootstrap: &Bootstrap) -> Option<Estimate> {
        bootstrap.ratio(&self.0.values().copied().collect::<Vec<_>>())
    }
}
