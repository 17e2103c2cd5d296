//! Changes of scores and lengths from an iteration to the next.

use std::collections::BTreeMap;

/// Counts of equal values, in order.
pub fn histogram(values: &[f64]) -> Vec<(f64, u64)> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).map(|v| v + 0.).collect();
    sorted.sort_by(f64::total_cmp);
    sorted.chunk_by(|a, b| a == b).map(|equal| (equal[0], equal.len() as u64)).collect()
}

/// Total variation of two distributions of scores, each in bins of `width` around its multiples: half the sum of
/// `|p - q|`, 0 for equal ones and 1 for disjoint ones. `None` if one has no finite value.
///
/// # Panics
/// `width` is not positive.
pub fn total_variation(before: &[f64], after: &[f64], width: f64) -> Option<f64> {
    assert!(width > 0., "bins have a width");
    let mut shares: BTreeMap<i64, f64> = BTreeMap::new();
    for (values, sign) in [(before, 1.), (after, -1.)] {
        let finite: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
        if finite.is_empty() {
            return None;
        }
        for value in &finite {
            *shares.entry((value / width).round() as i64).or_default() += sign / finite.len() as f64;
        }
    }
    Some(shares.values().map(|d| d.abs()).sum::<f64>() / 2.)
}

/// Wasserstein distance of order 1 between two distributions of scores (scipy's `wasserstein_distance`), in units of
/// the score: the integral of the difference of their distribution functions. `None` if one has no finite value.
pub fn wasserstein(before: &[f64], after: &[f64]) -> Option<f64> {
    let [(x, nx), (y, ny)] = [before, after].map(|v| {
        let counts = histogram(v);
        let n: u64 = counts.iter().map(|c| c.1).sum();
        (counts, n as f64)
    });
    if x.is_empty() || y.is_empty() {
        return None;
    }
    let mut steps: Vec<(f64, f64)> = x.iter().map(|&(v, n)| (v, n as f64 / nx)).collect();
    steps.extend(y.iter().map(|&(v, n)| (v, -(n as f64) / ny)));
    steps.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut apart = 0.;
    let between = |w: &[(f64, f64)]| {
        apart += w[0].1;
        f64::abs(apart) * (w[1].0 - w[0].0)
    };
    Some(steps.windows(2).map(between).sum())
}

/// Means of one iteration.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct IterationMeans {
    /// The iteration.
    pub iteration: u32,
    /// Mean length of its answers, in tokens.
    pub tokens: f64,
    /// Mean score of its answers.
    pub score: f64,
}

/// Minimum growth of the length for a warning: a tenth.
pub const LEAST_GROWTH: f64 = 0.1;

/// The growth from `before` to `after`, as a share of `before`. Not finite if `before` is 0.
pub fn growth(before: f64, after: f64) -> f64 {
    (after - before) / before.abs()
}

/// A warning if answers have become longer by at least `least` (a share) and by more, in proportion, than their score
/// has risen, which is a sign of reward hacking: the policy serves a judge that mistakes length for quality. In the
/// paper, lengths on AlpacaEval went from 1,092 to 1,552 to 2,552.
pub fn outgrown(before: &IterationMeans, after: &IterationMeans, least: f64) -> Option<String> {
    let (length, score) = (growth(before.tokens, after.tokens), growth(before.score, after.score));
    // From a score of nothing any rise is without bound, and staying there is no growth.
    let outgrown = length >= least && (score.is_nan() || score < length);
    outgrown.then(|| {
        format!(
            "answers of iteration {} are {:.0}% longer than those of iteration {} ({:.0} tokens after {:.0}), and their score went from \
             {:.2} to {:.2}: the judge may take length for quality; look at some, or hold the length (length control in `select`)",
            after.iteration,
            100. * length,
            before.iteration,
            after.tokens,
            before.tokens,
            before.score,
            after.score,
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_scipys() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/goldens/eval/drift.json")).unwrap();
        let cases = golden.as_array().unwrap();
        assert!(cases.len() > 10);
        for case in cases {
            let of = |name: &str| serde_json::from_value::<Vec<f64>>(case[name].clone()).unwrap();
            let (x, y) = (of("x"), of("y"));
            let w = wasserstein(&x, &y).unwrap();
            assert!((w - case["wasserstein"].as_f64().unwrap()).abs() < 1e-12, "{case}: {w}");
            let tv = total_variation(&x, &y, case["width"].as_f64().unwrap()).unwrap();
            assert!((tv - case["total_variation"].as_f64().unwrap()).abs() < 1e-12, "{case}: {tv}");
        }
        assert_eq!((wasserstein(&[], &[1.]), total_variation(&[1.], &[f64::NAN], 0.5)), (None, None));
        assert_eq!(histogram(&[1., 0., -0., 1., f64::NAN, 1.]), [(0., 2), (1., 3)]);
    }

    #[test]
    fn length_that_outgrows_the_score_is_warned_of() {
        let means = |iteration, tokens, score| IterationMeans { iteration, tokens, score };
        let warning = outgrown(&means(1, 1092., 3.), &means(2, 1552., 3.3), LEAST_GROWTH).unwrap();
        assert!(warning.contains("42% longer") && warning.contains("3.00 to 3.30"), "{warning}");
        assert_eq!(outgrown(&means(1, 100., 2.), &means(2, 120., 3.), LEAST_GROWTH), None);
        assert_eq!(outgrown(&means(1, 100., 3.), &means(2, 109., 2.), LEAST_GROWTH), None);
        assert_eq!(outgrown(&means(1, 100., 3.), &means(2, 80., 1.), LEAST_GROWTH), None);
        assert!(outgrown(&means(1, 100., 3.), &means(2, 120., 2.), LEAST_GROWTH).is_some());
        assert!(outgrown(&means(1, 100., 0.), &means(2, 120., 0.), LEAST_GROWTH).is_some());
    }
}
