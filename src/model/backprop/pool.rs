//! Memory for activations and gradients that is reused across steps; otherwise the system would clear and
//! reclaim its pages at every step. In the backward pass a layer's activations become free while its
//! gradients are computed, so the same memory serves both.

use std::collections::BTreeMap;

/// Free buffers by capacity in numbers.
#[derive(Default)]
pub struct Pool {
    free: BTreeMap<usize, Vec<Vec<f32>>>,
}

/// Buffers of activations hold a multiple of this many rows, so that steps of similar size share them.
const ROWS: usize = 128;
/// A buffer is reused only if the request needs at least this fraction of it (one over this number).
const MAX_OVERALLOCATION: usize = 4;

impl Pool {
    /// Returns a buffer for `rows` rows of `width` numbers, with unspecified contents.
    pub(super) fn rows(&mut self, rows: usize, width: usize) -> Vec<f32> {
        self.take(rows * width, rows.next_multiple_of(ROWS) * width)
    }

    /// Returns a buffer of `count` numbers with unspecified contents. Reuses a free buffer of at least that
    /// capacity, or else allocates one for `room` numbers.
    pub(super) fn take(&mut self, count: usize, room: usize) -> Vec<f32> {
        let fits = self.free.range(count..=count.saturating_mul(MAX_OVERALLOCATION)).next().map(|(size, _)| *size);
        let mut buffer = fits.and_then(|size| self.pop(size)).unwrap_or_else(|| {
            // A slightly smaller buffer belonged to a smaller step and would stay unused from now on.
            let small = self.free.range(count / MAX_OVERALLOCATION..count).next_back().map(|(size, _)| *size);
            drop(small.and_then(|size| self.pop(size)));
            vec![0.; room]
        });
        buffer.resize(count, 0.);
        buffer
    }

    /// Returns a buffer to the pool.
    pub(super) fn give(&mut self, buffer: Vec<f32>) {
        self.free.entry(buffer.capacity()).or_default().push(buffer);
    }

    fn pop(&mut self, size: usize) -> Option<Vec<f32>> {
        let buffers = self.free.get_mut(&size)?;
        let buffer = buffers.pop();
        if buffers.is_empty() {
            self.free.remove(&size);
        }
        buffer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_and_do_not_pile_up() {
        let mut pool = Pool::default();
        let held = |pool: &Pool| pool.free.iter().map(|(size, all)| size * all.len()).sum::<usize>();
        let first = pool.rows(100, 10);
        assert_eq!((first.len(), first.capacity()), (1000, 1280));
        pool.give(first);
        // A step of similar size, then a gradient, in the same memory.
        for count in [1280, 320] {
            let again = pool.take(count, count);
            assert_eq!((again.len(), again.capacity(), held(&pool)), (count, 1280, 0));
            pool.give(again);
        }
        // A much smaller request gets its own buffer; a larger one replaces the buffer.
        let (small, large) = (pool.take(10, 10), pool.rows(200, 10));
        assert_eq!((small.capacity(), large.capacity(), held(&pool)), (10, 2560, 0));
    }
}
