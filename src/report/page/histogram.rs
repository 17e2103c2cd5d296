//! Histograms and moments of streams of numbers, in constant memory.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::limits::drawn;

/// Maximum number of bins between the smallest and the largest value.
const BINS: i64 = 40;
/// The narrowest bins are 2^-20 wide.
const NARROWEST: i32 = -20;

/// A histogram whose bins are multiples of a power of two. They double in width until the range fits, so the result
/// depends on the values and not on their order.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    exponent: i32,
    bins: BTreeMap<i64, u64>,
    n: u64,
    sum: f64,
    squares: f64,
    /// Values that are not finite.
    not_finite: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { exponent: NARROWEST, bins: BTreeMap::new(), n: 0, sum: 0., squares: 0., not_finite: 0 }
    }
}

impl Histogram {
    /// Adds a value.
    pub fn add(&mut self, value: f64) {
        if !value.is_finite() {
            self.not_finite += 1;
            return;
        }
        self.n += 1;
        self.sum += value;
        self.squares += value * value;
        // Such numbers are no scores or lengths; their bin is the outermost one.
        let bounded = value.clamp(-1e12, 1e12);
        let bin = (bounded / 2f64.powi(self.exponent)).floor() as i64;
        *self.bins.entry(bin).or_default() += 1;
        self.widen_to(BINS);
    }

    /// Doubles the bins until at most `most` span the values.
    fn widen_to(&mut self, most: i64) {
        while let (Some((first, _)), Some((last, _))) = (self.bins.first_key_value(), self.bins.last_key_value()) {
            if last - first < most {
                break;
            }
            self.widen();
        }
    }

    fn widen(&mut self) {
        let mut wider = BTreeMap::new();
        for (bin, n) in std::mem::take(&mut self.bins) {
            *wider.entry(bin.div_euclid(2)).or_default() += n;
        }
        (self.bins, self.exponent) = (wider, self.exponent + 1);
    }

    /// Gives all histograms the same bins, so that they can be drawn over each other.
    pub fn align<'a>(all: impl Iterator<Item = &'a mut Self>) {
        let mut all: Vec<&mut Self> = all.filter(|h| h.n > 0).collect();
        loop {
            let exponent = all.iter().map(|h| h.exponent).max().unwrap_or(NARROWEST);
            for histogram in &mut all {
                while histogram.exponent < exponent {
                    histogram.widen();
                }
            }
            let first = all.iter().filter_map(|h| h.bins.keys().next()).min();
            let last = all.iter().filter_map(|h| h.bins.keys().next_back()).max();
            match (first, last) {
                (Some(first), Some(last)) if last - first >= BINS => all[0].widen(),
                _ => return,
            }
        }
    }

    /// Number of values, mean, standard deviation, and bins as `[start, count]` with their width.
    pub fn json(&self) -> Value {
        let width = 2f64.powi(self.exponent);
        let bins: Vec<Value> = self.bins.iter().map(|(bin, n)| json!([*bin as f64 * width, n])).collect();
        json!({
            "n": self.n, "mean": self.mean().and_then(drawn), "sd": self.deviation().and_then(drawn), "width": width,
            "bins": bins, "not_finite": self.not_finite,
        })
    }

    /// Number of values.
    pub fn n(&self) -> u64 {
        self.n
    }

    /// Mean of the values.
    pub fn mean(&self) -> Option<f64> {
        (self.n > 0).then(|| self.sum / self.n as f64)
    }

    fn deviation(&self) -> Option<f64> {
        let mean = self.mean()?;
        Some((self.squares / self.n as f64 - mean * mean).max(0.).sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: impl IntoIterator<Item = f64>) -> Histogram {
        let mut histogram = Histogram::default();
        values.into_iter().for_each(|v| histogram.add(v));
        histogram
    }

    #[test]
    fn the_order_of_values_does_not_matter_and_memory_is_bounded() {
        let values: Vec<f64> = (0..5000).map(|i| f64::from(i * 7919 % 5000) / 17. - 80.).collect();
        let (mut forward, backward) = (of(values.clone()), of(values.iter().rev().copied()));
        assert_eq!(forward.bins, backward.bins);
        assert_eq!((forward.n, forward.bins.values().sum::<u64>()), (5000, 5000));
        assert!(forward.bins.len() <= BINS as usize, "{:?}", forward.bins);
        let mut other = of([1e9]);
        Histogram::align([&mut forward, &mut other].into_iter());
        assert_eq!(forward.exponent, other.exponent);
        assert_eq!(forward.bins.values().sum::<u64>(), 5000);
    }

    #[test]
    fn moments_are_those_of_the_values() {
        let histogram = of([1., 2., 3., 4., f64::NAN]);
        assert_eq!((histogram.mean(), histogram.not_finite), (Some(2.5), 1));
        assert!((histogram.deviation().unwrap() - 1.25f64.sqrt()).abs() < 1e-12);
        assert_eq!(of([]).mean(), None);
    }
}
