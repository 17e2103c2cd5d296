//! Small f32 kernels whose result depends on their input alone: fixed lanes, fixed order, the same on every thread.

/// Elements that are processed side by side. Sums are kept per lane and folded in lane order.
const LANES: usize = 16;
/// Elements whose lane sums are kept in f32 before they go to f64.
const STRETCH: usize = 1024;

/// `a * b + c`, fused where the machine has an instruction for it.
#[inline(always)]
pub(super) fn fma(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) { a.mul_add(b, c) } else { a * b + c }
}

/// `e^x` within 2 ulp for `x <= 88`; exactly 0 below -87. Branch-free, so that loops over it are vectorised.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    let clamped = x.clamp(-87., 88.);
    let n = (clamped * std::f32::consts::LOG2_E).round_ties_even();
    // ln 2 in two parts, so that the remainder is exact to f32.
    let r = fma(n, -0.693_359_4, clamped);
    let r = fma(n, 2.121_944_4e-4, r);
    // Cephes' polynomial for e^r on [-ln 2 / 2, ln 2 / 2].
    let mut p = 1.987_569_1e-4_f32;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1] {
        p = fma(p, r, c);
    }
    let e = fma(p * r, r, r) + 1.;
    let scaled = e * f32::from_bits(((n as i32 + 127) as u32) << 23);
    if x < -87. { 0. } else { scaled }
}

/// Largest element; negative infinity if there is none.
pub(super) fn max(xs: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = xs.as_chunks::<LANES>();
    for chunk in chunks {
        for (l, &x) in lanes.iter_mut().zip(chunk) {
            *l = if x > *l { x } else { *l };
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m })
}

/// Sum of `f(x)` over all elements, in a fixed order.
#[inline(always)]
pub(super) fn sum_of(xs: &[f32], f: impl Fn(f32) -> f32) -> f64 {
    let mut total = 0.;
    for stretch in xs.chunks(STRETCH) {
        let mut lanes = [0f32; LANES];
        let (chunks, rest) = stretch.as_chunks::<LANES>();
        for chunk in chunks {
            for (l, &x) in lanes.iter_mut().zip(chunk) {
                *l += f(x);
            }
        }
        total += lanes.iter().map(|&l| f64::from(l)).sum::<f64>();
        total += rest.iter().map(|&x| f64::from(f(x))).sum::<f64>();
    }
    total
}

/// Replaces every `x` by `f(x)` and returns their sum, in a fixed order.
#[inline(always)]
pub(super) fn map_sum(xs: &mut [f32], f: impl Fn(f32) -> f32) -> f64 {
    for x in xs.iter_mut() {
        *x = f(*x);
    }
    sum_of(xs, |x| x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_to_the_library() {
        for i in 0..200_000 {
            let x = -87. + i as f32 * 175e-5 / 2.;
            let want = f64::from(x).exp();
            let got = f64::from(exp(x));
            assert!((got - want).abs() <= 2.5e-7 * want, "exp({x}) is {got}, not {want}");
        }
        assert_eq!(exp(0.), 1.);
        assert_eq!(exp(-88.), 0.);
        assert_eq!(exp(f32::NEG_INFINITY), 0.);
    }

    #[test]
    fn sums_and_maxima() {
        let xs: Vec<f32> = (0..5003).map(|i| (i % 17) as f32 - 3.).collect();
        assert_eq!(sum_of(&xs, |x| x), xs.iter().map(|&x| f64::from(x)).sum::<f64>());
        assert_eq!(max(&xs), 13.);
        assert_eq!(max(&[]), f32::NEG_INFINITY);
    }
}
