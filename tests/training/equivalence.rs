//! What must not matter does not: packing, prefix sharing, accumulation, threads, interruption; and gradients are those
//! of finite differences.

use std::collections::BTreeMap;

use crate::support::{self, against, bits, config, difference, examples, pairs, policy, referred, sums, weights};
use candle_core::{DType, Device, Tensor};
use reflux::model::Llama;
use reflux::model::backprop::ForwardOptions;
use reflux::model::ops::{Dropout, Packed, Segment};
use reflux::train::losses::{LossParams, PairColumns};
use reflux::train::{
    AdamWConfig, BatchSize, Decay, DpoConfig, Example, ForwardLimits, Objective, Pair, Quiet, Schedule, SftConfig,
    Trained, Trainer, Warmup, dpo, sft,
};

fn schedule() -> Schedule {
    Schedule { decay: Decay::Linear, learning_rate: 2e-3, final_learning_rate: 1e-4, warmup: Warmup::Share(0.2) }
}
fn optimizer() -> AdamWConfig {
    // A large epsilon: where the first moments are rounding noise, Adam would otherwise make steps of it.
    AdamWConfig { weight_decay: 0.01, eps: 1e-4, ..AdamWConfig::default() }
}
fn sft_config() -> SftConfig {
    SftConfig {
        epochs: 3,
        batch: BatchSize::Sequences(8),
        schedule: schedule(),
        optimizer: optimizer(),
        seed: 5,
        ..SftConfig::default()
    }
}
fn dpo_config() -> DpoConfig {
    DpoConfig {
        batch_size: 8,
        objective: Objective { nll_weight: 0.2, replay_weight: 0.5, ..Objective::default() },
        replay_batch: 5,
        schedule: schedule(),
        optimizer: optimizer(),
        seed: 5,
        ..DpoConfig::default()
    }
}
fn run_sft(config: &SftConfig) -> (Llama, Trained) {
    let llama = policy("start");
    let trained = sft(&llama, &examples(), config, &mut Quiet).unwrap();
    (llama, trained)
}
fn run_dpo(config: &DpoConfig) -> (Llama, Trained) {
    let llama = policy("start");
    let trained = dpo(&llama, &against("reference"), &examples(), config, &mut Quiet).unwrap();
    (llama, trained)
}

/// The two runs took the same steps up to float order.
fn same(what: &str, a: &(Llama, Trained), b: &(Llama, Trained)) {
    assert_eq!(a.1.metrics.len(), b.1.metrics.len(), "{what}");
    for (a, b) in a.1.metrics.iter().zip(&b.1.metrics) {
        for ((name, a), (_, b)) in a.columns().iter().zip(b.columns()) {
            // As in TRL `epoch` counts batches, and the last one here is smaller.
            let (a, b) = if *name == "epoch" { (0., 0.) } else { (a.unwrap_or(0.), b.unwrap_or(0.)) };
            assert!((a - b).abs() <= 1e-5 * (1. + a.abs()), "{what}, {name}: {a} and {b}");
        }
    }
    let off = difference(&a.0, &b.0);
    println!("{what}: weights within {off:.1e}, moved by {:.1e}", difference(&a.0, &policy("start")));
    assert!(off < 2e-6, "{what}: weights differ by {off}");
}

#[test]
fn packed_is_one_by_one() {
    let sft_alone = SftConfig { max_rows_per_forward: 1, ..sft_config() };
    same("sft", &run_sft(&sft_config()), &run_sft(&sft_alone));
    let dpo_alone = DpoConfig { max_rows_per_forward: 1, ..dpo_config() };
    let dpo_some = DpoConfig { max_rows_per_forward: 70, ..dpo_config() };
    let whole = run_dpo(&dpo_config());
    same("dpo, one by one", &whole, &run_dpo(&dpo_alone));
    same("dpo, 70 rows", &whole, &run_dpo(&dpo_some));
}

#[test]
fn batch_8_is_batch_4_accumulated_twice() {
    let halves = SftConfig { batch: BatchSize::Sequences(4), accumulation: 2, ..sft_config() };
    same("sft", &run_sft(&sft_config()), &run_sft(&halves));
    let halves = DpoConfig { batch_size: 4, accumulation: 2, ..dpo_config() };
    same("dpo", &run_dpo(&dpo_config()), &run_dpo(&halves));
}

#[test]
fn checkpointed_activations_are_stored_ones_to_the_bit() {
    for rate in [0., 0.2] {
        let options = |checkpoint| ForwardOptions { checkpoint, dropout: Dropout { rate } };
        let sft = |checkpoint| run_sft(&SftConfig { options: options(checkpoint), ..sft_config() });
        let dpo = |checkpoint| run_dpo(&DpoConfig { options: options(checkpoint), ..dpo_config() });
        for (stored, checkpointed) in [(sft(false), sft(true)), (dpo(false), dpo(true))] {
            assert_eq!(bits(&stored.0), bits(&checkpointed.0));
            assert_eq!(stored.1, checkpointed.1);
        }
    }
}

#[test]
fn dropout_does_not_depend_on_how_a_step_is_cut() {
    let options = ForwardOptions { dropout: Dropout { rate: 0.2 }, ..ForwardOptions::default() };
    let sft = |config: SftConfig| run_sft(&SftConfig { options, ..config });
    let dpo = |config: DpoConfig| run_dpo(&DpoConfig { options, ..config });
    let (whole_sft, whole_dpo) = (sft(sft_config()), dpo(dpo_config()));
    same("sft", &whole_sft, &sft(SftConfig { batch: BatchSize::Sequences(4), accumulation: 2, ..sft_config() }));
    same("dpo", &whole_dpo, &dpo(DpoConfig { batch_size: 4, accumulation: 2, ..dpo_config() }));
    same("dpo, one by one", &whole_dpo, &dpo(DpoConfig { max_rows_per_forward: 1, ..dpo_config() }));
    // It is there, and every step draws anew.
    let first_loss = |run: &(Llama, Trained)| run.1.metrics[0].loss;
    assert!((first_loss(&whole_sft) - first_loss(&run_sft(&sft_config()))).abs() > 1e-3);
    let still = Schedule { learning_rate: 0., final_learning_rate: 0., ..schedule() };
    let all = BatchSize::Sequences(12);
    let (_, repeated) = sft(SftConfig { schedule: still, batch: all, shuffle: false, ..sft_config() });
    assert!(
        (repeated.metrics[0].loss - repeated.metrics[1].loss).abs() > 1e-3,
        "the same rows and weights, other draws"
    );
}

#[test]
fn batches_by_tokens_take_every_example_once_a_pass() {
    let config = SftConfig { batch: BatchSize::Tokens(40), epochs: 2, ..sft_config() };
    let (_, trained) = run_sft(&config);
    let tokens: usize = examples().iter().map(|e| e.tokens.len()).sum();
    assert_eq!(trained.metrics.last().unwrap().num_tokens, 2. * tokens as f64);
    assert_eq!(trained.metrics.last().unwrap().epoch, 2.);
    let mut before = 0.;
    for m in &trained.metrics {
        assert!(m.num_tokens - before <= 40., "a batch has {} tokens", m.num_tokens - before);
        before = m.num_tokens;
    }
}

/// Log-probability of a completion after a prompt, as a sequence of its own, all rows kept.
fn separately(llama: &Llama, prompt: &[u32], completion: &[u32]) -> Tensor {
    let ids = [prompt, completion].concat();
    let positions: Vec<u32> = (0..ids.len() as u32).collect();
    let mut attention = Packed::new(vec![Segment { prefix: 0..0, rows: 0..ids.len() }]);
    let logits = llama.logits(&llama.forward(&ids, &positions, &mut attention).unwrap()).unwrap();
    let log_probs = candle_nn::ops::log_softmax(&logits, 1).unwrap();
    let targets = Tensor::new(completion, &Device::Cpu).unwrap().unsqueeze(1).unwrap();
    let rows = log_probs.narrow(0, prompt.len() - 1, completion.len()).unwrap();
    rows.gather(&targets, 1).unwrap().to_dtype(DType::F64).unwrap().sum_all().unwrap()
}

#[test]
fn a_shared_prompt_is_two_separate_sequences() {
    let (llama, pairs) = (policy("start"), pairs());
    for (pair, (chosen, rejected)) in pairs.iter().zip(sums(&llama, &pairs)) {
        for (completion, got) in [(&pair.chosen, chosen), (&pair.rejected, rejected)] {
            let want = separately(&llama, &pair.prompt, completion).to_scalar::<f64>().unwrap();
            assert!((got - want).abs() < 1e-5 * want.abs(), "{}: {got}, separately {want}", pair.id);
        }
    }
    // The gradient too: DPO's by hand on separate sequences, against the trainer's.
    let pairs = against("reference");
    let batch: Vec<&Pair> = pairs[..6].iter().collect();
    let mut loss = Tensor::new(0f64, &Device::Cpu).unwrap();
    for pair in &batch {
        let (ref_chosen, ref_rejected) = pair.reference.as_ref().unwrap().sums();
        let [c, r] = [&pair.chosen, &pair.rejected].map(|c| separately(&llama, &pair.prompt, c));
        let logit = (((c - r).unwrap() - (ref_chosen - ref_rejected)).unwrap() * 0.1).unwrap();
        loss = (loss + (logit.neg().unwrap().exp().unwrap() + 1.).unwrap().log().unwrap() / 6.).unwrap();
    }
    let by_hand = loss.backward().unwrap();
    let gradients = first_gradients(&llama, &batch, &DpoConfig::default());
    for (name, var) in llama.variables() {
        let off = (by_hand.get(var).unwrap() - &gradients[name]).unwrap().abs().unwrap().flatten_all().unwrap();
        let off = off.max(0).unwrap().to_scalar::<f32>().unwrap();
        assert!(off < 1e-5, "{name}: gradients differ by {off}");
    }
}

/// The gradients of a step, read from the first moments; the step has rate 0 and no clipping.
fn first_gradients(llama: &Llama, batch: &[&Pair], config: &DpoConfig) -> BTreeMap<String, Tensor> {
    let still = Schedule { learning_rate: 0., ..schedule() };
    let optimizer = AdamWConfig { max_grad_norm: 0., beta1: 0.5, ..AdamWConfig::default() };
    let mut trainer = Trainer::new(llama, optimizer, still, 1, ForwardLimits::default()).unwrap();
    trainer.dpo_step(batch, &[], &config.objective, &mut Quiet).unwrap();
    let moments = trainer.moments();
    let gradient = |name: &String| (moments[&format!("exp_avg.{name}")].clone() * 2.).unwrap();
    llama.variables().keys().map(|name| (name.clone(), gradient(name))).collect()
}

#[test]
fn gradients_are_those_of_finite_differences() {
    let pairs = against("reference");
    let batch: Vec<&Pair> = pairs[..4].iter().collect();
    let config = DpoConfig {
        objective: Objective { nll_weight: 0.3, params: LossParams::new(0.5), ..Objective::default() },
        ..DpoConfig::default()
    };
    let loss_of = |weights: &BTreeMap<String, Tensor>| {
        let llama = Llama::trainable(&support::config(), weights).unwrap();
        let still = Schedule { learning_rate: 0., ..schedule() };
        let mut trainer = Trainer::new(&llama, AdamWConfig::default(), still, 1, ForwardLimits::default()).unwrap();
        trainer.dpo_step(&batch, &[], &config.objective, &mut Quiet).unwrap().loss
    };
    let start = weights("start");
    let gradients = first_gradients(&policy("start"), &batch, &config);
    for (name, gradient) in &gradients {
        // The weight of the variable that matters most.
        let values = gradient.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let at = (0..values.len()).max_by(|&a, &b| values[a].abs().total_cmp(&values[b].abs())).unwrap();
        let moved = |by: f32| {
            let mut weights = start.clone();
            let mut w = start[name].flatten_all().unwrap().to_vec1::<f32>().unwrap();
            w[at] += by;
            weights.insert(name.clone(), Tensor::from_vec(w, start[name].shape(), &Device::Cpu).unwrap());
            loss_of(&weights)
        };
        let want = (moved(4e-3) - moved(-4e-3)) / 8e-3;
        let got = f64::from(values[at]);
        assert!((got - want).abs() < 2e-2 * want.abs() + 1e-3, "{name}[{at}]: {got}, by differences {want}");
    }
}

#[test]
fn the_same_inputs_give_the_same_bits_and_another_seed_does_not() {
    assert_eq!(bits(&run_sft(&sft_config()).0), bits(&run_sft(&sft_config()).0));
    let (a, b) = (run_dpo(&dpo_config()), run_dpo(&dpo_config()));
    assert_eq!(bits(&a.0), bits(&b.0));
    assert_eq!(a.1, b.1);
    assert_ne!(bits(&a.0), bits(&run_dpo(&DpoConfig { seed: 6, ..dpo_config() }).0));
}

#[test]
fn an_interrupted_trainer_continues_to_the_same_bits() {
    let pairs = against("reference");
    let step = |trainer: &mut Trainer, i: usize| {
        let batch: Vec<&Pair> = pairs[i * 6..i * 6 + 6].iter().collect();
        let objective = dpo_config().objective;
        trainer.dpo_step(&batch, &[], &objective, &mut Quiet).unwrap()
    };
    let new = |llama| Trainer::new(llama, optimizer(), schedule(), 6, ForwardLimits::default()).unwrap();
    let whole = policy("start");
    let mut trainer = new(&whole);
    let metrics: Vec<_> = (0..6).map(|i| step(&mut trainer, i)).collect();

    let first = policy("start");
    let mut trainer = new(&first);
    (0..3).for_each(|i| assert_eq!(step(&mut trainer, i), metrics[i]));
    let copied = |t: &Tensor| t.copy().unwrap();
    let saved: BTreeMap<_, _> = trainer.moments().iter().map(|(k, t)| (k.clone(), copied(t))).collect();
    let weights = first.variables().iter().map(|(k, v)| (k.clone(), copied(v))).collect();
    let (steps, tokens) = (trainer.steps(), trainer.num_tokens());
    step(&mut trainer, 3); // is lost

    let second = Llama::trainable(&config(), &weights).unwrap();
    let mut trainer = new(&second);
    trainer.restore(&saved, steps, tokens).unwrap();
    let rest: Vec<_> = (3..6).map(|i| step(&mut trainer, i)).collect();
    assert_eq!(rest, metrics[3..]);
    assert_eq!(bits(&second), bits(&whole));
    assert!(trainer.restore(&BTreeMap::new(), 3, 0).unwrap_err().to_string().contains("exp_avg."));
}

#[test]
fn replay_adds_its_loss_at_its_weight() {
    let with = run_dpo(&dpo_config()).1.metrics;
    let mut alone = dpo_config();
    alone.objective.replay_weight = 0.;
    let without = run_dpo(&alone).1.metrics;
    let (first, plain) = (&with[0], &without[0]);
    assert_eq!(plain.replay_loss, None);
    assert!((first.loss - plain.loss - 0.5 * first.replay_loss.unwrap()).abs() < 1e-9);
    assert!(first.grad_norm != plain.grad_norm);
    // Five of twelve rows a step: no row twice in the first two steps, so their losses differ.
    assert_ne!(with[0].replay_loss, with[1].replay_loss);
}

/// A wider model and longer rows than the goldens', so that matrix products do go to several threads.
fn wide() -> Vec<u32> {
    let config = reflux::model::Config {
        hidden_size: 192,
        intermediate_size: 384,
        vocab_size: 300,
        max_position_embeddings: 256,
        ..config()
    };
    let mut state = 1u64;
    let mut next = move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as u32
    };
    let mut weights = BTreeMap::new();
    for (name, shape) in config.weights() {
        let n: usize = shape.iter().product();
        let values: Vec<f32> = (0..n).map(|_| (next() as f32 / (1 << 24) as f32 - 0.5) * 0.2).collect();
        let values = if shape.len() == 1 { values.iter().map(|v| v + 1.).collect() } else { values };
        weights.insert(name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap());
    }
    let mut tokens = |n: usize| (0..n).map(|_| next() % 300).collect::<Vec<u32>>();
    let pair = |i: usize, tokens: &mut dyn FnMut(usize) -> Vec<u32>| Pair {
        id: i.to_string(),
        prompt: tokens(60),
        chosen: tokens(80),
        rejected: tokens(70),
        reference: None,
        columns: PairColumns::default(),
    };
    let pairs: Vec<Pair> = (0..4).map(|i| pair(i, &mut tokens)).collect();
    let replay: Vec<Example> = (0..4).map(|_| Example { tokens: tokens(90), context: 10 }).collect();
    let llama = Llama::trainable(&config, &weights).unwrap();
    let reference = Llama::frozen(&config, &weights).unwrap();
    let config = DpoConfig { batch_size: 2, replay_batch: 2, schedule: schedule(), ..dpo_config() };
    dpo(&llama, &referred(&reference, pairs), &replay, &config, &mut Quiet).unwrap();
    bits(&llama)
}

#[test]
fn threads_do_not_show() {
    // candle and rayon read the number of threads once, so each number has its own process: this test, called again.
    const ASKED: &str = "REFLUX_TEST_HASH_ONLY";
    if std::env::var_os(ASKED).is_some() {
        println!("hash {}", reflux::data::hash_hex(wide().iter().map(|b| b.to_le_bytes())));
        return;
    }
    let hash = |threads: &str| {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "equivalence::threads_do_not_show", "--nocapture"])
            .env(ASKED, "1")
            .env("RAYON_NUM_THREADS", threads)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let at = text.find("hash ").unwrap_or_else(|| panic!("no hash in {text}"));
        text[at + 5..at + 37].to_owned()
    };
    let one = hash("1");
    for threads in ["2", "3", "8"] {
        assert_eq!(hash(threads), one, "{threads} threads");
    }
}

/// A step of 1e-5 is lost on a bf16 weight of 0.25, whose neighbours are 1e-3 away; a hundred of them are not lost on its
/// master.
#[test]
fn weights_in_bf16_follow_their_f32_masters() {
    let start: BTreeMap<String, Tensor> =
        weights("start").into_iter().map(|(k, t)| (k, t.to_dtype(DType::BF16).unwrap())).collect();
    let rounded: BTreeMap<String, Tensor> =
        start.iter().map(|(k, t)| (k.clone(), t.to_dtype(DType::F32).unwrap())).collect();
    let constant =
        Schedule { decay: Decay::Constant, learning_rate: 1e-5, final_learning_rate: 1e-5, warmup: Warmup::Steps(0) };
    let settings = SftConfig { epochs: 100, batch: BatchSize::Sequences(12), schedule: constant, ..sft_config() };
    let (narrow, wide) = (Llama::trainable(&config(), &start).unwrap(), Llama::trainable(&config(), &rounded).unwrap());
    for llama in [&narrow, &wide] {
        sft(llama, &examples(), &settings, &mut Quiet).unwrap();
    }
    let (mut off, mut moved, mut far) = (0f32, 0f32, 0f32);
    for (name, var) in narrow.variables() {
        assert_eq!(var.dtype(), DType::BF16);
        let most = |a: &Tensor, b: &Tensor| {
            let (a, b) = (a.to_dtype(DType::F32).unwrap(), b.to_dtype(DType::F32).unwrap());
            (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap()
        };
        off = off.max(most(var, &wide.variables()[name].to_dtype(DType::BF16).unwrap()));
        moved = moved.max(most(var, &start[name]));
        far = far.max(most(&wide.variables()[name], &rounded[name]));
    }
    println!("bf16 moved {moved:.1e}, f32 {far:.1e}, apart by {off:.1e}");
    assert!(far > 5e-4 && moved > 4e-4, "bf16 moved {moved}, f32 {far}");
    // One step of bf16 at the largest weights, of about 1.
    assert!(off <= 2f32.powi(-7), "{off}");
}
