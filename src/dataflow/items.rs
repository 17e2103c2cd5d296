//! What a keyed step reduces: items with a key, and what becomes of a group of them.

use crate::data::RngKey;

/// What meets in a differential reduce: ids and integers only, text stays in Arrow. 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Item {
    /// First, so that a group is sorted from least to greatest: a score in thousandths, or a position.
    pub order: i64,
    /// Content-hash id.
    pub id: u128,
    /// How long it is, where the operator asks for it.
    pub length: u32,
    /// How much its judgements vary, in millionths of a squared point, where the operator asks for it.
    pub variance: u32,
}

/// What a group comes to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub enum GroupResult {
    /// The item of this `order`.
    One(i64),
    /// One item preferred to another. With their `order`s, so that a corrected score is a change.
    Pair {
        /// The item preferred.
        id: u128,
        /// The other.
        against: u128,
        /// `order` of the first.
        high: i64,
        /// `order` of the other.
        low: i64,
        /// What the operator takes the difference to be.
        margin: i64,
    },
    /// Nothing of the group, and the operator's number for the reason.
    Nothing(u8),
}

/// The key of a group: a scope (rows of other scopes never meet) and an id.
pub type Key = (u64, u128);

/// Where a step's random numbers come from, without a context.
#[derive(Clone, Copy, Debug)]
pub struct RngSource<'a> {
    /// The run's seed.
    pub seed: u64,
    /// The step.
    pub step: &'a str,
}

impl RngSource<'_> {
    /// As [`Context::key`].
    pub fn key(&self, iteration: u32, row: &str, sample: u32) -> RngKey {
        RngKey::new(self.seed, self.step, iteration, row, sample)
    }
}
