//! How rows of two steps are matched, and what a microbatch of a joining step receives.

use arrow::array::RecordBatch;

use crate::error::Result;

/// Computes the key of each row of a batch, as a hash.
pub type KeysOf = fn(&RecordBatch) -> Result<Vec<u128>>;

/// How rows of a joined input match those of the first one.
#[derive(Clone, Copy)]
pub enum Join {
    /// Rows with equal keys are partners.
    ByKey(KeysOf),
    /// No row has a partner. The other step's rows follow those of the microbatch with the same number;
    /// microbatches that the first input lacks consist of them alone.
    Append,
}

/// The rows of the other step that belong to a microbatch of a step with a [`Join`].
pub struct Joined {
    /// Partners of the microbatch's rows, each once.
    pub partners: RecordBatch,
    /// For each row of the microbatch, the index of its partner in `partners`.
    pub partner_of: Vec<Option<usize>>,
    /// Rows of the other step's microbatch with the same number that are no row's partner in any
    /// microbatch.
    pub unmatched: RecordBatch,
    /// Hashes of the files that the rows come from, in order.
    pub(super) files: Vec<String>,
}
