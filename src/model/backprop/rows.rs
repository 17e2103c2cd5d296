//! Input of a forward: packed rows and how to record them.

use crate::model::ops::{Dropout, Segment};

/// Packed rows and the targets that they predict.
#[derive(Clone, Debug, Default)]
pub struct PackedRows {
    /// Token of each row.
    pub ids: Vec<u32>,
    /// Position of each row in its own sequence.
    pub positions: Vec<u32>,
    /// Which rows see which.
    pub segments: Vec<Segment>,
    /// The rows whose state predicts a target; a row may predict several.
    pub from: Vec<u32>,
    /// The tokens that are predicted.
    pub targets: Vec<u32>,
    /// Dropout key of each row; one per row if there is dropout.
    pub keys: Vec<u64>,
}

/// Options for running and recording a forward.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ForwardOptions {
    /// Keeps only the input of each layer and recomputes the rest in the backward pass: about a tenth of
    /// the memory of activations for a third more arithmetic (arXiv 1604.06174). The result is identical to
    /// the bit.
    pub checkpoint: bool,
    /// Dropout of the output that each layer adds to the residual stream.
    pub dropout: Dropout,
}
