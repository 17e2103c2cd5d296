//! How rows of two steps belong together, and what a microbatch of a joining step is given.

use arrow::array::RecordBatch;

use crate::error::Result;

/// The key of each row of a batch, as a hash.
pub type KeysOf = fn(&RecordBatch) -> Result<Vec<u128>>;

/// How the rows of a joined input belong to those of the first one.
#[derive(Clone, Copy)]
pub enum Join {
    /// Rows with the same key are partners.
    ByKey(KeysOf),
    /// No row has a partner: the other step's rows follow those of the microbatch with the same number, and microbatches that
    /// the first input does not have are made of them alone.
    Append,
}

/// The other step's part in a microbatch of a step with a [`Join`].
pub struct Joined {
    /// The partners of the microbatch's rows, each once.
    pub partners: RecordBatch,
    /// For each row of the microbatch, the place of its partner in `partners`.
    pub partner_of: Vec<Option<usize>>,
    /// Rows of the other step's microbatch with the same number that are the partner of no row in any microbatch.
    pub unmatched: RecordBatch,
    /// Hashes of the files that the other step's rows come from, in order.
    pub(super) files: Vec<String>,
}
