//! Draws against the exact distribution, which is worked out here anew: a full sort in f64, and no shortcut.

use super::*;

/// Probability of each token, after penalty, temperature, top-k, top-p and min-p.
fn exact(logits: &[f32], s: &Sampling, context: &[u32], banned: &[u32]) -> Vec<f64> {
    let mut ls: Vec<f64> = logits.iter().map(|&l| f64::from(l)).collect();
    let penalty = f64::from(s.repetition_penalty);
    for (l, id) in ls.iter_mut().zip(0u32..) {
        if context.contains(&id) {
            *l = if *l < 0. { *l * penalty } else { *l / penalty };
        }
        if banned.contains(&id) {
            *l = f64::NEG_INFINITY;
        }
    }
    let t = f64::from(s.temperature);
    let mut p: Vec<(f64, usize)> = ls.iter().enumerate().map(|(id, l)| ((l / t).exp(), id)).collect();
    p.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    if s.top_k > 0 {
        p.truncate(s.top_k);
    }
    let total: f64 = p.iter().map(|x| x.0).sum();
    if s.top_p < 1. {
        let (mut mass, mut n) = (0., 0);
        while n < p.len() && (n == 0 || mass < f64::from(s.top_p) * total) {
            mass += p[n].0;
            n += 1;
        }
        p.truncate(n);
    }
    let best = p[0].0;
    p.retain(|x| x.0 >= f64::from(s.min_p) * best);
    let total: f64 = p.iter().map(|x| x.0).sum();
    let mut out = vec![0.; logits.len()];
    p.iter().for_each(|&(w, id)| out[id] = w / total);
    out
}

fn uniform(key: u64, i: u64) -> f64 {
    use rand_chacha::rand_core::Rng;
    let mut rng = crate::data::RngKey::new(key, "test", 0, "", 0).rng();
    rng.set_word_pos(2 * u128::from(i));
    unit(rng.next_u64())
}

/// Upper 1e-6 quantile of chi-squared, by Wilson and Hilferty's approximation.
fn limit(degrees: usize) -> f64 {
    let d = degrees.max(1) as f64;
    let z = 4.753_424;
    d * (1. - 2. / (9. * d) + z * (2. / (9. * d)).sqrt()).powi(3)
}

fn check(logits: &[f32], s: &Sampling, context: &[u32], banned: &[u32], key: u64) {
    const N: u64 = 40_000;
    let p = exact(logits, s, context, banned);
    let mut scratch = Scratch::default();
    let mut counts = vec![0u64; logits.len()];
    for i in 0..N {
        let context = [&context[..context.len() / 2], &context[context.len() / 2..]];
        let draw = TokenDraw { logits, sampling: s, context, banned: [&[], banned], uniform: uniform(key, i) };
        let (token, logprob) = draw.token(&mut scratch).unwrap();
        counts[token as usize] += 1;
        let total: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
        let want = f64::from(logits[token as usize]) - total.ln();
        assert!((f64::from(logprob) - want).abs() < 1e-5, "log-probability {logprob}, not {want}");
    }
    let mut chi = 0.;
    for (id, (&n, &p)) in counts.iter().zip(&p).enumerate() {
        assert!(p > 0. || n == 0, "token {id} was drawn under {s:?}, and has no probability");
        if p > 0. {
            chi += (n as f64 - p * N as f64).powi(2) / (p * N as f64);
        }
    }
    let degrees = p.iter().filter(|&&p| p > 0.).count() - 1;
    assert!(chi <= limit(degrees), "chi-squared {chi} with {degrees} degrees of freedom under {s:?}");
}

const LOGITS: [f32; 12] = [1.2, -0.3, 2.5, 0., -1.7, 2.4, 0.9, -0.2, 1.2, -2.5, 0.4, 1.9];

#[test]
fn each_option_and_their_combinations_follow_the_exact_distribution() {
    let mut key = 0u64;
    for temperature in [1., 0.6, 1.5] {
        for top_p in [1., 0.8, 0.35] {
            for top_k in [0, 5] {
                for min_p in [0., 0.2] {
                    for repetition_penalty in [1., 1.4] {
                        key += 1;
                        let s =
                            Sampling { temperature, top_p, top_k, min_p, repetition_penalty, ..Sampling::default() };
                        check(&LOGITS, &s, &[2, 4, 2, 9], if key.is_multiple_of(3) { &[5] } else { &[] }, key);
                    }
                }
            }
        }
    }
}

#[test]
fn the_nucleus_ends_exactly_at_its_mass() {
    // Four equal tokens and one of a quarter of their weight: masses 4/17 each, 1/17.
    let logits = [0., 0., 0., 0., -(4f32.ln())];
    for (top_p, kept) in [(0., 1), (0.2, 1), (0.2352, 1), (0.2354, 2), (0.5, 3), (0.94, 4), (0.9412, 5), (1., 5)] {
        let s = Sampling { top_p, ..Sampling::default() };
        let seen: std::collections::BTreeSet<u32> = (0..2000)
            .map(|i| {
                let draw = TokenDraw {
                    logits: &logits,
                    sampling: &s,
                    context: [&[], &[]],
                    banned: [&[], &[]],
                    uniform: i as f64 / 2000.,
                };
                draw.token(&mut Scratch::default()).unwrap().0
            })
            .collect();
        // Among equals the lower ids stay.
        assert_eq!(seen, (0..kept).collect(), "top_p {top_p}");
    }
    // Exactly half the mass: two of four equal tokens, not three.
    let s = Sampling { top_p: 0.5, ..Sampling::default() };
    let draw =
        TokenDraw { logits: &[1.; 4], sampling: &s, context: [&[], &[]], banned: [&[], &[]], uniform: 0.999_999 };
    assert_eq!(draw.token(&mut Scratch::default()).unwrap().0, 1);
}

#[test]
fn shortcuts_over_a_large_vocabulary_keep_the_exact_set() {
    let mut scratch = Scratch::default();
    for case in 0..40u64 {
        let spread = [0.5, 2., 6., 20.][case as usize % 4];
        let logits: Vec<f32> = (0..9000).map(|i| ((uniform(case, i) - 0.5) * spread) as f32).collect();
        let s = Sampling {
            top_p: [1., 0.9, 0.99, 0.3][case as usize / 4 % 4],
            top_k: [0, 40, 700][case as usize % 3],
            min_p: [0., 0.05][case as usize / 2 % 2],
            temperature: 0.7,
            ..Sampling::default()
        };
        let p = exact(&logits, &s, &[], &[]);
        let set = p.iter().filter(|&&p| p > 0.).count();
        let mut draw =
            TokenDraw { logits: &logits, sampling: &s, context: [&[], &[]], banned: [&[], &[]], uniform: 0. };
        let filtered = s.top_p < 1. || s.top_k > 0 || s.min_p > 0.;
        draw.token(&mut scratch).unwrap();
        if filtered {
            // Rounding may move the edge of a large set by a token or two in thousands.
            let got = scratch.candidates.len();
            assert!(got.abs_diff(set) <= 1 + set / 2000, "{got} tokens kept, not {set}, under {s:?}");
        }
        for i in 0..50 {
            draw.uniform = uniform(case, 10_000 + i);
            let token = draw.token(&mut scratch).unwrap().0 as usize;
            assert!(p[token] > 0. || filtered && set > 500, "token {token} has no probability under {s:?}");
        }
    }
}

#[test]
fn the_whole_vocabulary_is_drawn_from_stretch_by_stretch() {
    let logits: Vec<f32> = (0..5000).map(|i| (i % 7) as f32 * 0.3).collect();
    let p = exact(&logits, &Sampling::default(), &[], &[]);
    let mut sum = 0.;
    for (id, p) in p.iter().enumerate() {
        // The middle of a token's share of [0, 1) draws that token.
        let draw = TokenDraw {
            logits: &logits,
            sampling: &Sampling::default(),
            context: [&[], &[]],
            banned: [&[], &[]],
            uniform: sum + p / 2.,
        };
        assert_eq!(draw.token(&mut Scratch::default()).unwrap().0 as usize, id);
        sum += p;
    }
    assert_eq!(draw_any(&[0., 1., 0.], 1. - 1e-16), Some(1));
    assert_eq!(draw_any(&[0., 0.], 0.5), None);
}

#[test]
fn temperature_zero_is_greedy_and_the_lowest_id_wins() {
    let s = Sampling { temperature: 0., top_k: 3, ..Sampling::default() };
    let pick = |logits: &[f32], banned: &[u32], context: &[u32], s: &Sampling| {
        let draw = TokenDraw { logits, sampling: s, context: [context, &[]], banned: [banned, &[]], uniform: 0.99 };
        draw.token(&mut Scratch::default()).map(|t| t.0)
    };
    assert_eq!(pick(&[1., 3., 3., 2.], &[], &[], &s), Some(1));
    assert_eq!(pick(&[1., 3., 3., 2.], &[1], &[], &s), Some(2));
    let penalised = Sampling { repetition_penalty: 2., ..s.clone() };
    assert_eq!(pick(&[1., 3., 3., 2.], &[], &[1, 2], &penalised), Some(3));
    // A very low temperature is nearly greedy and overflows nowhere.
    let cold = Sampling { temperature: f32::MIN_POSITIVE, ..Sampling::default() };
    assert_eq!(pick(&[1., 3., 2.], &[], &[], &cold), Some(1));
}

#[test]
fn bad_logits_and_a_wholly_banned_vocabulary_draw_nothing() {
    for logits in [[f32::NAN, 1.], [f32::INFINITY, 1.], [f32::NEG_INFINITY, 1.]] {
        let draw = TokenDraw {
            logits: &logits,
            sampling: &Sampling::default(),
            context: [&[], &[]],
            banned: [&[], &[]],
            uniform: 0.5,
        };
        assert_eq!(draw.token(&mut Scratch::default()), None);
    }
    let draw = TokenDraw {
        logits: &[1., 2.],
        sampling: &Sampling::default(),
        context: [&[], &[]],
        banned: [&[0], &[1]],
        uniform: 0.5,
    };
    assert_eq!(draw.token(&mut Scratch::default()), None);
}
