//! DPO on a real model equals TRL's: `REFLUX_SMOLLM2` names the GGUF that `pipelines/get-smollm2.sh` fetches. The golden is
//! made by `goldens/train/smollm2/make.py`.

use candle_core::{DType, Device};
use reflux::model::Model;
use reflux::train::losses::PairColumns;
use reflux::train::{AdamWConfig, Decay, ForwardLimits, Objective, Pair, Quiet, Schedule, Trainer, Warmup, reference};
use serde_json::Value;

const BATCH: usize = 4;

#[test]
#[ignore = "needs REFLUX_SMOLLM2, the path of SmolLM2-135M-Instruct.Q4_1.gguf (pipelines/get-smollm2.sh)"]
fn three_steps_of_smollm2_are_trls() {
    let gguf = std::env::var("REFLUX_SMOLLM2").expect("REFLUX_SMOLLM2 names the model's file");
    let golden: Value = serde_json::from_str(include_str!("../goldens/train/smollm2/steps.json")).unwrap();
    let ids = |v: &Value| v.as_array().unwrap().iter().map(|t| t.as_u64().unwrap() as u32).collect::<Vec<u32>>();
    let rows = golden["pairs"].as_array().unwrap();
    let pair = |(i, p): (usize, &Value)| Pair {
        id: i.to_string(),
        prompt: ids(&p["prompt"]),
        chosen: ids(&p["chosen"]),
        rejected: ids(&p["rejected"]),
        reference: None,
        columns: PairColumns::default(),
    };
    let mut pairs: Vec<Pair> = rows.iter().enumerate().map(pair).collect();
    let model = Model::load(gguf.as_ref(), &Device::Cpu, DType::F32, true).unwrap();
    assert_eq!(reference(&model.llama, &mut pairs, ForwardLimits::default(), &mut Quiet).unwrap(), 12);
    let mut worst = 0f64;
    for (pair, row) in pairs.iter().zip(rows) {
        let (chosen, rejected) = pair.reference.as_ref().unwrap().sums();
        for (got, key) in [(chosen, "ref_chosen"), (rejected, "ref_rejected")] {
            let want = row[key].as_f64().unwrap();
            let off = (got - want).abs() / want.abs();
            assert!(off < 1e-5, "pair {}, {key}: {got}, expected {want}", pair.id);
            worst = worst.max(off);
        }
    }
    println!("log-probabilities under the reference within {worst:.1e}");

    let steps = golden["steps"].as_array().unwrap();
    let schedule =
        Schedule { decay: Decay::Linear, learning_rate: 1e-6, final_learning_rate: 0., warmup: Warmup::Steps(0) };
    let optimizer = AdamWConfig { weight_decay: 0., ..AdamWConfig::default() };
    let mut trainer = Trainer::new(&model.llama, optimizer, schedule, steps.len(), ForwardLimits::default()).unwrap();
    for (i, (want, batch)) in steps.iter().zip(pairs.chunks(BATCH)).enumerate() {
        let batch: Vec<&Pair> = batch.iter().collect();
        let metrics = trainer.dpo_step(&batch, &[], &Objective::default(), &mut Quiet).unwrap();
        let (mut worst, mut compared) = (("", 0f64), 0);
        for (key, got) in metrics.columns() {
            let (Some(got), Some(goal)) = (got, want[key].as_f64()) else { continue };
            compared += 1;
            // A reward is beta times a difference of log-probabilities, of which f32 has a millionth or so.
            let size = (want["logps/chosen"].as_f64().unwrap() + want["logps/rejected"].as_f64().unwrap()).abs();
            let floor = if key.starts_with("rewards/") && key != "rewards/accuracies" { 1e-7 * size } else { 0. };
            let off = (got - goal).abs();
            println!("step {}, {key}: {got}, TRL {goal}", i + 1);
            assert!(off <= 1e-3 * goal.abs() + floor, "step {}, {key}: {got}, expected {goal}", i + 1);
            let share = off / goal.abs().max(1e-3);
            if share > worst.1 {
                worst = (key, share);
            }
        }
        if i == 0 {
            let exact = golden["first_grad_norm_f64"].as_f64().unwrap();
            let off = (metrics.grad_norm - exact).abs() / exact;
            println!("step 1, grad_norm: {off:.1e} from float64");
            assert!(off < 2e-5, "{} and in float64 {exact}", metrics.grad_norm);
        }
        assert_eq!(compared, want.as_object().unwrap().len());
        println!("step {}: every metric within {:.1e} ({})", i + 1, worst.1, worst.0);
    }
}
