//! Training equals TRL's own trainers (SFTTrainer, DPOTrainer), torch's AdamW and transformers' schedules; the goldens
//! are made by `goldens/train/make.py`.

use crate::support::{against, examples, json, policy, weights};
use candle_core::{Device, Tensor, Var};
use reflux::train::losses::{LossParams, Scores};
use reflux::train::{
    AdamW, AdamWConfig, BatchSize, Decay, DpoConfig, Objective, Pair, Quiet, Schedule, SftConfig, StepMetrics, Warmup,
    dpo, losses, sft,
};
use serde_json::Value;
use std::collections::BTreeMap;

fn close(what: &str, got: f64, want: f64, relative: f64) {
    assert!((got - want).abs() <= relative * want.abs().max(1e-3), "{what}: {got}, expected {want}");
}

/// Compares every metric that TRL logged, returning the worst relative difference of loss and gradient norm.
fn same_metrics(name: &str, got: &[StepMetrics], run: &Value, relative: f64) -> f64 {
    let want = run["steps"].as_array().unwrap();
    assert_eq!(got.len(), want.len(), "{name}");
    let mut worst = 0f64;
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let mut compared = 0;
        for (key, value) in got.columns() {
            let (Some(value), Some(want)) = (value, want[key].as_f64()) else { continue };
            close(&format!("{name}, step {}, {key}", i + 1), value, want, relative);
            worst = worst.max((value - want).abs() / want.abs().max(1e-3));
            compared += 1;
        }
        assert_eq!(compared, want.as_object().unwrap().len(), "{name}: every logged value has its column");
    }
    worst
}

/// Largest difference to the final weights of the run, and how far the run moved them.
fn weight_difference(name: &str, llama: &reflux::model::Llama) -> (f32, f32) {
    let (want, start) = (weights(name), weights("start"));
    let (mut off, mut moved) = (0f32, 0f32);
    for (key, var) in llama.variables() {
        let most = |a: &Tensor, b: &Tensor| {
            (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap()
        };
        off = off.max(most(var, &want[key]));
        moved = moved.max(most(&start[key], &want[key]));
    }
    (off, moved)
}

fn schedule(warmup: usize) -> Schedule {
    Schedule { decay: Decay::Cosine, learning_rate: 2e-3, final_learning_rate: 0., warmup: Warmup::Steps(warmup) }
}
fn optimizer() -> AdamWConfig {
    AdamWConfig { weight_decay: 0.1, ..AdamWConfig::default() }
}

#[test]
fn sft_equals_trl() {
    let runs = json("runs");
    for name in ["sft", "sft-accumulated"] {
        let accumulation = runs[name]["accumulation"].as_u64().unwrap() as usize;
        let config = SftConfig {
            batch: BatchSize::Sequences(4 / accumulation),
            accumulation,
            schedule: schedule(0),
            optimizer: optimizer(),
            shuffle: false,
            ..SftConfig::default()
        };
        let llama = policy("start");
        let trained = sft(&llama, &examples(), &config, &mut Quiet).unwrap();
        let worst = same_metrics(name, &trained.metrics, &runs[name], 1e-3);
        let (off, moved) = weight_difference(name, &llama);
        println!("{name}: metrics within {worst:.1e}, weights within {off:.1e} of {moved:.1e} moved");
        assert!(moved > 1e-3 && off < 1e-4, "{name}: weights differ by {off}, moved by {moved}");
    }
}

/// The parameters of the losses that a golden gives, by their keys.
fn loss_params(golden: &Value) -> LossParams {
    let mut params = LossParams::new(golden["beta"].as_f64().unwrap());
    for parameter in losses::parameters() {
        if let Some(value) = golden[parameter.key].as_f64() {
            params.set(parameter, value);
        }
    }
    params
}

fn objective(run: &Value) -> Objective {
    Objective {
        loss: losses::by_name(run["loss"].as_str().unwrap()).unwrap(),
        params: loss_params(run),
        nll_weight: run["nll_weight"].as_f64().unwrap(),
        replay_weight: 0.,
        ld_alpha: run["ld_alpha"].as_f64(),
    }
}

fn dpo_run(name: &str, steps: usize, warmup: usize) -> (reflux::model::Llama, Vec<StepMetrics>, Value) {
    let run = json("runs")[name].clone();
    let accumulation = run["accumulation"].as_u64().unwrap() as usize;
    let config = DpoConfig {
        objective: objective(&run),
        epochs: 2,
        batch_size: 4,
        accumulation,
        schedule: schedule(warmup),
        optimizer: optimizer(),
        shuffle: false,
        ..DpoConfig::default()
    };
    let llama = policy("start");
    let trained = dpo_steps(&llama, &against(run["reference"].as_str().unwrap()), &config, steps);
    (llama, trained, run)
}

/// TRL was told `max_steps`, so its schedule ends there and not with the data.
fn dpo_steps(llama: &reflux::model::Llama, pairs: &[Pair], config: &DpoConfig, steps: usize) -> Vec<StepMetrics> {
    use reflux::train::{ForwardLimits, Trainer};
    let mut trainer = Trainer::new(
        llama,
        config.optimizer,
        config.schedule,
        steps,
        ForwardLimits { max_items: 4, ..ForwardLimits::default() },
    )
    .unwrap();
    let size = config.batch_size * config.accumulation;
    let mut metrics = Vec::new();
    for step in 0..steps {
        let rows: Vec<usize> = (0..size).map(|i| (step * size + i) % pairs.len()).collect();
        let batch: Vec<_> = rows.iter().map(|&i| &pairs[i]).collect();
        let mut m = trainer.dpo_step(&batch, &[], &config.objective, &mut Quiet).unwrap();
        m.epoch = (step + 1) as f64 * size as f64 / pairs.len() as f64;
        metrics.push(m);
    }
    metrics
}

#[test]
fn dpo_equals_trl() {
    for name in [
        "dpo",
        "dpo-from-start",
        "dpo-nll",
        "dpo-accumulated",
        "dpo-ipo",
        "dpo-hinge",
        "dpo-robust",
        "dpo-sigmoid-norm",
        "dpo-apo-zero",
        "dpo-apo-down",
        "dpo-ld",
        "dpo-ld-nll",
    ] {
        let (llama, metrics, run) = dpo_run(name, 3, 0);
        let worst = same_metrics(name, &metrics, &run, 1e-3);
        println!("{name}: metrics within {worst:.1e}");
        if ["dpo", "dpo-nll"].contains(&name) {
            let (off, moved) = weight_difference(name, &llama);
            println!("{name}: weights within {off:.1e} of {moved:.1e} moved");
            assert!(moved > 1e-3 && off < 1e-4, "{name}: weights differ by {off}, moved by {moved}");
        }
    }
}

#[test]
fn the_trajectory_of_twenty_steps_is_trls() {
    let (_, metrics, run) = dpo_run("trajectory", 20, 2);
    let worst = same_metrics("trajectory", &metrics, &run, 5e-3);
    println!("trajectory: metrics within {worst:.1e}");
    assert!(metrics[19].loss < metrics[9].loss);
}

#[test]
fn the_loop_is_the_trainer_step_by_step() {
    // dpo() over two passes of the 40 pairs is the 20 steps of the trajectory.
    let (by_hand, steps, run) = dpo_run("trajectory", 20, 2);
    let config = DpoConfig {
        objective: objective(&run),
        epochs: 2,
        batch_size: 4,
        schedule: schedule(2),
        optimizer: optimizer(),
        shuffle: false,
        ..DpoConfig::default()
    };
    let llama = policy("start");
    let trained = dpo(&llama, &against("reference"), &[], &config, &mut Quiet).unwrap();
    same_metrics("loop", &trained.metrics, &run, 5e-3);
    assert_eq!(trained.metrics.len(), steps.len());
    for (a, b) in llama.variables().values().zip(by_hand.variables().values()) {
        let off = (a.as_tensor() - b.as_tensor()).unwrap().abs().unwrap().sum_all().unwrap();
        assert!(off.to_scalar::<f32>().unwrap() < 1e-2);
    }
}

#[test]
fn adamw_equals_torch() {
    let golden = json("optimizer");
    let floats = |v: &Value| v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect::<Vec<_>>();
    let shapes: BTreeMap<&str, Vec<usize>> = [("matrix", vec![3, 5]), ("norm", vec![4])].into();
    let tensor = |of: &Value, key: &str| Tensor::from_vec(floats(&of[key]), shapes[key].clone(), &Device::Cpu).unwrap();
    let variables: BTreeMap<String, Var> = shapes
        .keys()
        .map(|key| ((*key).to_owned(), Var::from_tensor(&tensor(&golden["first"], key)).unwrap()))
        .collect();
    let config = AdamWConfig { beta2: 0.95, weight_decay: 0.1, ..AdamWConfig::default() };
    let mut adamw = AdamW::new(&variables, config).unwrap();
    let mut worst = 0f64;
    for t in 0..20 {
        let gradients = shapes.keys().map(|k| ((*k).to_owned(), tensor(&golden["gradients"][t], k))).collect();
        let norm = adamw.step(&gradients, 1e-2 * (20 - t) as f64 / 20.).unwrap();
        close("norm", norm, golden["norms"][t].as_f64().unwrap(), 1e-6);
        for (key, var) in &variables {
            let got = var.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for (got, want) in got.iter().zip(floats(&golden["after"][t][key])) {
                worst = worst.max(f64::from((got - want).abs()));
                assert!((got - want).abs() < 1e-6, "step {t}, {key}: {got}, expected {want}");
            }
        }
    }
    println!("adamw: weights within {worst:.1e}");
    assert_eq!(adamw.steps(), 20);
}

#[test]
fn schedules_equal_transformers() {
    for golden in json("schedules").as_array().unwrap() {
        let number = |key: &str| golden[key].as_f64().unwrap();
        let schedule = Schedule {
            decay: Decay::parse(golden["decay"].as_str().unwrap()).unwrap(),
            learning_rate: number("rate"),
            final_learning_rate: number("final"),
            warmup: Warmup::Steps(number("warmup") as usize),
        };
        let total = number("total") as usize;
        for (step, want) in golden["values"].as_array().unwrap().iter().enumerate() {
            let (got, want) = (schedule.at(step, total), want.as_f64().unwrap());
            assert!((got - want).abs() <= 1e-12 * schedule.learning_rate, "{golden} at {step}: {got}");
        }
    }
    // transformers rounds a share of steps up.
    let share = |share| Schedule { warmup: Warmup::Share(share), ..schedule(0) }.warmup_steps(15);
    assert_eq!([share(0.), share(0.1), share(1.)], [0, 2, 15]);
}

/// Value and gradient of every loss, by torch's automatic differentiation in float64.
#[test]
fn losses_equal_torch_in_value_and_gradient() {
    let golden = json("losses");
    let inputs = &golden["inputs"];
    let column = |name: &str| inputs[name].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect::<Vec<_>>();
    let tensor = |name: &str| Tensor::new(column(name), &Device::Cpu).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    for loss in losses::LOSSES {
        assert!(cases.iter().any(|c| c["loss"] == loss.name), "no golden of {}", loss.name);
    }
    for case in cases {
        let loss = losses::by_name(case["loss"].as_str().unwrap()).unwrap();
        let (chosen, rejected) =
            (Var::from_tensor(&tensor("chosen")).unwrap(), Var::from_tensor(&tensor("rejected")).unwrap());
        let scores = Scores {
            chosen: chosen.as_tensor().clone(),
            rejected: rejected.as_tensor().clone(),
            ref_chosen: tensor("ref_chosen"),
            ref_rejected: tensor("ref_rejected"),
            chosen_tokens: tensor("chosen_tokens"),
            rejected_tokens: tensor("rejected_tokens"),
            columns: losses::columns().into_iter().map(|column| (column.name, tensor(column.name))).collect(),
            params: loss_params(case),
        };
        let each = (loss.each)(&scores).unwrap();
        let grads = each.sum_all().unwrap().backward().unwrap();
        let grad = |var: &Var| grads.get(var).map(|g| g.to_vec1::<f64>().unwrap()).unwrap();
        for (what, got) in
            [("each", each.to_vec1::<f64>().unwrap()), ("chosen", grad(&chosen)), ("rejected", grad(&rejected))]
        {
            let want: Vec<f64> = case[what].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
            assert_eq!(got.len(), want.len());
            for (got, want) in got.iter().zip(want) {
                assert!((got - want).abs() <= 1e-9 * (1. + want.abs()), "{case}: {what} is {got}, not {want}");
            }
        }
    }
}
