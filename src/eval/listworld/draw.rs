//! Draws from a counter-based generator.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng;

use crate::data::RngKey;

/// A stream of draws that depends on its key alone, independent of the order in which rows are made.
pub struct Draw(ChaCha8Rng);

impl Draw {
    /// The stream of row `row` of the dataset `what`.
    pub fn row(seed: u64, what: &str, row: usize) -> Self {
        Self(RngKey::new(seed, &format!("listworld/{what}"), 0, &row.to_string(), 0).rng())
    }
    /// Uniform in `0..n`; 0 if `n` is 0. The bias of the multiplication is below 2^-24 for the sizes used here.
    pub fn below(&mut self, n: usize) -> usize {
        ((u64::from(self.0.next_u32()) * n as u64) >> 32) as usize
    }
    /// Uniform in `[0, 1)`, of 2^32 values.
    pub fn unit(&mut self) -> f64 {
        f64::from(self.0.next_u32()) / 4_294_967_296.
    }
    /// True with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        self.unit() < p
    }
    /// One item, uniformly; the slice is not empty.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }
    /// Puts the items in a uniformly random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
    /// `n` different items in random order; all of them if there are fewer.
    pub fn sample<T: Copy>(&mut self, items: &[T], n: usize) -> Vec<T> {
        let mut all = items.to_vec();
        self.shuffle(&mut all);
        all.truncate(n);
        all
    }
    /// Two different places in `0..n`; `n` is at least 2.
    pub fn two(&mut self, n: usize) -> (usize, usize) {
        let first = self.below(n);
        let second = self.below(n - 1);
        (first, second + usize::from(second >= first))
    }
}
