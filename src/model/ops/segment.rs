//! Which of the packed rows belong together.

use std::ops::Range;

/// A run of consecutive rows that see each other causally, and before that the rows of a shared prefix.
///
/// A plain sequence is one segment with an empty prefix. A DPO pair is three: the prompt, and the chosen and the
/// rejected completion, each with the prompt's rows as prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Rows of the prefix, wholly visible.
    pub prefix: Range<usize>,
    /// The segment's own rows; row `i` sees own rows up to and with itself.
    pub rows: Range<usize>,
}

impl Segment {
    /// A plain sequence.
    pub fn plain(rows: Range<usize>) -> Self {
        Self { prefix: 0..0, rows }
    }
}
