//! Sequences within packed rows.

use std::ops::Range;

/// A run of consecutive rows that see each other causally. They also see the rows of a shared prefix.
///
/// A plain sequence is one segment with an empty prefix. A DPO pair has three segments: the prompt, and the
/// chosen and the rejected completion, each with the prompt's rows as its prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Rows of the prefix, all visible.
    pub prefix: Range<usize>,
    /// The segment's own rows; each row sees the own rows up to and including itself.
    pub rows: Range<usize>,
}

impl Segment {
    /// Creates a segment for a plain sequence.
    pub fn plain(rows: Range<usize>) -> Self {
        Self { prefix: 0..0, rows }
    }
}
