//! Input and output of a keyed reduce: items with a key, and the result of a group.

use crate::data::RngKey;

/// An item of a keyed reduce: ids and integers only, because texts stay in Arrow. 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Item {
    /// The sort key, first so that a group is sorted by it: a score in thousandths, or a position.
    pub order: i64,
    /// Content-hash id.
    pub id: u128,
    /// Length, if the operator needs it.
    pub length: u32,
    /// Variance of its judgements in millionths of a squared point, if the operator needs it.
    pub variance: u32,
}

/// One result of reducing a group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub enum GroupResult {
    /// The item with this `order`.
    One(i64),
    /// One item preferred to another. It includes their `order`s so that a corrected score is a change.
    Pair {
        /// The preferred item.
        id: u128,
        /// The other item.
        against: u128,
        /// `order` of the preferred item.
        high: i64,
        /// `order` of the other item.
        low: i64,
        /// Their difference, as the operator computes it.
        margin: i64,
    },
    /// No item, with the operator's number for the reason.
    Nothing(u8),
}

/// The key of a group: a scope and an id. Rows of different scopes never meet.
pub type Key = (u64, u128);

/// The source of a step's random numbers, for code without a context.
#[derive(Clone, Copy, Debug)]
pub struct RngSource<'a> {
    /// Seed of the run.
    pub seed: u64,
    /// Name of the step.
    pub step: &'a str,
}

impl RngSource<'_> {
    /// Returns the random key of a row, like [`super::Context::key`].
    pub fn key(&self, iteration: u32, row: &str, sample: u32) -> RngKey {
        RngKey::new(self.seed, self.step, iteration, row, sample)
    }
}
