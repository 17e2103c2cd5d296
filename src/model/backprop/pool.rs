//! Memory for activations that outlives a step: what the system would clear and take back page by page, time and again.

use std::collections::BTreeMap;

/// Buffers of `rows x width` numbers, by width.
#[derive(Default)]
pub struct Pool {
    free: BTreeMap<usize, Vec<Vec<f32>>>,
}

/// Buffers hold a multiple of this many rows, so that steps of nearly equal size share them.
const ROWS: usize = 128;

impl Pool {
    /// A buffer of that many numbers, whatever they are.
    pub(super) fn take(&mut self, rows: usize, width: usize) -> Vec<f32> {
        let mut buffer = self.free.entry(width).or_default().pop().unwrap_or_default();
        if buffer.capacity() < rows * width {
            // Too small for good: it is let go.
            buffer = vec![0.; rows.next_multiple_of(ROWS) * width];
        }
        buffer.resize(rows * width, 0.);
        buffer
    }

    /// Takes a buffer of that width back.
    pub(super) fn give(&mut self, width: usize, buffer: Vec<f32>) {
        self.free.entry(width).or_default().push(buffer);
    }
}
