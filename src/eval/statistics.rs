//! Statistics over rows.

/// Kendall's tau-b of two rankings of the same things: agreement of their pairs, ties left out of the count of either
/// (Kendall 1945; scipy's `kendalltau`):
///
/// `tau = (concordant - discordant) / sqrt((n0 - ties in x) (n0 - ties in y))`, `n0 = n (n - 1) / 2`.
///
/// `None` where it is not defined: fewer than two things, one of the rankings has them all equal, or a value is no number.
/// Quadratic in n: a prompt has a handful of answers.
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

#[cfg(test)]
mod tests {
    use super::*;

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
