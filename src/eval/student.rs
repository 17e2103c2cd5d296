//! Student's t: how wide the interval about the mean of a few values is.

use super::statistics::mean_and_error;

/// P(|T| <= t) with `df` degrees of freedom, 1 or more (Abramowitz and Stegun 26.7.3 and 26.7.4: exact, a sum of df /
/// 2 terms).
fn within(t: f64, df: u32) -> f64 {
    let angle = (t / f64::from(df).sqrt()).atan();
    let (sin, cos) = angle.sin_cos();
    let odd = df % 2 == 1;
    // Each term is the one before times cos^2 k / (k + 1).
    let (mut term, mut sum, mut k) = if odd { (cos, 0., 2.) } else { (1., 0., 1.) };
    for _ in 0..df / 2 {
        sum += term;
        term *= cos * cos * k / (k + 1.);
        k += 2.;
    }
    if odd { std::f64::consts::FRAC_2_PI * (angle + sin * sum) } else { sin * sum }
}

/// The t that |T| stays below with the given probability.
fn two_sided(probability: f64, df: u32) -> f64 {
    let (mut low, mut high) = (0., 1.);
    while within(high, df) < probability {
        high *= 2.;
    }
    // Halved until the two are neighbours.
    while low < f64::midpoint(low, high) && f64::midpoint(low, high) < high {
        let middle = f64::midpoint(low, high);
        if within(middle, df) < probability { low = middle } else { high = middle }
    }
    high
}

/// The mean of independent values and half the width of its 95% t-interval; without a width for fewer than two values,
/// and nothing for none.
pub fn mean_and_interval(values: &[f64]) -> Option<(f64, Option<f64>)> {
    let (mean, error) = mean_and_error(values);
    let df = u32::try_from(values.len()).ok()?.saturating_sub(1);
    Some((mean?, error.map(|e| e * two_sided(0.95, df))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_what_scipy_says() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/goldens/statistics/student.json")).unwrap();
        let cases = golden.as_array().unwrap();
        assert!(cases.len() > 30);
        for case in cases {
            let got = two_sided(case["probability"].as_f64().unwrap(), case["df"].as_u64().unwrap() as u32);
            let want = case["t"].as_f64().unwrap();
            assert!((got / want - 1.).abs() < 1e-9, "{case}: {got}");
        }
    }

    #[test]
    fn the_interval_of_a_few_values() {
        // numpy: mean 2.5, sem 0.6454972243679028; scipy: t.ppf(0.975, 3) = 3.182446305284263
        let (mean, half) = mean_and_interval(&[1., 2., 3., 4.]).unwrap();
        assert!(
            (mean - 2.5).abs() < 1e-15
                && (half.unwrap() - 0.645_497_224_367_902_8 * 3.182_446_305_284_263).abs() < 1e-12
        );
        assert_eq!(mean_and_interval(&[7.]), Some((7., None)));
        assert_eq!(mean_and_interval(&[]), None);
    }
}
