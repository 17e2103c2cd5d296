//! What a forward is given: packed rows, and how it is recorded.

use crate::model::ops::{Dropout, Segment};

/// Packed rows and what is asked of them.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    /// Token of each row.
    pub ids: Vec<u32>,
    /// Its place in its own sequence.
    pub positions: Vec<u32>,
    /// Which rows see which.
    pub segments: Vec<Segment>,
    /// The rows whose state predicts a target; a row may predict several.
    pub from: Vec<u32>,
    /// The tokens that are predicted.
    pub targets: Vec<u32>,
    /// What each row draws its dropout by; as many as rows where there is dropout.
    pub keys: Vec<u64>,
}

/// How a forward is done and recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Options {
    /// Only the input of each layer is kept, and the rest is computed again on the way back: about a tenth of the memory of
    /// activations at a third more arithmetic (arXiv 1604.06174). The result is the same to the bit.
    pub checkpoint: bool,
    /// Share of the numbers that are dropped from what each layer adds to the residual stream.
    pub dropout: Dropout,
}
