//! The fused operations against the composed ones, their gradients against the composed ones' in f64, those against finite
//! differences, and the bits of a row whatever is computed beside it.

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Result, Tensor, Var};
use proptest::prelude::*;
use reflux::model::ops::{self, Packed, RopeRows, Segment, composed};
use reflux::model::{Attention, Config, Llama};

const CPU: Device = Device::Cpu;

/// Numbers in (-1, 1) that a formula gives, in f32 precision.
fn numbers(shape: &[usize], seed: u32) -> Tensor {
    let n: usize = shape.iter().product();
    let mut state = seed.wrapping_mul(2_654_435_769).wrapping_add(12345);
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.
    };
    Tensor::from_vec(std::iter::repeat_with(next).take(n).collect::<Vec<f32>>(), shape, &CPU).unwrap()
}

fn var(t: &Tensor, dtype: DType) -> Var {
    Var::from_tensor(&t.to_dtype(dtype).unwrap()).unwrap()
}

fn list(t: &Tensor) -> Vec<f64> {
    t.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

fn bits(t: &Tensor) -> Vec<u32> {
    t.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

fn close(what: &str, got: &Tensor, want: &Tensor, tolerance: f64) {
    assert_eq!(got.dims(), want.dims(), "{what}");
    let (got, want) = (list(got), list(want));
    let size = want.iter().fold(1e-3f64, |m, x| m.max(x.abs()));
    for (i, (g, w)) in got.iter().zip(&want).enumerate() {
        assert!((g - w).abs() <= tolerance * size, "{what}[{i}]: {g} is not {w} (greatest {size})");
    }
}

type Operation<'a> = &'a dyn Fn(&[Tensor]) -> Result<Tensor>;

/// The gradients of sum(weights * f(inputs)).
fn gradients(f: Operation, inputs: &[Var]) -> (Tensor, GradStore) {
    let tensors: Vec<Tensor> = inputs.iter().map(|v| v.as_tensor().clone()).collect();
    let y = f(&tensors).unwrap();
    let weights = numbers(y.dims(), 99).to_dtype(y.dtype()).unwrap();
    let grads = (&y * weights).unwrap().sum_all().unwrap().backward().unwrap();
    (y, grads)
}

/// Fused in f32 against composed in f64, values and all gradients; composed against finite differences.
fn check(what: &str, fused: Operation, composed: Operation, inputs: &[Tensor]) {
    let narrow: Vec<Var> = inputs.iter().map(|t| var(t, DType::F32)).collect();
    let wide: Vec<Var> = inputs.iter().map(|t| var(t, DType::F64)).collect();
    let (y, grads) = gradients(fused, &narrow);
    let (y_wide, grads_wide) = gradients(composed, &wide);
    close(what, &y, &y_wide, 2e-6);
    for (i, (n, w)) in narrow.iter().zip(&wide).enumerate() {
        let (n, w) = (grads.get(n).expect("a gradient"), grads_wide.get(w).expect("a gradient"));
        close(&format!("{what}, gradient {i}"), n, w, 1e-5);
    }
    for (i, input) in wide.iter().enumerate() {
        let analytic = list(grads_wide.get(input).unwrap());
        // A handful of elements, spread out.
        for at in (0..analytic.len()).step_by(analytic.len().div_ceil(7)) {
            let value = |delta: f64| {
                let mut all = list(input);
                all[at] += delta;
                let mut tensors: Vec<Tensor> = wide.iter().map(|v| v.as_tensor().detach()).collect();
                tensors[i] = Tensor::from_vec(all, input.dims(), &CPU).unwrap();
                let y = composed(&tensors).unwrap();
                let weights = numbers(y.dims(), 99).to_dtype(DType::F64).unwrap();
                (y * weights).unwrap().sum_all().unwrap().to_scalar::<f64>().unwrap()
            };
            let numeric = (value(1e-5) - value(-1e-5)) / 2e-5;
            let error = (numeric - analytic[at]).abs();
            assert!(error < 1e-6 * (1. + numeric.abs()), "{what}, input {i}[{at}]: {} is not {numeric}", analytic[at]);
        }
    }
}

#[test]
fn rms_norm() {
    for (n, d) in [(1, 8), (3, 33), (130, 64)] {
        check(
            "rms_norm",
            &|t| ops::rms_norm(&t[0], &t[1], 1e-5),
            &|t| composed::rms_norm(&t[0], &t[1], 1e-5),
            &[numbers(&[n, d], 1), numbers(&[d], 2)],
        );
    }
}

#[test]
fn swiglu() {
    for (n, f) in [(1, 5), (7, 96), (400, 100)] {
        let gate = (numbers(&[n, f], 1) * 8.).unwrap();
        check(
            "swiglu",
            &|t| ops::swiglu(&t[0], &t[1]),
            &|t| composed::swiglu(&t[0], &t[1]),
            &[gate, numbers(&[n, f], 2)],
        );
    }
    // Far out, where e^-x is beyond f32.
    let far = Tensor::new(&[[-200f32, -90., 90., 200.]], &CPU).unwrap();
    let y = ops::swiglu(&far, &far.ones_like().unwrap()).unwrap();
    close("swiglu far out", &y, &Tensor::new(&[[0f32, 0., 90., 200.]], &CPU).unwrap(), 1e-6);
}

#[test]
fn rope() {
    let (n, heads, half) = (9, 3, 4);
    let rows = |dtype| {
        let angles = (numbers(&[n, 1, half], 5) * 3.).unwrap();
        let to = |t: Result<Tensor>| t.unwrap().to_dtype(dtype).unwrap();
        RopeRows { cos: to(angles.cos()), sin: to(angles.sin()) }
    };
    check(
        "rope",
        &|t| ops::rope(&t[0], &rows(DType::F32)),
        &|t| composed::rope(&t[0], &rows(DType::F64)),
        &[numbers(&[n, heads, 2 * half], 1)],
    );
}

#[test]
fn linear() {
    for n in [1, 2, 17] {
        check(
            "linear",
            &|t| ops::linear(&t[0], &t[1]),
            &|t| composed::linear(&t[0], &t[1]),
            &[numbers(&[n, 24], 1), numbers(&[40, 24], 2)],
        );
    }
}

#[test]
fn frozen_operands_get_no_gradient() {
    let (x, w) = (var(&numbers(&[3, 8], 1), DType::F32), numbers(&[8, 8], 2));
    let norm = numbers(&[8], 3);
    let y = ops::linear(&ops::rms_norm(x.as_tensor(), &norm, 1e-5).unwrap(), &w).unwrap();
    let y = ops::swiglu(&y, &w.narrow(0, 0, 3).unwrap()).unwrap();
    let y = ops::log_prob_of(&y, &w, &[1, 2, 3]).unwrap();
    let grads = y.sum_all().unwrap().backward().unwrap();
    assert!(grads.get(&x).is_some());
    assert!(grads.get(&w).is_none() && grads.get(&norm).is_none());
}

#[test]
fn log_prob_of() {
    // More tokens than are held at once, and one alone.
    for (n, d, vocab) in [(1, 8, 11), (2, 8, 11), (5, 16, 9000), (1030, 4, 12)] {
        let targets: Vec<u32> = (0..n).map(|i| (i * 4099 + vocab - 1) as u32 % vocab as u32).collect();
        check(
            &format!("log_prob_of {n} {vocab}"),
            &|t| ops::log_prob_of(&t[0], &t[1], &targets),
            &|t| composed::log_prob_of(&t[0], &t[1], &targets),
            &[(numbers(&[n, d], 1) * 4.).unwrap(), numbers(&[vocab, d], 2)],
        );
    }
    let (h, w) = (numbers(&[2, 4], 1), numbers(&[6, 4], 2));
    assert!(ops::log_prob_of(&h, &w, &[0, 6]).is_err());
    assert!(ops::log_prob_of(&h, &w, &[0]).is_err());
}

/// A pair (prompt, two branches), a plain sequence and a single row; sizes around the tiles' edges.
fn segments(prompt: usize, chosen: usize, rejected: usize, plain: usize) -> Vec<Segment> {
    let mut at = 0;
    let mut next = |n: usize| {
        at += n;
        at - n..at
    };
    let p = next(prompt);
    let mut all = vec![Segment::plain(p.clone())];
    all.push(Segment { prefix: p.clone(), rows: next(chosen) });
    all.push(Segment { prefix: p, rows: next(rejected) });
    all.push(Segment::plain(next(plain)));
    all.push(Segment::plain(next(1)));
    all
}

fn attend(segments: &[Segment], t: &[Tensor]) -> Result<Tensor> {
    Packed::new(segments.to_vec()).attend(0, &t[0], &t[1], &t[2])
}

fn qkv(segments: &[Segment], heads: usize, kv: usize, width: usize) -> [Tensor; 3] {
    let n = segments.last().unwrap().rows.end;
    let big = |t: Tensor| (t * 3.).unwrap();
    [big(numbers(&[n, heads, width], 1)), big(numbers(&[n, kv, width], 2)), numbers(&[n, kv, width], 3)]
}

#[test]
fn attention() {
    for (sizes, (heads, kv, width)) in [
        ([5, 3, 4, 2], (4, 2, 8)),
        ([17, 1, 16, 70], (3, 1, 6)),
        ([64, 65, 2, 33], (2, 2, 64)),
        ([0, 3, 0, 1], (2, 1, 4)),
    ] {
        let s = segments(sizes[0], sizes[1], sizes[2], sizes[3]);
        check(
            &format!("attention {sizes:?}"),
            &|t| attend(&s, t),
            &|t| composed::attention(&s, &t[0], &t[1], &t[2]),
            &qkv(&s, heads, kv, width),
        );
    }
}

#[test]
fn segments_must_cover_the_rows() {
    let t = qkv(&[Segment::plain(0..6)], 2, 1, 4);
    for bad in [
        vec![Segment::plain(0..5)],
        vec![Segment::plain(1..6)],
        vec![Segment::plain(0..4), Segment::plain(3..6)],
        vec![Segment::plain(0..7)],
        vec![Segment { prefix: 0..9, rows: 0..6 }],
    ] {
        assert!(attend(&bad, &t).is_err(), "{bad:?}");
    }
}

#[test]
fn a_branch_equals_its_sequence_alone() {
    let s = segments(20, 30, 25, 4);
    let t = qkv(&s, 4, 2, 16);
    let packed = attend(&s, &t).unwrap();
    let rows: Vec<u32> = (0..20).chain(50..75).collect();
    let rows = Tensor::new(rows, &CPU).unwrap();
    let alone: Vec<Tensor> = t.iter().map(|t| t.index_select(&rows, 0).unwrap()).collect();
    let alone = attend(&[Segment::plain(0..45)], &alone).unwrap();
    let branch = packed.narrow(0, 50, 25).unwrap();
    // To rounding only: the tiles begin at other rows, but every row's chain is the same, so the bits are too.
    assert_eq!(bits(&branch), bits(&alone.narrow(0, 20, 25).unwrap()));
}

#[test]
fn a_row_has_the_same_bits_in_every_company() {
    let (k, n) = (96, 56);
    let (x, w) = (numbers(&[300, k], 1), numbers(&[n, k], 2));
    let gain = numbers(&[k], 3);
    let targets: Vec<u32> = (0..300).map(|i| i % n as u32).collect();
    let all = [
        ops::linear(&x, &w).unwrap(),
        ops::rms_norm(&x, &gain, 1e-5).unwrap(),
        ops::swiglu(&x, &x).unwrap(),
        ops::log_prob_of(&x, &w, &targets).unwrap(),
    ];
    for (start, rows) in [(0, 1), (7, 1), (7, 2), (100, 3), (5, 64), (33, 200), (299, 1)] {
        let x = x.narrow(0, start, rows).unwrap();
        let some = [
            ops::linear(&x, &w).unwrap(),
            ops::rms_norm(&x, &gain, 1e-5).unwrap(),
            ops::swiglu(&x, &x).unwrap(),
            ops::log_prob_of(&x, &w, &targets[start..start + rows]).unwrap(),
        ];
        for (i, (all, some)) in all.iter().zip(&some).enumerate() {
            let all = all.narrow(0, start, rows).unwrap();
            assert_eq!(bits(&all), bits(some), "operation {i}, rows {start} + {rows}");
        }
    }
}

#[test]
fn linear_rows_have_the_same_bits_at_a_real_models_shapes() {
    for (k, n) in [(576, 192), (576, 1536), (1536, 576), (576, 4096), (2048, 256), (600, 64), (1024, 7), (64, 100)] {
        let (x, w) = (numbers(&[600, k], 1), numbers(&[n, k], 2));
        let all = ops::linear(&x, &w).unwrap();
        for rows in [1, 2, 3, 5, 16, 37, 64, 65, 128, 333] {
            let some = ops::linear(&x.narrow(0, 600 - rows, rows).unwrap(), &w).unwrap();
            assert_eq!(bits(&all.narrow(0, 600 - rows, rows).unwrap()), bits(&some), "{rows} rows of {k} to {n}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() })]
    /// Attention, forward and backward, has the same bits on one thread and on three; and a row the same bits when later rows
    /// of its segment are taken away.
    #[test]
    fn attention_bits(prompt in 1usize..70, chosen in 1usize..40, rejected in 1usize..40, plain in 1usize..80) {
        let s = segments(prompt, chosen, rejected, plain);
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let vars: Vec<Var> = qkv(&s, 4, 2, 8).iter().map(|t| var(t, DType::F32)).collect();
                let (y, grads) = gradients(&|t| attend(&s, t), &vars);
                let mut all = vec![bits(&y)];
                all.extend(vars.iter().map(|v| bits(grads.get(v).unwrap())));
                all
            })
        };
        prop_assert_eq!(run(1), run(3));

        let t = qkv(&s, 4, 2, 8);
        let whole = attend(&s, &t).unwrap();
        let part: Vec<Tensor> = t.iter().map(|t| t.narrow(0, 0, prompt.div_ceil(2)).unwrap()).collect();
        let part = attend(&[Segment::plain(0..prompt.div_ceil(2))], &part).unwrap();
        prop_assert_eq!(bits(&whole.narrow(0, 0, prompt.div_ceil(2)).unwrap()), bits(&part));
    }
}

fn tiny() -> Config {
    serde_json::from_value(serde_json::json!({
        "vocab_size": 23, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 64
    }))
    .unwrap()
}

/// A DPO-shaped loss of the whole network.
fn loss(dtype: DType, change: Option<(&str, usize, f64)>) -> (f64, Llama, GradStore) {
    let config = tiny();
    let mut weights = std::collections::BTreeMap::new();
    for (i, (name, shape)) in config.weights().into_iter().enumerate() {
        let mut w = list(&numbers(&shape, i as u32 + 1));
        if shape.len() == 1 {
            w.iter_mut().for_each(|w| *w += 1.5);
        }
        if let Some((_, at, delta)) = change.filter(|c| c.0 == name) {
            w[at] += delta;
        }
        weights.insert(name, Tensor::from_vec(w, shape, &CPU).unwrap().to_dtype(dtype).unwrap());
    }
    let llama = Llama::trainable(&config, &weights).unwrap();
    let ids: Vec<u32> = (0..14).map(|i| i * 5 % 23).collect();
    let positions: Vec<u32> = (0..6).chain(6..10).chain(6..10).collect();
    let segments =
        vec![Segment::plain(0..6), Segment { prefix: 0..6, rows: 6..10 }, Segment { prefix: 0..6, rows: 10..14 }];
    let hidden = llama.forward(&ids, &positions, &mut Packed::new(segments)).unwrap();
    let rows = Tensor::new(&[5u32, 6, 7, 8, 5, 10, 11, 12], &CPU).unwrap();
    let hidden = hidden.index_select(&rows, 0).unwrap();
    let targets: Vec<u32> = ids[6..14].to_vec();
    let logps = ops::log_prob_of(&hidden, llama.head().unwrap(), &targets).unwrap();
    let margin = (logps.narrow(0, 0, 4).unwrap().sum_all().unwrap()
        - logps.narrow(0, 4, 4).unwrap().sum_all().unwrap())
    .unwrap();
    let loss = margin.sqr().unwrap();
    let grads = loss.backward().unwrap();
    (loss.to_dtype(DType::F64).unwrap().to_scalar().unwrap(), llama, grads)
}

#[test]
fn every_weight_of_a_llama_gets_its_gradient() {
    let (narrow, fused, fused_grads) = loss(DType::F32, None);
    let (wide, reference, grads) = loss(DType::F64, None);
    assert!((narrow - wide).abs() < 1e-4 * wide.abs(), "{narrow} {wide}");
    assert_eq!(fused.variables().len(), tiny().weights().len());
    for (name, v) in fused.variables() {
        let got = fused_grads.get(v).unwrap_or_else(|| panic!("{name} has no gradient"));
        assert!(list(got).iter().any(|g| *g != 0.), "the gradient of {name} is zero");
        let want = grads.get(&reference.variables()[name]).unwrap();
        close(name, got, want, 1e-4);
        let at = want.elem_count() / 2;
        // Of the embedding, a token that is there.
        let at = if name.contains("embed") { 5 * 16 + 3 } else { at };
        let step = 1e-6;
        let numeric =
            (loss(DType::F64, Some((name, at, step))).0 - loss(DType::F64, Some((name, at, -step))).0) / (2. * step);
        let analytic = list(want)[at];
        assert!((numeric - analytic).abs() < 1e-5 * (1. + numeric.abs()), "{name}[{at}]: {analytic} is not {numeric}");
    }
}

#[test]
fn a_frozen_llama_builds_no_graph() {
    let (_, llama, _) = loss(DType::F32, None);
    let weights = llama.weights().iter().map(|(n, w)| (n.clone(), w.detach())).collect();
    let frozen = Llama::frozen(llama.config(), &weights).unwrap();
    let hidden = frozen.forward(&[1, 2], &[0, 1], &mut Packed::new(vec![Segment::plain(0..2)])).unwrap();
    assert!(!hidden.track_op() && frozen.variables().is_empty());
}
