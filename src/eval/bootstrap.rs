//! Percentile bootstrap intervals over clusters (Efron 1979). The answers to a prompt are drawn together, because
//! they are not independent.

use rand_chacha::rand_core::Rng;
use rayon::prelude::*;

use super::statistics::quantile;
use crate::data::RngKey;

/// Settings of an interval.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Bootstrap {
    /// Number of resamples of the clusters.
    pub resamples: u32,
    /// Share of the resamples within the interval.
    pub confidence: f64,
    /// Seed. The draws depend only on it and on the number of clusters.
    pub seed: u64,
}

impl Default for Bootstrap {
    /// 10,000 resamples, 95%.
    fn default() -> Self {
        Self { resamples: 10_000, confidence: 0.95, seed: 0 }
    }
}

/// A figure with its interval.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Estimate {
    /// The figure.
    pub value: f64,
    /// The interval's lower end.
    pub low: f64,
    /// The interval's upper end.
    pub high: f64,
    /// Number of comparisons, pairs or prompts that the figure is a mean of.
    pub n: u64,
}

impl Estimate {
    /// A figure without an interval.
    pub fn exact(value: f64, n: u64) -> Self {
        Self { value, low: f64::NAN, high: f64::NAN, n }
    }
}

/// The contribution of a cluster to a mean: a sum, and the weight to divide it by.
pub type ClusterSum = (f64, f64);

impl Bootstrap {
    /// The ratio of the sums over all clusters, e.g. wins over comparisons, with its interval; `None` if the weights
    /// are 0.
    ///
    /// Resample `b` draws as many clusters as there are, with replacement, by the generator of (seed, b); resamples
    /// of weight 0 have no ratio and are passed over.
    ///
    /// ```
    /// use reflux::eval::bootstrap::Bootstrap;
    ///
    /// // Three wins in four comparisons, each of another prompt.
    /// let won = [(1.0, 1.0), (1.0, 1.0), (0.0, 1.0), (1.0, 1.0)];
    /// let rate = Bootstrap::default().ratio(&won).unwrap();
    /// assert_eq!(rate.value, 0.75);
    /// assert!(rate.low < 0.75 && rate.high >= 0.75);
    /// ```
    pub fn ratio(&self, clusters: &[ClusterSum]) -> Option<Estimate> {
        let ratio = |(sum, weight): ClusterSum| (weight > 0.).then(|| sum / weight);
        let add = |a: ClusterSum, b: &ClusterSum| (a.0 + b.0, a.1 + b.1);
        let total = clusters.iter().fold((0., 0.), add);
        let value = ratio(total)?;
        let resample =
            |draw: &mut dyn FnMut() -> usize| ratio((0..clusters.len()).map(|_| &clusters[draw()]).fold((0., 0.), add));
        Some(self.interval(clusters.len(), value, total.1.round() as u64, resample))
    }

    /// Any other figure of `clusters` clusters, `of` those by number, with its interval; `None` if it has none of
    /// them all. `n` counts what it is a figure of. The draws are those of [`Bootstrap::ratio`]; resamples without a
    /// figure are passed over.
    pub fn figure(&self, clusters: usize, n: u64, of: impl Fn(&[usize]) -> Option<f64> + Sync) -> Option<Estimate> {
        let value = of(&(0..clusters).collect::<Vec<_>>())?;
        let resample = |draw: &mut dyn FnMut() -> usize| of(&(0..clusters).map(|_| draw()).collect::<Vec<_>>());
        Some(self.interval(clusters, value, n, resample))
    }

    fn interval(
        &self,
        clusters: usize,
        value: f64,
        n: u64,
        resample: impl Fn(&mut dyn FnMut() -> usize) -> Option<f64> + Sync,
    ) -> Estimate {
        let resample = |b: u32| {
            let mut rng = RngKey::new(self.seed, "bootstrap", 0, "", b).rng();
            resample(&mut || ((u128::from(rng.next_u64()) * clusters as u128) >> 64) as usize)
        };
        let mut figures: Vec<f64> = (0..self.resamples).into_par_iter().filter_map(resample).collect();
        figures.sort_by(f64::total_cmp);
        let tail = (1. - self.confidence) / 2.;
        let end = |q| quantile(&figures, q).unwrap_or(f64::NAN);
        Estimate { value, low: end(tail), high: end(1. - tail), n }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// scipy draws otherwise; what is left is the Monte Carlo error of a quantile, of which the bounds are five
    /// standard errors.
    #[test]
    fn intervals_are_scipys() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/goldens/eval/bootstrap.json")).unwrap();
        let cases = golden.as_array().unwrap();
        assert!(cases.len() >= 4);
        for case in cases {
            let clusters: Vec<ClusterSum> = serde_json::from_value(case["clusters"].clone()).unwrap();
            let confidence = case["confidence"].as_f64().unwrap();
            let made = Bootstrap { resamples: 40_000, confidence, seed: 3 }.ratio(&clusters).unwrap();
            let near = |name: &str, got: f64, within: f64| {
                assert!((got - case[name].as_f64().unwrap()).abs() <= within, "{name} {got} of {case}");
            };
            near("value", made.value, 1e-12);
            near("low", made.low, case["within"].as_f64().unwrap());
            near("high", made.high, case["within"].as_f64().unwrap());
            assert!(made.low < made.value && made.value < made.high);
        }
    }

    #[test]
    fn what_is_drawn_depends_on_the_seed_alone() {
        let clusters: Vec<ClusterSum> = (0..40).map(|i| (f64::from(i % 3), 2.)).collect();
        let by = |seed| Bootstrap { resamples: 500, seed, ..Bootstrap::default() }.ratio(&clusters).unwrap();
        assert_eq!(by(1), by(1));
        assert_ne!(by(1), by(2));
        assert_eq!(by(1).n, 80);
        assert_eq!(Bootstrap::default().ratio(&[]), None);
        assert_eq!(Bootstrap::default().ratio(&[(0., 0.)]), None);
        let sure = Bootstrap::default().ratio(&[(1., 1.), (0., 0.)]).unwrap();
        assert_eq!((sure.low, sure.high), (1., 1.));
    }
}
