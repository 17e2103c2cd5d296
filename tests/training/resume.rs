//! A training that was stopped or killed goes on from its checkpoint to the same bits: weights and metrics.

use std::path::Path;

use crate::support::{self, against, bits, examples, frozen, policy, weights};
use candle_core::{DType, Device};
use reflux::error::{Error, ErrorKind, Result};
use reflux::model::{Llama, LoraConfig};
use reflux::store::Run;
use reflux::train::losses::column;
use reflux::train::{
    AdamWConfig, BatchSize, Checkpoint, Checkpoints, Decay, DpoConfig, KeepWeights, Objective, Pair, Progress,
    Schedule, SftConfig, StepMetrics, Trained, Validation, ValidationMetric, Warmup, dpo, dpo_stream, sft,
};

/// Keeps checkpoints in a run directory, and ends the training after some steps or forwards.
struct Watch {
    run: Run,
    every: usize,
    start: String,
    steps: usize,
    forwards: usize,
    end: fn() -> Error,
    saved: Vec<usize>,
}

fn stopped() -> Error {
    Error::cancelled()
}
/// Nothing is done on the way out, as when the process dies.
fn killed() -> Error {
    Error::system("killed")
}

impl Watch {
    fn new(dir: &Path) -> Self {
        let run = Run::create_or_open(dir, "a = 1\n", 1, false).unwrap().0;
        let (steps, forwards) = (usize::MAX, usize::MAX);
        Self { run, every: 1000, start: "start".into(), steps, forwards, end: stopped, saved: Vec::new() }
    }
}

impl Progress for Watch {
    fn step(&mut self, metrics: &StepMetrics, done: usize, _: usize) -> Result<()> {
        assert_eq!(metrics.step as usize, done);
        self.steps -= 1;
        if self.steps == 0 { Err((self.end)()) } else { Ok(()) }
    }
    fn forward(&mut self, _: usize) -> Result<()> {
        self.forwards -= 1;
        if self.forwards == 0 { Err((self.end)()) } else { Ok(()) }
    }
    fn checkpoints(&mut self) -> Option<&mut dyn Checkpoints> {
        Some(self)
    }
}

impl Checkpoints for Watch {
    fn every(&self) -> usize {
        self.every
    }
    fn start(&self) -> String {
        self.start.clone()
    }
    fn save(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.saved.push(checkpoint.steps());
        self.run.save_checkpoint("train", 1, checkpoint.steps(), |files| {
            checkpoint.write(&mut |name, fill| files.put(name, |to| fill(to)))
        })
    }
    fn latest(&mut self) -> Result<Option<Checkpoint>> {
        for (_, dir) in self.run.checkpoints("train", 1) {
            if Run::verify_checkpoint(&dir).is_ok() {
                return Checkpoint::read(&dir).map(Some);
            }
        }
        Ok(None)
    }
}

fn schedule() -> Schedule {
    Schedule { decay: Decay::Cosine, learning_rate: 5e-3, final_learning_rate: 1e-4, warmup: Warmup::Share(0.2) }
}
fn optimizer() -> AdamWConfig {
    AdamWConfig { weight_decay: 0.01, ..AdamWConfig::default() }
}
fn held_out<T>(
    rows: Vec<T>,
    measure: ValidationMetric,
    patience: Option<usize>,
    keep: KeepWeights,
) -> Option<Validation<T>> {
    Some(Validation { rows, every: 2, measure, patience, keep })
}

type Training = (&'static str, Box<dyn Fn(&Llama, &mut dyn Progress) -> Result<Trained>>);

/// What a training starts from.
fn start(name: &str) -> Llama {
    if name.ends_with("bf16") {
        let half = weights("start").into_iter().map(|(name, w)| (name, w.to_dtype(DType::BF16).unwrap()));
        return Llama::trainable(&support::config(), &half.collect()).unwrap();
    }
    if !name.ends_with("lora") {
        return policy("start");
    }
    let lora = LoraConfig { rank: 2, ..LoraConfig::default() };
    let adapter = lora.init(&support::config(), 3, &Device::Cpu).unwrap();
    frozen("start").with_lora(&lora, &adapter).unwrap()
}

/// Every kind of training, with all that a checkpoint has to carry.
fn trainings() -> Vec<Training> {
    let sft_config = SftConfig {
        epochs: 3,
        batch: BatchSize::Tokens(40),
        accumulation: 2,
        schedule: schedule(),
        optimizer: optimizer(),
        seed: 5,
        ..SftConfig::default()
    };
    let best = SftConfig {
        validation: held_out(examples()[..3].to_vec(), ValidationMetric::Loss, Some(1), KeepWeights::Best),
        ..sft_config.clone()
    };
    let dpo_config = DpoConfig {
        epochs: 2,
        batch_size: 3,
        accumulation: 2,
        objective: Objective { nll_weight: 0.2, replay_weight: 0.5, ..Objective::default() },
        replay_batch: 5,
        schedule: schedule(),
        optimizer: optimizer(),
        seed: 5,
        ..DpoConfig::default()
    };
    let measured = DpoConfig {
        validation: held_out(against("reference")[..4].to_vec(), ValidationMetric::Accuracy, None, KeepWeights::Best),
        ..dpo_config.clone()
    };
    let streamed = DpoConfig {
        batch_size: 2,
        accumulation: 1,
        validation: held_out(against("reference")[..4].to_vec(), ValidationMetric::Margin, None, KeepWeights::Last),
        ..dpo_config.clone()
    };
    let (pairs, rows) = (against("reference"), examples());
    let (p, r) = (pairs.clone(), rows.clone());
    let (lora_rows, lora_pairs, lora) = (rows.clone(), pairs.clone(), measured.clone());
    let half = best.clone();
    vec![
        ("sft, bf16", Box::new(move |llama, progress| sft(llama, &examples(), &half, progress))),
        ("dpo, lora", Box::new(move |llama, progress| dpo(llama, &lora_pairs, &lora_rows, &lora, progress))),
        ("sft", Box::new(move |llama, progress| sft(llama, &examples(), &sft_config, progress))),
        ("sft, best", Box::new(move |llama, progress| sft(llama, &examples(), &best, progress))),
        ("dpo", Box::new(move |llama, progress| dpo(llama, &p, &r, &dpo_config, progress))),
        (
            "dpo, best",
            Box::new(move |llama, progress| dpo(llama, &against("reference"), &examples(), &measured, progress)),
        ),
        (
            "dpo, streaming",
            Box::new(move |llama, progress| {
                let mut microbatches = pairs.chunks(3).map(|m| Ok(m.to_vec()));
                dpo_stream(llama, 4, &mut microbatches, &rows, &streamed, progress)
            }),
        ),
    ]
}

/// What must be the same.
fn outcome(llama: &Llama, trained: &Trained) -> impl PartialEq + use<> {
    let row = |m: &StepMetrics| m.columns().map(|(_, v)| v.map(f64::to_bits)).to_vec();
    let metrics: Vec<_> = trained.metrics.iter().map(row).collect();
    (bits(llama), metrics, trained.chosen, trained.pairs.clone())
}

#[test]
fn stopped_at_any_step_it_ends_the_same() {
    for (name, train) in trainings() {
        let temp = tempfile::tempdir().unwrap();
        let llama = start(name);
        let mut whole = Watch::new(&temp.path().join("whole"));
        let undisturbed = train(&llama, &mut whole).unwrap();
        let want = outcome(&llama, &undisturbed);
        let (total, forwards) = (undisturbed.metrics.len(), usize::MAX - whole.forwards);
        assert!(total >= 4 && whole.saved.is_empty(), "{name}: {total} steps");
        for steps in 1..=total {
            let dir = temp.path().join(format!("stopped-{steps}"));
            let mut watch = Watch { steps, ..Watch::new(&dir) };
            assert_eq!(train(&start(name), &mut watch).unwrap_err().kind(), ErrorKind::Cancelled);
            assert_eq!(watch.saved, [steps], "{name}");
            drop(watch);
            let (llama, mut watch) = (start(name), Watch::new(&dir));
            let trained = train(&llama, &mut watch).unwrap();
            assert_eq!(usize::MAX - watch.steps, total - steps, "{name}: steps taken again");
            assert!(outcome(&llama, &trained) == want, "{name}, stopped after step {steps}");
        }
        // In the middle of steps and measurements too.
        for forward in (1..=forwards).step_by(5) {
            let dir = temp.path().join(format!("within-{forward}"));
            let mut watch = Watch { forwards: forward, ..Watch::new(&dir) };
            assert_eq!(train(&start(name), &mut watch).unwrap_err().kind(), ErrorKind::Cancelled);
            drop(watch);
            let llama = start(name);
            let trained = train(&llama, &mut Watch::new(&dir)).unwrap();
            assert!(outcome(&llama, &trained) == want, "{name}, stopped in forward {forward}");
        }
        // Stopped again and again.
        let dir = temp.path().join("limping");
        let stops = (0..).find(|_| train(&start(name), &mut Watch { steps: 1, ..Watch::new(&dir) }).is_ok());
        assert_eq!(stops, Some(total), "{name}");
    }
}

#[test]
fn killed_at_any_step_it_goes_on_from_the_last_checkpoint() {
    for (name, train) in trainings() {
        let temp = tempfile::tempdir().unwrap();
        let llama = start(name);
        let undisturbed = train(&llama, &mut Watch::new(&temp.path().join("whole"))).unwrap();
        let (want, total) = (outcome(&llama, &undisturbed), undisturbed.metrics.len());
        for steps in 1..=total {
            let dir = temp.path().join(steps.to_string());
            let mut watch = Watch { steps, every: 2, end: killed, ..Watch::new(&dir) };
            train(&start(name), &mut watch).unwrap_err();
            // The kill comes before the step's own checkpoint.
            let kept = (steps - 1) / 2 * 2;
            assert_eq!(watch.saved.last().copied().unwrap_or(0), kept, "{name}");
            assert_eq!(watch.run.checkpoints("train", 1).len(), usize::from(kept > 0), "only the last is kept");
            drop(watch);
            let (llama, mut watch) = (start(name), Watch { every: 2, ..Watch::new(&dir) });
            let trained = train(&llama, &mut watch).unwrap();
            assert_eq!(usize::MAX - watch.steps, total - kept, "{name}: steps taken again");
            assert!(outcome(&llama, &trained) == want, "{name}, killed after step {steps}");
        }
    }
}

#[test]
fn a_checkpoint_that_is_not_whole_or_not_its_own_is_not_used() {
    let trainings = trainings();
    let (name, train) = trainings.iter().find(|(name, _)| *name == "dpo, best").unwrap();
    let temp = tempfile::tempdir().unwrap();
    let llama = policy("start");
    let want = outcome(&llama, &train(&llama, &mut Watch::new(&temp.path().join("whole"))).unwrap());
    let stopped_at_two = |dir: &Path| {
        let mut watch = Watch { steps: 2, ..Watch::new(dir) };
        train(&policy("start"), &mut watch).unwrap_err();
        watch.run.checkpoints("train", 1)[0].1.clone()
    };
    for file in ["model.safetensors", "optimizer.safetensors", "trainer.json", "files.json"] {
        for damage in ["cut", "gone", "bit"] {
            let dir = temp.path().join(format!("{file}-{damage}"));
            let path = stopped_at_two(&dir).join(file);
            let mut bytes = std::fs::read(&path).unwrap();
            match damage {
                "cut" => std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap(),
                "gone" => std::fs::remove_file(&path).unwrap(),
                _ => {
                    let at = bytes.len() / 3;
                    bytes[at] ^= 1;
                    std::fs::write(&path, &bytes).unwrap();
                }
            }
            let (llama, mut watch) = (policy("start"), Watch::new(&dir));
            let trained = train(&llama, &mut watch).unwrap();
            assert_eq!(usize::MAX - watch.steps, trained.metrics.len(), "{file} {damage}: it must start anew");
            assert!(outcome(&llama, &trained) == want, "{name}, {file} {damage}");
        }
    }
    // An older one that is whole is used where the latest is not.
    let dir = temp.path().join("older");
    let two = stopped_at_two(&dir);
    let older = two.with_file_name("older");
    std::fs::rename(&two, &older).unwrap();
    let three = {
        let mut watch = Watch { steps: 3, ..Watch::new(&dir) };
        train(&policy("start"), &mut watch).unwrap_err();
        watch.run.checkpoints("train", 1)[0].1.clone()
    };
    std::fs::rename(&older, &two).unwrap();
    std::fs::write(three.join("model.safetensors"), "no weights").unwrap();
    let (llama, mut watch) = (policy("start"), Watch::new(&dir));
    let trained = train(&llama, &mut watch).unwrap();
    assert_eq!(usize::MAX - watch.steps, trained.metrics.len() - 2);
    assert!(outcome(&llama, &trained) == want);
    drop(watch);

    // Another start, other settings, other rows: anew.
    let config = DpoConfig { batch_size: 4, schedule: schedule(), ..DpoConfig::default() };
    let fresh = |pairs: &[Pair], config: &DpoConfig| {
        let llama = policy("start");
        let trained = dpo(&llama, pairs, &[], config, &mut Watch::new(tempfile::tempdir().unwrap().path())).unwrap();
        outcome(&llama, &trained)
    };
    let pairs = against("reference");
    let mut other = pairs.clone();
    other[7].columns.set(column("margin").unwrap(), 2.);
    let seeded = DpoConfig { seed: 9, ..config.clone() };
    for (what, start, pairs, now) in [
        ("start", "another", &pairs, &config),
        ("settings", "start", &pairs, &seeded),
        ("rows", "start", &other, &config),
    ] {
        let dir = temp.path().join(what);
        let mut watch = Watch { steps: 2, ..Watch::new(&dir) };
        dpo(&policy("start"), &against("reference"), &[], &config, &mut watch).unwrap_err();
        drop(watch);
        let (llama, mut watch) = (policy("start"), Watch { start: start.into(), ..Watch::new(&dir) });
        let trained = dpo(&llama, pairs, &[], now, &mut watch).unwrap();
        assert_eq!(usize::MAX - watch.steps, trained.metrics.len(), "{what}: it must start anew");
        assert!(outcome(&llama, &trained) == fresh(pairs, now), "{what}");
    }
}

#[test]
fn every_metric_survives_the_files_to_the_last_bit() {
    let mut metrics = StepMetrics::default();
    for (i, (name, _)) in StepMetrics::default().columns().iter().enumerate() {
        // Whole steps and tokens, else numbers without a short decimal form.
        let value = if matches!(*name, "step" | "num_tokens") { i as f64 + 1. } else { (i as f64 + 0.1) / 3. };
        assert!(metrics.set(name, Some(value)), "{name}");
    }
    assert!(metrics.columns().iter().all(|(_, v)| v.is_some()));
    let odd = StepMetrics { loss: f64::MIN_POSITIVE, grad_norm: 1e300, eval_loss: Some(f64::NAN), ..metrics.clone() };
    let checkpoint = Checkpoint {
        weights: Default::default(),
        moments: Default::default(),
        best: None,
        settings: "s".into(),
        rows: 3,
        data: "d".into(),
        metrics: vec![metrics, odd, StepMetrics::default()],
    };
    let temp = tempfile::tempdir().unwrap();
    let write = |name: &str, fill: &dyn Fn(&mut dyn std::io::Write) -> Result<()>| {
        fill(&mut std::fs::File::create(temp.path().join(name))?)
    };
    checkpoint.write(&mut { write }).unwrap();
    let read = Checkpoint::read(temp.path()).unwrap();
    let bits = |c: &Checkpoint| -> Vec<_> {
        c.metrics.iter().flat_map(|m| m.columns().map(|(_, v)| v.map(f64::to_bits))).collect()
    };
    assert_eq!(bits(&read), bits(&checkpoint));
    assert_eq!((read.steps(), read.rows, read.settings, read.data), (3, 3, "s".into(), "d".into()));
}
