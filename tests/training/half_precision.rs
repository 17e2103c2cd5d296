//! Models in bf16 and f16 compute what torch computes with them: log-probabilities, gradients and steps of training. The
//! goldens are made by `goldens/half/make.py`.
//!
//! Each check runs twice: with the code of the CPU, and with the operations composed of candle's own, which other devices
//! use. The first widens the weights and is f32 throughout, so it is held to torch's f32. The second multiplies in the
//! weights' type, so it is held to what torch loses in that type.

use std::collections::BTreeMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use reflux::cancel::CancelFlag;
use reflux::data::RngKey;
use reflux::engine::{EngineConfig, Request, Sampling, open};
use reflux::model::backprop::{self, ForwardOptions, Gradient, Gradients, PackedRows, Pool};
use reflux::model::ops::{Segment, with_composed};
use reflux::model::{Config, Llama, Message, Model};
use reflux::train::losses::PairColumns;
use reflux::train::{
    AdamWConfig, Decay, Example, ForwardLimits, Objective, Pair, Quiet, Reference, Schedule, StepMetrics, Trainer,
    Warmup, reference,
};
use serde_json::Value;

const HALVES: [(&str, DType); 2] = [("bf16", DType::BF16), ("f16", DType::F16)];
const BETA: f64 = 0.1;

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/half").join(name)
}
fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(file(name)).unwrap()).unwrap()
}
fn tensors(name: &str) -> BTreeMap<String, Tensor> {
    candle_core::safetensors::load(file(name), &Device::Cpu).unwrap().into_iter().collect()
}
fn config() -> Config {
    serde_json::from_value(json("config.json")).unwrap()
}
fn weights(dtype: DType) -> BTreeMap<String, Tensor> {
    tensors("start.safetensors").into_iter().map(|(name, w)| (name, w.to_dtype(dtype).unwrap())).collect()
}
fn policy(dtype: DType) -> Llama {
    Llama::trainable(&config(), &weights(dtype)).unwrap()
}
/// The policy with its last norm scaled, as the goldens' reference.
fn reference_model(dtype: DType) -> Llama {
    let mut weights = weights(dtype);
    let norm = weights.get_mut("model.norm.weight").unwrap();
    *norm = (norm.to_dtype(DType::F32).unwrap() * 0.9).unwrap().to_dtype(dtype).unwrap();
    Llama::frozen(&config(), &weights).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}
fn pairs(dtype: DType) -> Vec<Pair> {
    let pair = |(i, p): (usize, &Value)| Pair {
        id: format!("pair-{i}"),
        prompt: ids(&p["prompt"]),
        chosen: ids(&p["chosen"]),
        rejected: ids(&p["rejected"]),
        reference: None,
        columns: PairColumns::default(),
    };
    let mut pairs: Vec<Pair> = json("data.json")["pairs"].as_array().unwrap().iter().enumerate().map(pair).collect();
    reference(&reference_model(dtype), &mut pairs, ForwardLimits::default(), &mut Quiet).unwrap();
    pairs
}
fn examples() -> Vec<Example> {
    let example = |e: &Value| Example { tokens: ids(&e["tokens"]), context: e["context"].as_u64().unwrap() as usize };
    json("data.json")["examples"].as_array().unwrap().iter().map(example).collect()
}

/// Runs a check as the CPU computes, and as other devices compute. The second argument says whether products are in half
/// precision.
fn both_ways(check: impl Fn(&str, bool)) {
    check("on the CPU", false);
    with_composed(|| check("composed", true));
}

/// The summed log-probabilities of the pairs' completions, chosen and rejected in turn.
fn completion_sums(llama: &Llama, dtype: DType) -> Vec<f64> {
    let mut pairs: Vec<Pair> = pairs(dtype).into_iter().map(|p| Pair { reference: None, ..p }).collect();
    reference(llama, &mut pairs, ForwardLimits::default(), &mut Quiet).unwrap();
    let sums = |p: &Pair| <[f64; 2]>::from(p.reference.as_ref().map(Reference::sums).unwrap());
    pairs.iter().flat_map(sums).collect()
}
fn golden_sums(golden: &Value, name: &str) -> Vec<f64> {
    let pairs = golden[name]["logprobs"].as_array().unwrap().iter();
    pairs.flat_map(|p| p.as_array().unwrap().iter().map(|s| s.as_f64().unwrap())).collect()
}
fn worst(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0., f64::max)
}

#[test]
fn log_probabilities_are_torchs() {
    let golden = json("golden.json");
    let exact = golden_sums(&golden, "f32");
    for (name, dtype) in HALVES {
        // What torch itself loses in this type, over completions of up to 41 tokens.
        let lost = worst(&golden_sums(&golden, name), &exact);
        assert!((0.01..0.5).contains(&lost), "{name}: torch is off by {lost}");
        both_ways(|way, half_products| {
            let off = worst(&completion_sums(&policy(dtype), dtype), &exact);
            println!("{name} {way}: log-probabilities within {off:.1e} of f32, torch's within {lost:.1e}");
            // The weights are exact in both types, so the arithmetic is all that differs.
            let most = if half_products { 1.5 * lost } else { 1e-3 };
            assert!(off <= most, "{name} {way}: log-probabilities are off by {off}, torch's by {lost}");
        });
    }
}

/// Sequences one after the other, and for each the rows that predict its last tokens.
fn packed(sequences: &[(Vec<u32>, usize)]) -> PackedRows {
    let mut rows = PackedRows::default();
    for (tokens, context) in sequences {
        let start = rows.ids.len();
        rows.ids.extend(&tokens[..tokens.len() - 1]);
        rows.positions.extend(0..tokens.len() as u32 - 1);
        rows.segments.push(Segment::plain(start..rows.ids.len()));
        rows.from.extend((start + context - 1..rows.ids.len()).map(|row| row as u32));
        rows.targets.extend(&tokens[*context..]);
    }
    rows
}

/// The gradients of the first step, from the derivatives of the loss by each log-probability.
fn gradients(
    llama: &Llama,
    rows: &PackedRows,
    slopes: impl Fn(&[f32]) -> Vec<f32>,
    options: ForwardOptions,
) -> Vec<(String, Vec<f32>)> {
    let (mut pool, mut gradients) = (Pool::default(), Gradients::default());
    let recorded = backprop::record(llama, rows, options, &mut pool).unwrap();
    let slopes = slopes(recorded.log_probs());
    recorded.backward(&slopes, &mut gradients, &mut pool).unwrap();
    let numbers = |g: &Gradient| match g {
        Gradient::Numbers(numbers) => numbers.clone(),
        Gradient::Tensor(t) => t.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap(),
    };
    gradients.iter().map(|(name, g)| (name.clone(), numbers(g))).collect()
}

/// Cosine to the golden gradients, and the ratio of the norms, over all weights.
fn compare(got: &[(String, Vec<f32>)], golden: &str) -> (f64, f64) {
    let want = tensors(golden);
    assert_eq!(got.len(), want.len());
    let (mut dot, mut ours, mut theirs) = (0., 0., 0.);
    for (name, got) in got {
        let want: Vec<f32> = want[name].to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(got.len(), want.len(), "{name}");
        for (a, b) in got.iter().zip(&want).map(|(a, b)| (f64::from(*a), f64::from(*b))) {
            (dot, ours, theirs) = (dot + a * b, ours + a * a, theirs + b * b);
        }
    }
    (dot / (ours * theirs).sqrt(), (ours / theirs).sqrt())
}

fn sft_gradients(llama: &Llama, options: ForwardOptions) -> Vec<(String, Vec<f32>)> {
    let batch: Vec<(Vec<u32>, usize)> = examples()[..4].iter().map(|e| (e.tokens.clone(), e.context)).collect();
    gradients(llama, &packed(&batch), |all| vec![-1. / all.len() as f32; all.len()], options)
}

fn dpo_gradients(llama: &Llama, dtype: DType, options: ForwardOptions) -> Vec<(String, Vec<f32>)> {
    let batch = &pairs(dtype)[..4];
    let sequence = |p: &Pair, answer: &[u32]| ([&p.prompt, answer].concat(), p.prompt.len());
    let sequences = batch.iter().flat_map(|p| [sequence(p, &p.chosen), sequence(p, &p.rejected)]);
    let rows = packed(&sequences.collect::<Vec<_>>());
    let slopes = |all: &[f32]| {
        let (mut rest, mut slopes) = (all, Vec::new());
        for p in batch {
            let (chosen, after) = rest.split_at(p.chosen.len());
            let (rejected, after) = after.split_at(p.rejected.len());
            rest = after;
            let sum = |all: &[f32]| all.iter().map(|&l| f64::from(l)).sum::<f64>();
            let (ref_chosen, ref_rejected) = p.reference.as_ref().unwrap().sums();
            let margin = BETA * ((sum(chosen) - ref_chosen) - (sum(rejected) - ref_rejected));
            let slope = (-BETA / (1. + margin.exp()) / batch.len() as f64) as f32;
            slopes.extend(std::iter::repeat_n(slope, chosen.len()));
            slopes.extend(std::iter::repeat_n(-slope, rejected.len()));
        }
        slopes
    };
    gradients(llama, &rows, slopes, options)
}

#[test]
fn gradients_are_those_of_f32() {
    for (name, dtype) in HALVES {
        both_ways(|way, half_products| {
            for checkpoint in [false, true] {
                let options = ForwardOptions { checkpoint, ..ForwardOptions::default() };
                let llama = policy(dtype);
                for (run, got) in
                    [("sft", sft_gradients(&llama, options)), ("dpo", dpo_gradients(&llama, dtype, options))]
                {
                    let (cosine, norm) = compare(&got, &format!("{run}-gradients.safetensors"));
                    println!("{name} {way}, {run}, checkpoint {checkpoint}: cosine {cosine:.6}, norm x {norm:.5}");
                    // The goldens are kept in bf16, which costs a cosine of about 1e-6.
                    let least = if half_products { 0.998 } else { 0.99999 };
                    let near = if half_products { 0.01 } else { 1e-3 };
                    assert!(cosine >= least, "{name} {way}, {run}: cosine {cosine} to torch's f32 gradient");
                    assert!((norm - 1.).abs() <= near, "{name} {way}, {run}: norm x {norm} of torch's f32 gradient");
                }
            }
        });
    }
}

fn three_steps(llama: &Llama, run: &str, dtype: DType) -> Vec<StepMetrics> {
    let schedule =
        Schedule { decay: Decay::Constant, learning_rate: 1e-3, final_learning_rate: 1e-3, warmup: Warmup::Steps(0) };
    let optimizer = AdamWConfig { weight_decay: 0.1, ..AdamWConfig::default() };
    // Two rows a forward, so that the gradients of several forwards are added.
    let limits = ForwardLimits { max_items: 2, ..ForwardLimits::default() };
    let mut trainer = Trainer::new(llama, optimizer, schedule, 3, limits).unwrap();
    let objective = Objective::default();
    assert!((objective.params.beta - BETA).abs() < 1e-12);
    let (pairs, examples) = (pairs(dtype), examples());
    let step = |i: usize| match run {
        "sft" => trainer.sft_step(&examples[4 * i..4 * i + 4].iter().collect::<Vec<_>>(), &mut Quiet).unwrap(),
        _ => {
            let batch: Vec<&Pair> = pairs[4 * i..4 * i + 4].iter().collect();
            trainer.dpo_step(&batch, &[], &objective, &mut Quiet).unwrap()
        }
    };
    (0..3).map(step).collect()
}

/// The relative differences of loss and gradient norm, the larger of the two.
fn apart(got: (f64, f64), want: (f64, f64)) -> f64 {
    let relative = |a: f64, b: f64| (a - b).abs() / b.abs();
    relative(got.0, want.0).max(relative(got.1, want.1))
}

#[test]
fn three_steps_of_training_are_torchs() {
    let golden = json("golden.json");
    let steps = |name: &str, run: &str| -> Vec<(f64, f64)> {
        let steps = golden[name][run]["steps"].as_array().unwrap().iter();
        steps.map(|s| (s["loss"].as_f64().unwrap(), s["grad_norm"].as_f64().unwrap())).collect()
    };
    for (name, dtype) in HALVES {
        for run in ["sft", "dpo"] {
            let want = steps(name, run);
            both_ways(|way, _| {
                let llama = policy(dtype);
                let got: Vec<(f64, f64)> =
                    three_steps(&llama, run, dtype).iter().map(|m| (m.loss, m.grad_norm)).collect();
                let off: Vec<f64> = got.iter().zip(&want).map(|(got, want)| apart(*got, *want)).collect();
                println!("{name} {way}, {run}: losses and gradient norms within {off:.4?} of torch's");
                // After a step each weight is rounded to its type, one way here and the other way there.
                assert!(
                    off[0] < 0.005 && off[1] < 0.03 && off[2] < 0.03,
                    "{name} {way}, {run}: {got:?}, torch {want:?}"
                );
                assert!(llama.variables().values().all(|v| v.dtype() == dtype));
            });
        }
    }
}

/// A policy that is its own reference starts with the loss log 2, whatever its type.
#[test]
fn the_same_weights_in_one_type_have_no_margin() {
    for (name, dtype) in HALVES {
        both_ways(|way, _| {
            let llama = policy(dtype);
            let mut pairs: Vec<Pair> = pairs(dtype).into_iter().map(|p| Pair { reference: None, ..p }).collect();
            let frozen = Llama::frozen(&config(), &weights(dtype)).unwrap();
            reference(&frozen, &mut pairs, ForwardLimits::default(), &mut Quiet).unwrap();
            let optimizer = AdamWConfig::default();
            let schedule = Schedule {
                decay: Decay::Constant,
                learning_rate: 1e-6,
                final_learning_rate: 1e-6,
                warmup: Warmup::Steps(0),
            };
            let mut trainer = Trainer::new(&llama, optimizer, schedule, 1, ForwardLimits::default()).unwrap();
            let all: Vec<&Pair> = pairs.iter().collect();
            let loss = trainer.dpo_step(&all, &[], &Objective::default(), &mut Quiet).unwrap().loss;
            assert!((loss - std::f64::consts::LN_2).abs() < 1e-5, "{name} {way}: the first loss is {loss}");
        });
    }
}

/// What an engine records while it samples is what `logprobs` and training compute, token by token.
#[test]
fn sampling_records_what_training_computes() {
    for folder in ["smollm2", "llama3"] {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/model").join(folder);
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let load = || Model::load(&path, &Device::Cpu, dtype, false).unwrap();
            let (model, engine) = (load(), open(&path, &Device::Cpu, dtype, EngineConfig::default()).unwrap());
            let messages = vec![Message::new("user", "Tell me of the ships in the harbour.")];
            let sampling = Sampling { max_tokens: 40, min_tokens: 20, ..Sampling::default() };
            let request = |sample: u32| Request {
                messages: messages.clone(),
                sampling: sampling.clone(),
                key: RngKey::new(3, "test", 0, "row", sample),
            };
            let answers = engine.generate((0..4).map(request).collect(), &CancelFlag::default()).unwrap();
            let prompt = model.tokenizer.encode_chat(&messages, true).unwrap();
            for answer in answers {
                let answer = answer.unwrap();
                let rows = packed(&[([&prompt[..], &answer.tokens].concat(), prompt.len())]);
                let computed = backprop::log_probs(&model.llama, &rows, &mut Pool::default()).unwrap();
                assert_eq!(computed.len(), answer.logprobs.len());
                for (said, found) in answer.logprobs.iter().zip(&computed) {
                    assert!((said - found).abs() <= 1e-5, "{folder} in {dtype:?}: recorded {said}, computed {found}");
                }
            }
        }
    }
}
