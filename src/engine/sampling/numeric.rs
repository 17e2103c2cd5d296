//! Sums and maxima over many f32 with fixed lanes in a fixed order, so that the result depends on the numbers alone.
//! The vectors are spelled out, as are those of [`crate::model::ops::PackedWeight`] and for the same reason.

use wide::f32x16;

/// Elements whose lane sums are kept in f32 before they go to f64.
const STRETCH: usize = 1024;

/// A vector of the last numbers of a slice, padded with `fill`.
fn padded(rest: &[f32], fill: f32) -> f32x16 {
    let mut line = [fill; 16];
    line[..rest.len()].copy_from_slice(rest);
    f32x16::from(line)
}

/// The largest element, or negative infinity for an empty slice. With NaN elements the result is unspecified.
pub(crate) fn max(xs: &[f32]) -> f32 {
    let (lines, rest) = xs.as_chunks::<16>();
    let most = lines.iter().fold(padded(rest, f32::NEG_INFINITY), |most, line| most.fast_max(f32x16::from(*line)));
    most.to_array().into_iter().fold(f32::NEG_INFINITY, |m, x| if x > m { x } else { m })
}

/// Sum of `f(x)` over all elements, in a fixed order.
#[inline(always)]
pub(crate) fn sum_of(xs: &[f32], f: impl Fn(f32x16) -> f32x16) -> f64 {
    let mut total = 0.;
    for stretch in xs.chunks(STRETCH) {
        let (lines, rest) = stretch.as_chunks::<16>();
        let sums = lines.iter().fold(f32x16::ZERO, |sums, line| sums + f(f32x16::from(*line)));
        total += sums.to_array().iter().map(|&s| f64::from(s)).sum::<f64>();
        if !rest.is_empty() {
            total += f(padded(rest, 0.)).to_array()[..rest.len()].iter().map(|&s| f64::from(s)).sum::<f64>();
        }
    }
    total
}

/// Replaces every `x` by `f(x)` and returns their sum, in the order of [`sum_of`].
#[inline(always)]
pub(crate) fn map_sum(xs: &mut [f32], f: impl Fn(f32x16) -> f32x16) -> f64 {
    let (lines, rest) = xs.as_chunks_mut::<16>();
    for line in lines {
        *line = f(f32x16::from(*line)).to_array();
    }
    let last = f(padded(rest, 0.)).to_array();
    rest.iter_mut().zip(last).for_each(|(to, x)| *to = x);
    sum_of(xs, |x| x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_close_to_the_library_and_ends_in_zero() {
        for i in 0..200_000 {
            let x = -86. + i as f32 * 174e-5 / 2.;
            let want = f64::from(x).exp();
            let got = f64::from(f32x16::splat(x).exp().to_array()[3]);
            assert!((got - want).abs() <= 3e-7 * want, "exp({x}) is {got}, not {want}");
        }
        for (x, want) in [(0., 1.), (-200., 0.), (f32::NEG_INFINITY, 0.)] {
            // Beside an ordinary number, and beside others that are 0 as well.
            assert_eq!(padded(&[x, 1.], 0.).exp().to_array()[0], want);
            assert_eq!(padded(&[x], -1000.).exp().to_array()[0], want);
        }
    }

    #[test]
    fn sums_and_maxima() {
        for n in [0, 1, 15, 16, 17, 1023, 5003] {
            let mut xs: Vec<f32> = (0..n).map(|i| (i % 17) as f32 - 3.).collect();
            let want = xs.iter().map(|&x| f64::from(x)).sum::<f64>();
            assert_eq!(sum_of(&xs, |x| x), want);
            assert_eq!(max(&xs), xs.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            assert_eq!(map_sum(&mut xs, |x| x + f32x16::ONE), want + n as f64);
            assert!(xs.iter().enumerate().all(|(i, &x)| x == (i % 17) as f32 - 2.));
        }
        assert!(sum_of(&[1., f32::NAN], |x| x * f32x16::ZERO).is_nan());
        assert!(sum_of(&[f32::INFINITY; 40], |x| x * f32x16::ZERO).is_nan());
    }
}
