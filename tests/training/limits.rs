//! What bad rows, bad numbers and a stop get.

use std::collections::BTreeMap;

use crate::support::{
    self, against, bits, config, difference, examples, frozen, pairs, policy, referred, sums, weights,
};
use candle_core::{DType, Device, Tensor};
use reflux::error::{Error, ErrorKind, Result};
use reflux::model::Llama;
use reflux::train::losses::{PairColumns, column};
use reflux::train::{
    BatchSize, Decay, DpoConfig, Example, ForwardLimits, Objective, Pair, Progress, Quiet, Reference, Schedule,
    SftConfig, StepMetrics, Warmup, dpo, losses, reference, sft, usable_examples, usable_pairs,
};

fn rate(learning_rate: f64) -> Schedule {
    Schedule { decay: Decay::Constant, learning_rate, final_learning_rate: 0., warmup: Warmup::Steps(0) }
}
fn dpo_config() -> DpoConfig {
    DpoConfig { batch_size: 8, schedule: rate(1e-3), ..DpoConfig::default() }
}
fn pair(id: &str, prompt: &[u32], chosen: &[u32], rejected: &[u32]) -> Pair {
    let (prompt, chosen, rejected) = (prompt.to_vec(), chosen.to_vec(), rejected.to_vec());
    let reference = Reference { chosen: vec![-1.; chosen.len()], rejected: vec![-2.; rejected.len()] };
    Pair { id: id.into(), prompt, chosen, rejected, reference: Some(reference), columns: PairColumns::default() }
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
        Pair {
            reference: Some(Reference { chosen: vec![f32::NAN], rejected: vec![0.] }),
            ..pair("nan", &[4], &[5], &[6])
        },
        Pair {
            reference: Some(Reference { chosen: vec![-1.; 2], rejected: vec![-1.] }),
            ..pair("other", &[4], &[5], &[6])
        },
        pair("good", &[4], &[5], &[6]),
    ];
    let (usable, problems) = usable_pairs(&config(), &all, None);
    assert_eq!(usable, [5, 9]);
    let codes: Vec<_> = problems.iter().map(|p| (p.id.as_str(), p.code)).collect();
    let expected = [
        ("no-prompt", "empty_prompt"),
        ("no-chosen", "empty_completion"),
        ("no-rejected", "empty_completion"),
        ("same", "equal_completions"),
        ("long", "too_long"),
        ("strange", "unknown_token"),
        ("nan", "bad_reference"),
        ("other", "bad_reference"),
    ];
    assert_eq!(codes, expected);
    assert_eq!(
        problems[4].message,
        "prompt and completion have 65 tokens, at most 64 fit; ask for shorter answers or raise max_length"
    );
    assert_eq!(usable_pairs(&config(), &all, Some(10)).0, [9]);

    let trained = dpo(&policy("start"), &all, &[], &dpo_config(), &mut Quiet).unwrap();
    assert_eq!((trained.metrics.len(), trained.problems), (1, problems));
    all.truncate(5);
    let error = dpo(&policy("start"), &all, &[], &dpo_config(), &mut Quiet).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::User);
    assert_eq!(
        error.to_string(),
        "none of the 5 pairs can be trained on; the first, no-prompt: empty_prompt, the prompt has no token"
    );
    let error = dpo(&policy("start"), &[], &[], &dpo_config(), &mut Quiet).unwrap_err();
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
fn the_reference_of_pairs_that_cannot_be_used_is_not_computed_and_no_given_one_is_replaced() {
    let given = pair("given", &[4], &[5], &[6]);
    let lacking = |id, prompt: &[u32], chosen: &[u32]| Pair { reference: None, ..pair(id, prompt, chosen, &[6]) };
    let mut all = [
        lacking("no-prompt", &[], &[5]),
        given.clone(),
        lacking("strange", &[4], &[64, 5]),
        lacking("long", &[4], &[5; 70]),
        lacking("good", &[4], &[5, 7]),
    ];
    assert_eq!(reference(&policy("start"), &mut all, ForwardLimits::default(), &mut Quiet).unwrap(), 1);
    assert_eq!(all[1], given);
    assert!([0, 2, 3].iter().all(|&i: &usize| all[i].reference.is_none()));
    let found = all[4].reference.clone().unwrap();
    assert_eq!((found.chosen.len(), found.rejected.len()), (2, 1));
    assert!(found.chosen.iter().chain(&found.rejected).all(|&l| l < 0.));
}

#[test]
fn a_pair_without_reference_is_not_trained_on() {
    let error = dpo(&policy("start"), &pairs(), &[], &dpo_config(), &mut Quiet).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::User);
    assert_eq!(error.to_string(), "pair `pair-0` has no log-probabilities under the reference");
}

#[test]
fn a_loss_that_is_not_finite_names_step_and_pairs_and_leaves_the_weights() {
    let mut rows: Vec<Pair> = against("start").into_iter().take(4).collect();
    rows[2].columns.set(column("margin").unwrap(), 1e200); // finite, its square is not
    let objective = Objective { loss: losses::by_name("rpo_sq").unwrap(), ..Objective::default() };
    let config = DpoConfig { objective, batch_size: 2, shuffle: false, ..dpo_config() };
    let llama = policy("start");
    let error = dpo(&llama, &rows, &[], &config, &mut Quiet).unwrap_err();
    assert!(error.to_string().contains("at training step 2, from `pair-2`;"), "{error}");
    // The weights are those after the first step.
    let first = policy("start");
    dpo(&first, &rows[..2], &[], &config, &mut Quiet).unwrap();
    assert_eq!(bits(&llama), bits(&first));

    let mut broken = weights("start");
    let norm = broken["model.norm.weight"].affine(1., f64::NAN).unwrap();
    broken.insert("model.norm.weight".into(), norm);
    let llama = Llama::trainable(&support::config(), &broken).unwrap();
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
    dpo(&llama, &referred(&reference, pairs()), &[], &dpo_config(), &mut Quiet).unwrap();
    assert!(reference.variables().is_empty());
    // Every weight of the policy moved, and the reference still gives what it gave.
    let start = weights("start");
    for (name, var) in llama.variables() {
        let moved = (var.as_tensor() - &start[name]).unwrap().abs().unwrap().sum_all().unwrap();
        assert!(moved.to_scalar::<f32>().unwrap() > 0., "{name} did not move");
    }
    assert_eq!(sums(&reference, &pairs()), sums(&frozen("start"), &pairs()));

    let error = sft(&frozen("start"), &examples(), &SftConfig::default(), &mut Quiet).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Bug);
    let wide: BTreeMap<_, _> = start.iter().map(|(k, t)| (k.clone(), t.to_dtype(DType::F64).unwrap())).collect();
    let error = sft(&Llama::trainable(&config(), &wide).unwrap(), &examples(), &SftConfig::default(), &mut Quiet);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("is F64; f32 and bf16 weights are trained on every device"), "{error}");
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
        let result = dpo(&llama, &against("reference"), &[], &dpo_config(), stop);
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
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Cancelled);
    let (in_three, result) = run(&mut StopAt { step: 5, forwards: 2 });
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(bits(&at_two), bits(&in_three));
    assert!(difference(&at_two, &policy("start")) > 1e-3);
}

#[test]
fn metrics_have_the_schemas_columns() {
    let schema = reflux::data::named::METRICS.arrow();
    let mut names: Vec<_> = StepMetrics::default().columns().map(|c| c.0).to_vec();
    names.push("pairs");
    assert_eq!(names, schema.fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>());
    for (field, (name, value)) in schema.fields().iter().zip(StepMetrics::default().columns()) {
        assert_eq!(field.is_nullable(), value.is_none(), "{name}");
    }
}
