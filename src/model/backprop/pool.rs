//! Memory for activations and gradients that outlives a step: what the system would clear and take back page by page,
//! time and again. On the way back the activations of a layer become free as its gradients come to be, so the same memory
//! serves both.

use std::collections::BTreeMap;

/// Free buffers, by how many numbers they hold.
#[derive(Default)]
pub struct Pool {
    free: BTreeMap<usize, Vec<Vec<f32>>>,
}

/// Activations get room for a multiple of this many rows, so that steps of nearly equal size share them.
const ROWS: usize = 128;
/// A buffer is not used for less than one in so many of its numbers.
const MAX_OVERALLOCATION: usize = 4;

impl Pool {
    /// A buffer for `rows` rows of `width` numbers, whatever they are.
    pub(super) fn rows(&mut self, rows: usize, width: usize) -> Vec<f32> {
        self.take(rows * width, rows.next_multiple_of(ROWS) * width)
    }

    /// A buffer of `count` numbers, whatever they are, out of one of at least that many; a new one holds `room`.
    pub(super) fn take(&mut self, count: usize, room: usize) -> Vec<f32> {
        let fits = self.free.range(count..=count.saturating_mul(MAX_OVERALLOCATION)).next().map(|(size, _)| *size);
        let mut buffer = fits.and_then(|size| self.pop(size)).unwrap_or_else(|| {
            // What is nearly large enough was made for a smaller step, and would lie about from now on.
            let small = self.free.range(count / MAX_OVERALLOCATION..count).next_back().map(|(size, _)| *size);
            drop(small.and_then(|size| self.pop(size)));
            vec![0.; room]
        });
        buffer.resize(count, 0.);
        buffer
    }

    /// Takes a buffer back.
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
        // A step of nearly the same size, then a gradient, in the same memory.
        for count in [1280, 320] {
            let again = pool.take(count, count);
            assert_eq!((again.len(), again.capacity(), held(&pool)), (count, 1280, 0));
            pool.give(again);
        }
        // Far less is not put into it, more takes its place.
        let (small, large) = (pool.take(10, 10), pool.rows(200, 10));
        assert_eq!((small.capacity(), large.capacity(), held(&pool)), (10, 2560, 0));
    }
}
