//! Dropout (JMLR 15:1929). Its draws depend only on a row's key, the layer and the column, not on the other
//! rows of the batch or on how a step is divided into forwards.

use candle_core::{Device, Result, Tensor};

use super::cpu;

/// Settings of dropout.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Dropout {
    /// Probability that a number is dropped, in [0, 1). Kept numbers are divided by `1 - rate`.
    pub rate: f64,
}

impl Dropout {
    /// Writes the factors of one row: 0 or `1 / (1 - rate)`.
    fn factors(self, key: u64, site: u64, row: &mut [f32]) {
        let (threshold, keep) = ((self.rate * 65536.) as u64, (1. / (1. - self.rate)) as f32);
        let key = mix(key ^ mix(site));
        for (i, four) in row.chunks_mut(4).enumerate() {
            let mut bits = mix(key.wrapping_add(i as u64));
            for factor in four {
                *factor = if bits & 0xffff < threshold { 0. } else { keep };
                bits >>= 16;
            }
        }
    }

    /// Multiplies rows of `width` numbers, keyed by `keys`, in place. Each `site` has independent draws.
    pub(in crate::model) fn apply(self, keys: &[u64], site: u64, width: usize, numbers: &mut [f32]) {
        if self.rate == 0. {
            return;
        }
        cpu::rows(numbers, width, |i, row| {
            let mut factors = [0f32; 64];
            for (part, row) in row.chunks_mut(64).enumerate() {
                let factors = &mut factors[..row.len()];
                self.factors(keys[i], site.wrapping_mul(0x1_0000).wrapping_add(part as u64), factors);
                row.iter_mut().zip(factors).for_each(|(x, f)| *x *= *f);
            }
        });
    }

    /// The factors of all rows as `[N, width]`.
    ///
    /// # Errors
    /// Returns any error of candle.
    pub fn mask(self, keys: &[u64], site: u64, width: usize, device: &Device) -> Result<Tensor> {
        let mut numbers = vec![1f32; keys.len() * width];
        self.apply(keys, site, width, &mut numbers);
        Tensor::from_vec(numbers, (keys.len(), width), device)
    }
}

/// The finalizer of SplitMix64: every bit of the result depends on every bit of `x`.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_dropped_and_the_mean_stays() {
        let dropout = Dropout { rate: 0.1 };
        let keys: Vec<u64> = (0..2000).collect();
        let all = dropout.mask(&keys, 3, 100, &Device::Cpu).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let dropped = all.iter().filter(|x| **x == 0.).count() as f64 / all.len() as f64;
        // With 200,000 draws the standard deviation is 0.0007.
        assert!((dropped - 0.1).abs() < 0.003, "{dropped}");
        let mean = all.iter().map(|x| f64::from(*x)).sum::<f64>() / all.len() as f64;
        assert!((mean - 1.).abs() < 0.004, "{mean}");
        // Neighbours in column, row and site are independent: both are dropped in one case out of a hundred.
        let other = dropout.mask(&keys, 4, 100, &Device::Cpu).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (what, pairs) in [("column", &all[1..]), ("row", &all[100..]), ("site", &other[..])] {
            let both = all.iter().zip(pairs).filter(|(a, b)| **a == 0. && **b == 0.).count() as f64;
            let share = both / pairs.len() as f64;
            assert!((share - 0.01).abs() < 0.0015, "{what}: {share}");
        }
    }

    #[test]
    fn a_row_draws_the_same_in_every_company() {
        let dropout = Dropout { rate: 0.5 };
        let row = |keys: &[u64], i: usize| {
            dropout.mask(keys, 7, 70, &Device::Cpu).unwrap().to_vec2::<f32>().unwrap()[i].clone()
        };
        assert_eq!(row(&[5, 6, 9], 2), row(&[9], 0));
        assert_ne!(row(&[5, 6, 9], 1), row(&[9], 0));
        assert_eq!(Dropout::default().mask(&[1], 0, 3, &Device::Cpu).unwrap().to_vec2::<f32>().unwrap(), [[1.; 3]]);
    }
}
