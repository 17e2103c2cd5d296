//! What bad rows, bad numbers and a stop get.

mod train_support;

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use reflux::error::{Error, Kind, Result};
use reflux::model::Llama;
use reflux::train::{
    BatchSize, Decay, DpoConfig, Example, Pair, Progress, Quiet, Schedule, SftConfig, StepMetrics, Warmup, dpo, sft,
    usable_examples, usable_pairs,
};
use train_support::{bits, config, difference, examples, frozen, pairs, policy, weights};

fn rate(learning_rate: f64) -> Schedule {
    Schedule { decay: Decay::Constant, learning_rate, final_learning_rate: 0., warmup: Warmup::Steps(0) }
}
fn dpo_config() -> DpoConfig {
    DpoConfig { batch_size: 8, schedule: rate(1e-3), ..DpoConfig::default() }
}
fn pair(id: &str, prompt: &[u32], chosen: &[u32], rejected: &[u32]) -> Pair {
    let (prompt, chosen, rejected) = (prompt.to_vec(), chosen.to_vec(), rejected.to_vec());
    Pair { id: id.into(), prompt, chosen, rejected, reference: Some((-1., -2.)), margin: 1. }
}

#[test]
fn unusable_pairs_are_left_out_and_named() {
    let long = vec![5; 60];
    let mut all = vec![
        pair("no-prompt", &[], &[5], &[6]),
        pair("no-chosen", &[4], &[], &[6]),
        pair("no-rejected", &[4], &[5], &[]),
        pair("same", &[4], &[5, 6], &[5, 6]),
        pair("long", &[4, 4, 4, 4, 4], &long, &[5]),
        pair("just-fits", &[4, 4, 4, 4], &long, &[5]),
        pair("strange", &[4], &[5, 64], &[6]),
        Pair { reference: Some((f64::NAN, 0.)), ..pair("nan", &[4], &[5], &[6]) },
        pair("good", &[4], &[5], &[6]),
    ];
    let (usable, problems) = usable_pairs(&config(), &all, None);
    assert_eq!(usable, [5, 8]);
    let codes: Vec<_> = problems.iter().map(|p| (p.id.as_str(), p.code)).collect();
    let expected = [
        ("no-prompt", "empty_prompt"),
        ("no-chosen", "empty_completion"),
        ("no-rejected", "empty_completion"),
        ("same", "equal_completions"),
        ("long", "too_long"),
        ("strange", "unknown_token"),
        ("nan", "bad_reference"),
    ];
    assert_eq!(codes, expected);
    assert_eq!(
        problems[4].message,
        "prompt and completion have 65 tokens, at most 64 fit; ask for shorter answers or raise max_length"
    );
    assert_eq!(usable_pairs(&config(), &all, Some(10)).0, [8]);

    let trained = dpo(&policy("start"), None, &all, &[], &dpo_config(), &mut Quiet).unwrap();
    assert_eq!((trained.metrics.len(), trained.problems), (1, problems));
    all.truncate(5);
    let error = dpo(&policy("start"), None, &all, &[], &dpo_config(), &mut Quiet).unwrap_err();
    assert_eq!(error.kind(), Kind::User);
    assert_eq!(
        error.to_string(),
        "none of the 5 pairs can be trained on; the first, no-prompt: empty_prompt, the prompt has no token"
    );
    let error = dpo(&policy("start"), None, &[], &[], &dpo_config(), &mut Quiet).unwrap_err();
    assert_eq!(error.to_string(), "there are no pairs to train on");
}

#[test]
fn unusable_examples_are_left_out_and_named() {
    let example = |tokens: &[u32], context| Example { tokens: tokens.to_vec(), context };
    let all = [
        example(&[], 0),
        example(&[4], 0), // nothing predicts the first token
        example(&[4, 5], 0),
        example(&[4, 5], 2),
        example(&[4, 5], usize::MAX),
        example(&[4; 65], 1),
        example(&[4, 99], 1),
        example(&[4, 5], 1),
    ];
    let (usable, problems) = usable_examples(&config(), &all, None);
    assert_eq!(usable, [2, 7]);
    let codes: Vec<_> = problems.iter().map(|p| (p.id.as_str(), p.code)).collect();
    let expected = [
        ("0", "empty_completion"),
        ("1", "empty_completion"),
        ("3", "empty_completion"),
        ("4", "empty_completion"),
        ("5", "too_long"),
        ("6", "unknown_token"),
    ];
    assert_eq!(codes, expected);
    let config = SftConfig { batch: BatchSize::Sequences(1), schedule: rate(1e-3), ..SftConfig::default() };
    let trained = sft(&policy("start"), &all, &config, &mut Quiet).unwrap();
    assert_eq!((trained.metrics.len(), trained.problems.len()), (2, 6));
    let error = sft(&policy("start"), &all[..1], &config, &mut Quiet).unwrap_err();
    assert!(error.to_string().starts_with("none of the 1 examples can be trained on; the first, 0: empty_completion"));
}

#[test]
fn log_probabilities_of_rows_that_do_not_fit_are_errors() {
    let of = |p: Pair| reflux::train::completion_logprobs(&policy("start"), &[p]).map_err(|e| e.to_string());
    assert_eq!(of(pair("a", &[], &[5], &[6])).unwrap_err(), "pair `a` has an empty prompt or completion");
    assert!(of(pair("a", &[4], &[64, 5], &[6])).is_err());
    assert!(of(pair("a", &[4], &[5; 70], &[6])).unwrap_err().contains("position 64"));
    assert!(of(pair("a", &[4], &[5], &[5])).unwrap()[0].0 < 0.);
}

#[test]
fn a_pair_without_reference_needs_a_model() {
    let error = dpo(&policy("start"), None, &pairs(), &[], &dpo_config(), &mut Quiet).unwrap_err();
    assert_eq!(error.kind(), Kind::User);
    assert_eq!(error.to_string(), "pair `pair-0` has no reference log-probabilities and no reference model is given");
}

#[test]
fn a_loss_that_is_not_finite_names_step_and_pairs_and_leaves_the_weights() {
    let mut rows: Vec<Pair> =
        pairs().into_iter().take(4).map(|p| Pair { reference: Some((-30., -30.)), ..p }).collect();
    rows[2].reference = Some((1e308, -1e308)); // finite, its difference is not
    let config = DpoConfig { batch_size: 2, shuffle: false, ..dpo_config() };
    let llama = policy("start");
    let error = dpo(&llama, None, &rows, &[], &config, &mut Quiet).unwrap_err();
    assert!(error.to_string().contains("at training step 2, from `pair-2`;"), "{error}");
    // The weights are those after the first step.
    let first = policy("start");
    dpo(&first, None, &rows[..2], &[], &config, &mut Quiet).unwrap();
    assert_eq!(bits(&llama), bits(&first));

    let mut broken = weights("start");
    let norm = broken["model.norm.weight"].affine(1., f64::NAN).unwrap();
    broken.insert("model.norm.weight".into(), norm);
    let llama = Llama::trainable(&train_support::config(), &broken).unwrap();
    let error = sft(&llama, &examples(), &SftConfig::default(), &mut Quiet).unwrap_err();
    assert!(error.to_string().starts_with("the loss is NaN at training step 1, from 12 sequences;"), "{error}");
}

#[test]
fn every_trainable_variable_must_get_a_gradient_and_frozen_ones_get_none() {
    let mut extra = weights("start");
    extra.insert("model.unused.weight".into(), Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap());
    let llama = Llama::trainable(&config(), &extra).unwrap();
    let error = sft(&llama, &examples(), &SftConfig::default(), &mut Quiet).unwrap_err();
    assert!(error.to_string().starts_with("no gradient reaches `model.unused.weight`;"), "{error}");

    let (llama, reference) = (policy("start"), frozen("start"));
    dpo(&llama, Some(&reference), &pairs(), &[], &dpo_config(), &mut Quiet).unwrap();
    assert!(reference.variables().is_empty());
    // Every weight of the policy moved, and the reference still gives what it gave.
    let start = weights("start");
    for (name, var) in llama.variables() {
        let moved = (var.as_tensor() - &start[name]).unwrap().abs().unwrap().sum_all().unwrap();
        assert!(moved.to_scalar::<f32>().unwrap() > 0., "{name} did not move");
    }
    let logps = |llama: &Llama| reflux::train::completion_logprobs(llama, &pairs()).unwrap();
    assert_eq!(logps(&reference), logps(&frozen("start")));

    let error = sft(&frozen("start"), &examples(), &SftConfig::default(), &mut Quiet).unwrap_err();
    assert_eq!(error.kind(), Kind::Bug);
    let half: BTreeMap<_, _> = start.iter().map(|(k, t)| (k.clone(), t.to_dtype(DType::BF16).unwrap())).collect();
    let error = sft(&Llama::trainable(&config(), &half).unwrap(), &examples(), &SftConfig::default(), &mut Quiet);
    assert!(error.unwrap_err().to_string().contains("only f32 weights are trained"));
}

struct StopAt {
    step: usize,
    forwards: usize,
}
impl Progress for StopAt {
    fn step(&mut self, _: &StepMetrics, done: usize, total: usize) -> Result<()> {
        assert_eq!(total, 5);
        if done == self.step { Err(Error::cancelled()) } else { Ok(()) }
    }
    fn forward(&mut self, rows: usize) -> Result<()> {
        assert!(rows > 0);
        self.forwards = self.forwards.checked_sub(1).ok_or_else(Error::cancelled)?;
        Ok(())
    }
}

#[test]
fn a_stop_leaves_whole_steps() {
    let run = |stop: &mut dyn Progress| {
        let llama = policy("start");
        let result = dpo(&llama, Some(&frozen("reference")), &pairs(), &[], &dpo_config(), stop);
        (llama, result)
    };
    let mut seen = Vec::new();
    run(&mut |m: &StepMetrics, done: usize, total: usize| {
        assert_eq!((m.step as usize, total), (done, 5));
        seen.push(m.learning_rate);
        Ok(())
    })
    .1
    .unwrap();
    assert_eq!(seen, [1e-3; 5]);
    let (at_two, result) = run(&mut StopAt { step: 2, forwards: 100 });
    assert_eq!(result.unwrap_err().kind(), Kind::Cancelled);
    // Two forwards a step, the reference's and the policy's: the sixth is the policy's of the third step.
    let (in_three, result) = run(&mut StopAt { step: 5, forwards: 5 });
    assert_eq!(result.unwrap_err().kind(), Kind::Cancelled);
    assert_eq!(bits(&at_two), bits(&in_three));
    assert!(difference(&at_two, &policy("start")) > 1e-3);
}

#[test]
fn metrics_have_the_schemas_columns() {
    let schema = reflux::data::named::METRICS.arrow();
    let names: Vec<_> = StepMetrics::default().columns().map(|c| c.0).to_vec();
    assert_eq!(names, schema.fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>());
    for (field, (name, value)) in schema.fields().iter().zip(StepMetrics::default().columns()) {
        assert_eq!(field.is_nullable(), value.is_none(), "{name}");
    }
}
