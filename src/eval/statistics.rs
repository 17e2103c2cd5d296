//! Statistics over rows.

/// Kendall's tau-b of two rankings of the same things: agreement of their pairs, ties left out of the count of either
/// (Kendall 1945; scipy's `kendalltau`):
///
/// `tau = (concordant - discordant) / sqrt((n0 - ties in x) (n0 - ties in y))`, `n0 = n (n - 1) / 2`.
///
/// `None` if it is not defined: there are fewer than two things, all values of a ranking are equal, or a value is
/// NaN. The time is quadratic in n, because a prompt has a handful of answers.
///
/// # Panics
/// The rankings have different lengths.
pub fn kendall_tau(x: &[f64], y: &[f64]) -> Option<f64> {
    assert_eq!(x.len(), y.len(), "two rankings of the same things");
    if x.iter().chain(y).any(|v| v.is_nan()) {
        return None;
    }
    let (mut agree, mut in_x, mut in_y) = (0i64, 0i64, 0i64);
    let sign = |a: f64, b: f64| i64::from(a > b) - i64::from(a < b);
    for i in 0..x.len() {
        for j in 0..i {
            let (a, b) = (sign(x[i], x[j]), sign(y[i], y[j]));
            agree += a * b;
            in_x += a.abs();
            in_y += b.abs();
        }
    }
    (in_x > 0 && in_y > 0).then(|| agree as f64 / (in_x as f64).sqrt() / (in_y as f64).sqrt())
}

/// Ranks from 1, equal values sharing the mean of their ranks (scipy's `rankdata`).
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let (mut ranks, mut before) = (vec![0.; values.len()], 0);
    for equal in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let mean = before as f64 + (equal.len() + 1) as f64 / 2.;
        equal.iter().for_each(|&i| ranks[i] = mean);
        before += equal.len();
    }
    ranks
}

/// Spearman's rank correlation: Pearson's of the ranks, equal values sharing theirs (scipy's `spearmanr`).
///
/// `None` if it is not defined: there are fewer than two things, all values of a ranking are equal, or a value is NaN.
///
/// # Panics
/// The rankings have different lengths.
///
/// ```
/// use reflux::eval::statistics::spearman;
///
/// let rho = spearman(&[1.0, 2.0, 3.0], &[10.0, 20.0, 40.0]).unwrap();
/// assert!((rho - 1.0).abs() < 1e-12);
/// assert_eq!(spearman(&[1.0, 2.0, 3.0], &[7.0, 7.0, 7.0]), None);
/// ```
pub fn spearman(x: &[f64], y: &[f64]) -> Option<f64> {
    assert_eq!(x.len(), y.len(), "two rankings of the same things");
    if x.iter().chain(y).any(|v| v.is_nan()) {
        return None;
    }
    // The mean rank is (n + 1) / 2 whatever the ties; all figures are multiples of 1/4, so the sums are exact.
    let middle = (x.len() + 1) as f64 / 2.;
    let [x, y] = [x, y].map(|v| ranks(v).into_iter().map(|r| r - middle).collect::<Vec<f64>>());
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let (xx, yy) = (product(&x, &x), product(&y, &y));
    (xx > 0. && yy > 0.).then(|| (product(&x, &y) / xx.sqrt() / yy.sqrt()).clamp(-1., 1.))
}

/// Mean and standard error of the mean (`sqrt(sample variance / n)`, pandas' `sem`); the error needs two values.
pub fn mean_and_error(values: &[f64]) -> (Option<f64>, Option<f64>) {
    let n = values.len() as f64;
    if values.is_empty() {
        return (None, None);
    }
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|v| (v - mean) * (v - mean)).sum();
    (Some(mean), (values.len() > 1).then(|| (squares / (n - 1.) / n).sqrt()))
}

/// The `q`-quantile of sorted values, interpolated between neighbours (numpy's default). `None` without values.
pub fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let place = q.clamp(0., 1.) * sorted.len().checked_sub(1)? as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    Some(below + (above - below) * place.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(value: &serde_json::Value) -> Vec<f64> {
        value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
    }

    #[test]
    fn rho_is_what_scipy_says() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/goldens/statistics/spearman.json")).unwrap();
        let cases = golden.as_array().unwrap();
        assert!(cases.len() > 20);
        for case in cases {
            match (spearman(&numbers(&case["x"]), &numbers(&case["y"])), case["rho"].as_f64()) {
                (Some(got), Some(want)) => assert!((got - want).abs() < 1e-12, "{case}: {got}"),
                (got, want) => assert_eq!(got, want, "{case}"),
            }
        }
        assert!(cases.iter().any(|c| c["rho"].is_null()));
        assert_eq!(spearman(&[1., f64::NAN], &[1., 2.]), None);
    }

    #[test]
    fn quantiles_and_errors_are_numpys_and_pandas() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/goldens/statistics/quantiles.json")).unwrap();
        for case in golden.as_array().unwrap() {
            let mut values = numbers(&case["values"]);
            let (mean, error) = mean_and_error(&values);
            assert!((mean.unwrap() - case["mean"].as_f64().unwrap()).abs() < 1e-12, "{case}");
            match (error, case["sem"].as_f64()) {
                (Some(got), Some(want)) => assert!((got - want).abs() < 1e-12, "{case}: {got}"),
                (got, want) => assert_eq!(got, want),
            }
            values.sort_by(f64::total_cmp);
            for (q, want) in numbers(&case["q"]).into_iter().zip(numbers(&case["quantiles"])) {
                assert!((quantile(&values, q).unwrap() - want).abs() < 1e-12, "{case}: {q}");
            }
        }
        assert_eq!((quantile(&[], 0.5), mean_and_error(&[])), (None, (None, None)));
    }

    #[test]
    fn tau_is_what_scipy_says() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/goldens/statistics/kendall.json")).unwrap();
        let cases = golden.as_array().unwrap();
        assert!(cases.len() > 20);
        for case in cases {
            let of =
                |name: &str| case[name].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect::<Vec<_>>();
            match (kendall_tau(&of("x"), &of("y")), case["tau"].as_f64()) {
                (Some(got), Some(want)) => assert!((got - want).abs() < 1e-12, "{case}: {got}"),
                (got, want) => assert_eq!(got, want, "{case}"),
            }
        }
        assert!(cases.iter().any(|c| c["tau"].is_null()));
        assert_eq!(kendall_tau(&[], &[]), None);
        assert_eq!(kendall_tau(&[1., f64::NAN], &[1., 2.]), None);
    }
}
