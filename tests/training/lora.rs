//! LoRA equals PEFT: logits, gradients, TRL's DPO of an adapter, and the files. The goldens are made by
//! `goldens/lora/make.py`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{self, config, frozen, pairs};
use candle_core::{DType, Device, Tensor};
use reflux::error::{Error, ErrorKind, Result};
use reflux::model::backprop::ForwardOptions;
use reflux::model::formats::peft;
use reflux::model::ops::{Packed, Segment};
use reflux::model::{Llama, LoraConfig, Model};
use reflux::store::Run;
use reflux::train::{
    AdamWConfig, Checkpoint, Checkpoints, Decay, DpoConfig, Example, ForwardLimits, Objective, Pair, Progress, Quiet,
    Schedule, StepMetrics, Trainer, Warmup, dpo, reference,
};
use serde_json::Value;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/lora").join(name)
}
fn tensors(path: &Path) -> BTreeMap<String, Tensor> {
    candle_core::safetensors::load(path, &Device::Cpu).unwrap().into_iter().collect()
}
/// The base model with PEFT's adapter.
fn adapted(name: &str) -> Llama {
    let (lora, weights) = peft::load(&golden(name), &config()).unwrap();
    frozen("start").with_lora(&lora, &weights).unwrap()
}
/// The pairs with the log-probabilities that a model gives them.
fn pairs_of(llama: &Llama) -> Vec<Pair> {
    let mut pairs = pairs();
    assert_eq!(reference(llama, &mut pairs, ForwardLimits::default(), &mut Quiet).unwrap(), pairs.len());
    pairs
}
fn sums(llama: &Llama) -> Vec<(f64, f64)> {
    pairs_of(llama).iter().map(|p| p.reference.as_ref().unwrap().sums()).collect()
}
fn most(a: &Tensor, b: &Tensor) -> f32 {
    let off = (a - b).unwrap().abs().unwrap().flatten_all().unwrap();
    off.max(0).unwrap().to_scalar().unwrap()
}
fn logits(llama: &Llama, ids: &[u32]) -> Tensor {
    let positions: Vec<u32> = (0..ids.len() as u32).collect();
    let mut attention = Packed::new(vec![Segment::plain(0..ids.len())]);
    llama.logits(&llama.forward(ids, &positions, &mut attention).unwrap()).unwrap()
}
fn ids(golden: &Value) -> Vec<u32> {
    golden["ids"].as_array().unwrap().iter().map(|t| t.as_u64().unwrap() as u32).collect()
}
fn read(name: &str) -> Value {
    serde_json::from_slice(&fs::read(golden(name)).unwrap()).unwrap()
}

#[test]
fn logits_loss_and_gradients_equal_pefts() {
    let all = read("golden.json");
    let ids = ids(&all);
    for (name, rank, scale, matrices) in [("all", 4, 1.5, 14), ("qv", 3, 1., 4)] {
        let llama = adapted(name);
        let lora = llama.lora().unwrap();
        assert_eq!((lora.rank, lora.scale()), (rank, scale));
        assert_eq!(llama.variables().len(), 2 * matrices, "A and B of every target, and nothing else");

        let logits = logits(&llama, &ids);
        let want: Vec<Vec<f32>> = serde_json::from_value(all[name]["logits"].clone()).unwrap();
        let off = most(&logits.narrow(0, ids.len() - 3, 3).unwrap(), &Tensor::new(want, &Device::Cpu).unwrap());
        assert!(off < 1e-5, "{name}: logits differ by {off}");

        let next = Tensor::new(&ids[1..], &Device::Cpu).unwrap().unsqueeze(1).unwrap();
        let log_probs = candle_nn::ops::log_softmax(&logits.narrow(0, 0, ids.len() - 1).unwrap(), 1).unwrap();
        let loss = log_probs.gather(&next, 1).unwrap().mean_all().unwrap().neg().unwrap();
        let (got, want) = (f64::from(loss.to_scalar::<f32>().unwrap()), all[name]["loss"].as_f64().unwrap());
        assert!((got - want).abs() < 1e-5, "{name}: loss {got}, expected {want}");

        let store = loss.backward().unwrap();
        let want = tensors(&golden(&format!("{name}-gradients.safetensors")));
        assert_eq!(want.keys().collect::<Vec<_>>(), llama.variables().keys().collect::<Vec<_>>());
        for (key, var) in llama.variables() {
            let gradient = store.get(var).unwrap_or_else(|| panic!("{name}: {key} has no gradient"));
            let size = want[key].abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            let off = most(gradient, &want[key]);
            assert!(size > 1e-4 && off < 1e-4 * size, "{name}: {key} differs by {off} of {size}");
        }
        // The base model's weights are not even asked for theirs.
        assert!(llama.weights().values().all(|w| !w.track_op() && store.get(w).is_none()));
    }
}

fn schedule() -> Schedule {
    Schedule { decay: Decay::Cosine, learning_rate: 2e-3, final_learning_rate: 0., warmup: Warmup::Steps(0) }
}

#[test]
fn dpo_of_an_adapter_equals_trls() {
    let all = read("golden.json");
    for name in ["all", "qv"] {
        let llama = adapted(name);
        let start: BTreeMap<_, _> =
            llama.variables().iter().map(|(k, v)| (k.clone(), v.as_tensor().copy().unwrap())).collect();
        let pairs = pairs_of(&frozen("start"));
        let adamw = AdamWConfig { weight_decay: 0.1, ..AdamWConfig::default() };
        let mut trainer = Trainer::new(&llama, adamw, schedule(), 3, ForwardLimits::default()).unwrap();
        let steps = all[name]["dpo"].as_array().unwrap();
        assert_eq!(steps.len(), 3);
        for (i, want) in steps.iter().enumerate() {
            let rows = 4 * i..4 * i + 4;
            let batch: Vec<_> = pairs[rows].iter().collect();
            let mut got = trainer.dpo_step(&batch, &[], &Objective::default(), &mut Quiet).unwrap();
            got.epoch = (i + 1) as f64 * 4. / pairs.len() as f64;
            let columns: BTreeMap<_, _> = got.columns().into_iter().collect();
            for (key, want) in want.as_object().unwrap() {
                let (got, want) = (columns[key.as_str()].unwrap(), want.as_f64().unwrap());
                let off = (got - want).abs();
                assert!(off <= 1e-3 * want.abs().max(1e-3), "{name}, step {}, {key}: {got}, expected {want}", i + 1);
            }
        }
        let want = tensors(&golden(&format!("{name}-dpo.safetensors")));
        let off = llama.variables().iter().map(|(k, v)| most(v, &want[k])).fold(0., f32::max);
        let moved = start.iter().map(|(k, v)| most(v, &want[k])).fold(0., f32::max);
        println!("{name}: the adapter within {off:.1e} of {moved:.1e} moved");
        assert!(moved > 1e-3 && off < 1e-4, "{name}: adapters differ by {off}, moved by {moved}");
    }
}

#[test]
fn merged_equals_unmerged() {
    for name in ["all", "qv"] {
        let llama = adapted(name);
        let whole = Llama::frozen(&config(), &llama.merged().unwrap()).unwrap();
        // Token by token.
        let tokens = |llama: &Llama| -> Vec<f32> {
            let each = |p: Pair| p.reference.map(|r| [r.chosen, r.rejected].concat()).unwrap();
            pairs_of(llama).into_iter().flat_map(each).collect()
        };
        let (unmerged, merged, base) = (tokens(&llama), tokens(&whole), tokens(&frozen("start")));
        let worst = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0., f32::max);
        let (off, moved) = (worst(&unmerged, &merged), worst(&merged, &base));
        println!("{name}: log-probabilities within {off:.1e}, the adapter moves them by {moved:.1e}");
        assert!(off < 1e-5 && moved > 0.1, "{name}: {off}, {moved}");
        let panels = whole.for_inference().unwrap();
        let ids = ids(&read("golden.json"));
        let adapted = adapted(name).for_inference().unwrap();
        assert_eq!(most(&logits(&panels, &ids), &logits(&adapted, &ids)), 0., "merged before it is laid out");
    }
}

#[test]
fn gradients_equal_finite_differences() {
    let llama = adapted("all");
    let pairs = pairs();
    let sums = || -> f64 { sums(&llama)[..3].iter().map(|(c, r)| c + 2. * r).sum() };
    // The same sum with a graph.
    let mut loss = Tensor::zeros((), DType::F64, &Device::Cpu).unwrap();
    for p in &pairs[..3] {
        for (weight, completion) in [(1., &p.chosen), (2., &p.rejected)] {
            let ids = [p.prompt.as_slice(), completion].concat();
            let all = candle_nn::ops::log_softmax(&logits(&llama, &ids), 1).unwrap();
            let next = Tensor::new(completion.as_slice(), &Device::Cpu).unwrap().unsqueeze(1).unwrap();
            let picked = all.narrow(0, p.prompt.len() - 1, completion.len()).unwrap().gather(&next, 1).unwrap();
            loss = (loss + (picked.to_dtype(DType::F64).unwrap().sum_all().unwrap() * weight).unwrap()).unwrap();
        }
    }
    assert!((loss.to_scalar::<f64>().unwrap() - sums()).abs() < 1e-3);
    let store = loss.backward().unwrap();
    for (name, var) in llama.variables() {
        let (rows, columns) = var.dims2().unwrap();
        let at = (rows / 2) * columns + columns / 3;
        let values: Vec<f32> = var.flatten_all().unwrap().to_vec1().unwrap();
        let moved = |by: f32| -> f64 {
            let mut values = values.clone();
            values[at] += by;
            var.set(&Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()).unwrap();
            sums()
        };
        let h = 1e-2f32;
        let numeric = (moved(h) - moved(-h)) / (2. * f64::from(h));
        moved(0.);
        let exact: Vec<f32> = store.get(var).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let off = (numeric - f64::from(exact[at])).abs();
        assert!(off < 2e-3 + 5e-3 * numeric.abs(), "{name}: {} by autograd, {numeric} by differences", exact[at]);
    }
}

#[test]
fn a_new_adapter_changes_nothing_and_is_reproducible() {
    let lora = LoraConfig { rank: 4, alpha: 8., dropout: 0., targets: vec!["k_proj", "down_proj"] };
    let new = |seed: u64| {
        let weights = lora.init(&config(), seed, &Device::Cpu).unwrap();
        frozen("start").with_lora(&lora, &weights).unwrap()
    };
    let (a, again, other) = (new(1), new(1), new(2));
    assert_eq!(support::bits(&a), support::bits(&again));
    assert_ne!(support::bits(&a), support::bits(&other));
    let names: Vec<&str> = a.variables().keys().map(String::as_str).collect();
    assert_eq!(names.len(), 8);
    assert!(names.contains(&"model.layers.1.mlp.down_proj.lora_A.weight"));
    for (name, var) in a.variables() {
        let values: Vec<f32> = var.flatten_all().unwrap().to_vec1().unwrap();
        if name.ends_with("lora_B.weight") {
            assert!(values.iter().all(|v| *v == 0.), "{name}");
            continue;
        }
        // Uniform within 1 / sqrt(in): fills the range, mean 0, variance a third of the bound's square.
        let bound = 1. / (var.dim(1).unwrap() as f32).sqrt();
        let n = values.len() as f32;
        let (mean, square) = (values.iter().sum::<f32>() / n, values.iter().map(|v| v * v).sum::<f32>() / n);
        let largest = values.iter().fold(0f32, |m, v| m.max(v.abs()));
        assert!(largest < bound && largest > 0.9 * bound, "{name}: {largest} of {bound}");
        assert!(
            mean.abs() < 0.2 * bound && (square / (bound * bound) - 1. / 3.).abs() < 0.08,
            "{name}: {mean} {square}"
        );
    }
    let ids = ids(&read("golden.json"));
    assert_eq!(most(&logits(&a, &ids), &logits(&frozen("start"), &ids)), 0., "B is zero");
    // B's gradient alone moves things at first, and then A has one too.
    let example = Example { tokens: ids, context: 2 };
    let mut trainer = Trainer::new(&a, AdamWConfig::default(), schedule(), 2, ForwardLimits::default()).unwrap();
    let first = trainer.sft_step(&[&example], &mut Quiet).unwrap().loss;
    assert!(trainer.sft_step(&[&example], &mut Quiet).unwrap().loss < first);
    assert!(most(&a.variables()[names[0]], &again.variables()[names[0]]) > 0.);
}

/// The adapter after two steps with dropout of 0.3 under a seed, and the losses.
fn with_dropout(seed: u64, checkpoint: bool, max_items: usize) -> (Vec<u32>, [f64; 2]) {
    let (lora, weights) = peft::load(&golden("all"), &config()).unwrap();
    let llama = frozen("start").with_lora(&LoraConfig { dropout: 0.3, ..lora }, &weights).unwrap();
    let limits = ForwardLimits { max_items, ..ForwardLimits::default() };
    let options = ForwardOptions { checkpoint, ..ForwardOptions::default() };
    let mut trainer =
        Trainer::new(&llama, AdamWConfig::default(), schedule(), 2, limits).unwrap().recording(options, seed);
    let pairs = pairs_of(&frozen("start"));
    let mut step = |i: usize| {
        let batch: Vec<_> = pairs[4 * i..4 * i + 4].iter().collect();
        trainer.dpo_step(&batch, &[], &Objective::default(), &mut Quiet).unwrap().loss
    };
    let losses = [step(0), step(1)];
    (support::bits(&llama), losses)
}

#[test]
fn dropout_of_the_adapters_input_depends_on_seed_step_and_row_alone() {
    let (bits, losses) = with_dropout(1, false, 99);
    assert_eq!(with_dropout(1, false, 99), (bits.clone(), losses), "reproducible");
    assert_eq!(with_dropout(1, true, 99).0, bits, "computed again on the way back, it draws the same");
    let (cut, cut_losses) = with_dropout(1, false, 1);
    let off = bits.iter().zip(&cut).map(|(a, b)| (f32::from_bits(*a) - f32::from_bits(*b)).abs()).fold(0., f32::max);
    assert!(off < 1e-5 && (losses[0] - cut_losses[0]).abs() < 1e-6, "pair by pair: {off}, {losses:?} {cut_losses:?}");
    let other = with_dropout(2, false, 99).1;
    assert!((other[0] - losses[0]).abs() > 1e-3, "another seed draws otherwise");
    // Nothing is dropped where nothing is learnt: the reference, a measurement, what is saved.
    let (lora, weights) = peft::load(&golden("all"), &config()).unwrap();
    let drops = frozen("start").with_lora(&LoraConfig { dropout: 0.3, ..lora }, &weights).unwrap();
    assert_eq!(sums(&drops), sums(&adapted("all")));
    // It is kept in the adapter's settings.
    let dir = tempfile::tempdir().unwrap();
    peft::save(&drops, None, dir.path()).unwrap();
    assert_eq!(peft::load(dir.path(), &config()).unwrap().0.dropout, 0.3);
}

/// Keeps checkpoints in a run directory, and stops the training after so many steps.
struct Stopping(Run, usize);

impl Progress for Stopping {
    fn step(&mut self, _: &StepMetrics, done: usize, _: usize) -> Result<()> {
        if done == self.1 { Err(Error::cancelled()) } else { Ok(()) }
    }
    fn checkpoints(&mut self) -> Option<&mut dyn Checkpoints> {
        Some(self)
    }
}
impl Checkpoints for Stopping {
    fn every(&self) -> usize {
        1000
    }
    fn start(&self) -> String {
        "start".into()
    }
    fn save(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.0.save_checkpoint("train", 1, checkpoint.steps(), |files| {
            checkpoint.write(&mut |name, fill| files.put(name, |to| fill(to)))
        })
    }
    fn latest(&mut self) -> Result<Option<Checkpoint>> {
        self.0.checkpoints("train", 1).first().map(|(_, dir)| Checkpoint::read(dir)).transpose()
    }
}

#[test]
fn a_stopped_training_of_an_adapter_goes_on_to_the_same_bits() {
    let config = DpoConfig { batch_size: 4, schedule: schedule(), ..DpoConfig::default() };
    let pairs = &pairs_of(&frozen("start"))[..16];
    let temp = tempfile::tempdir().unwrap();
    let train = |llama: &Llama, dir: &str, stop: usize| {
        let run = Run::create_or_open(&temp.path().join(dir), "a = 1\n", 1, false).unwrap().0;
        dpo(llama, pairs, &[], &config, &mut Stopping(run, stop))
    };
    let whole = adapted("all");
    assert_eq!(train(&whole, "whole", 99).unwrap().metrics.len(), 4);
    for stop in 1..4 {
        let dir = format!("stopped-{stop}");
        assert_eq!(train(&adapted("all"), &dir, stop).unwrap_err().kind(), ErrorKind::Cancelled);
        // What it starts from does not matter: the checkpoint has the whole adapter.
        let resumed = adapted("all");
        let var = &resumed.variables()["model.layers.0.self_attn.q_proj.lora_B.weight"];
        var.set(&var.zeros_like().unwrap()).unwrap();
        train(&resumed, &dir, 99).unwrap();
        assert_eq!(support::bits(&resumed), support::bits(&whole));
    }
}

#[test]
fn the_files_are_pefts() {
    for name in ["all", "qv"] {
        let dir = tempfile::tempdir().unwrap();
        peft::save(&adapted(name), Some("some/base"), dir.path()).unwrap();
        // Names, shapes, types and every bit.
        let file = |dir: &Path| tensors(&dir.join("adapter_model.safetensors"));
        let (ours, pefts) = (file(dir.path()), file(&golden(name)));
        assert_eq!(ours.keys().collect::<Vec<_>>(), pefts.keys().collect::<Vec<_>>());
        for (key, w) in &ours {
            assert_eq!((w.dims(), w.dtype()), (pefts[key].dims(), pefts[key].dtype()), "{key}");
            assert_eq!(most(w, &pefts[key]), 0., "{key}");
        }
        // Every setting is one of PEFT's and has PEFT's value; the targets may be spelled in full.
        let config = |dir: &Path| -> Value {
            serde_json::from_slice(&fs::read(dir.join("adapter_config.json")).unwrap()).unwrap()
        };
        let (ours, pefts) = (config(dir.path()), config(&golden(name)));
        for (key, value) in ours.as_object().unwrap() {
            let want = pefts.get(key).unwrap_or_else(|| panic!("PEFT has no `{key}`"));
            match key.as_str() {
                "base_model_name_or_path" => assert_eq!(value, "some/base"),
                "target_modules" => {
                    let last = |v: &Value| -> BTreeSet<String> {
                        let name = |t: &Value| t.as_str().unwrap().rsplit('.').next().unwrap().to_owned();
                        v.as_array().unwrap().iter().map(name).collect()
                    };
                    assert_eq!(last(value), last(want));
                }
                _ => assert_eq!(value, want, "{key}"),
            }
        }
        for key in ["r", "lora_alpha", "target_modules", "peft_type", "task_type", "lora_dropout", "bias"] {
            assert!(ours.get(key).is_some(), "{key}");
        }
    }
}

/// A whole model with an adapter whose B is not zero, saved at M2 with the adapter beside, trained on `base`.
fn saved(base: &Path, to: &Path, named: Option<&str>) -> String {
    let model = Model::load(base, &Device::Cpu, DType::F32, false).unwrap();
    let before = model.hash.clone();
    let model = model.with_lora(&LoraConfig { rank: 2, ..LoraConfig::default() }, 3).unwrap();
    assert_eq!(model.current_hash().unwrap(), before, "nothing is changed yet");
    let example = Example { tokens: vec![5, 6, 7, 8, 9], context: 1 };
    let adamw = AdamWConfig::default();
    let mut trainer = Trainer::new(&model.llama, adamw, schedule(), 2, ForwardLimits::default()).unwrap();
    trainer.sft_step(&[&example], &mut Quiet).unwrap();
    model.save_lora(named, &to.join("adapter")).unwrap();
    let hash = model.save(to).unwrap();
    assert!(hash == model.current_hash().unwrap() && hash != before);
    hash
}

fn smollm2() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/model/smollm2")
}

#[test]
fn a_saved_adapter_is_a_model_again() {
    let dir = tempfile::tempdir().unwrap();
    let hash = saved(&smollm2(), &dir.path().join("M2"), smollm2().to_str());
    let load = |path: &Path| Model::load(path, &Device::Cpu, DType::F32, false).unwrap();
    assert_eq!(load(&dir.path().join("M2")).hash, hash);
    let merged = load(&dir.path().join("M2/adapter"));
    assert_eq!(merged.hash, hash, "the adapter's directory is its base model with the adapter merged");
    // Its base may be named from the adapter's own place.
    let next = saved(&dir.path().join("M2"), &dir.path().join("M3"), Some("../../M2"));
    assert_eq!(load(&dir.path().join("M3/adapter")).hash, next);
    // As an adapter, to be trained further.
    let again = load(&smollm2()).load_lora(&dir.path().join("M2/adapter")).unwrap();
    assert_eq!((again.current_hash().unwrap(), again.llama.lora().unwrap().rank), (hash, 2));
    // A whole copy of an adapted model has it merged in.
    assert_eq!(again.frozen().unwrap().hash, again.current_hash().unwrap());
}

#[test]
fn broken_adapters_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    saved(&smollm2(), &dir.path().join("M2"), smollm2().to_str());
    let adapter = dir.path().join("M2/adapter");
    let refuses = |words: &[&str]| {
        let error = Model::load(&adapter, &Device::Cpu, DType::F32, false).err().expect("it loads");
        assert_eq!(error.kind(), ErrorKind::User, "{error}");
        let message = format!("{error} | {}", error.help_text().unwrap_or_default());
        for word in words {
            assert!(message.contains(word), "`{word}` is not in: {message}");
        }
    };
    let path = adapter.join("adapter_config.json");
    let good = fs::read_to_string(&path).unwrap();
    for (from, to, words) in [
        (r#""use_dora": false"#, r#""use_dora": true"#, &["adapter_config.json", "use_dora is true", "merge"][..]),
        (r#""use_rslora": false"#, r#""use_rslora": true"#, &["use_rslora is true"]),
        (r#""bias": "none""#, r#""bias": "all""#, &["bias is \"all\""]),
        (r#""rank_pattern": {}"#, r#""rank_pattern": {"q_proj": 3}"#, &["rank_pattern"]),
        (r#""peft_type": "LORA""#, r#""peft_type": "IA3""#, &["peft_type is IA3"]),
        (r#""r": 2"#, r#""r": 0"#, &["r is not"]),
        (r#""r": 2"#, r#""r": 3"#, &["adapter_model.safetensors", "has shape"]),
        (r#""r": 2"#, r#""r": 99999999999999"#, &["adapter_model.safetensors", "has shape"]),
        (r#""lora_dropout": 0.0"#, r#""lora_dropout": 1.5"#, &["lora_dropout"]),
        (r#""lora_alpha": 32"#, r#""lora_alpha": "x""#, &["lora_alpha"]),
        (r#""q_proj","#, r#""lm_head","#, &["target_modules has `lm_head`", "q_proj"]),
        (r#""q_proj","#, "", &["is not part of a LoRA model"]),
        (
            smollm2().to_str().unwrap(),
            "no/such/model",
            &["base_model_name_or_path is `no/such/model`", "path of the model"],
        ),
        (smollm2().to_str().unwrap(), adapter.to_str().unwrap(), &["is itself an adapter"]),
        (smollm2().to_str().unwrap(), "", &["base_model_name_or_path is missing"]),
        ("{", "[", &["adapter_config.json"]),
    ] {
        assert!(good.contains(from), "{from}");
        fs::write(&path, good.replacen(from, to, 1)).unwrap();
        refuses(words);
    }
    fs::write(&path, &good).unwrap();
    // An adapter of another model.
    let llama3 = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/model/llama3");
    fs::write(&path, good.replacen(smollm2().to_str().unwrap(), llama3.to_str().unwrap(), 1)).unwrap();
    refuses(&["adapter_model.safetensors", "has shape"]);
    fs::write(&path, &good).unwrap();
    // Cut off or changed anywhere, the files give a model or a message, and never a panic.
    let weights = adapter.join("adapter_model.safetensors");
    for file in [&path, &weights] {
        let whole = fs::read(file).unwrap();
        for i in (0..whole.len().min(4000)).step_by(7) {
            let mut bytes = whole.clone();
            if i % 2 == 0 {
                bytes.truncate(i)
            } else {
                bytes[i] = bytes[i].wrapping_mul(31).wrapping_add(7)
            }
            fs::write(file, bytes).unwrap();
            let loaded = Model::load(&adapter, &Device::Cpu, DType::F32, false);
            assert!(loaded.as_ref().err().is_none_or(|e| e.kind() == ErrorKind::User), "{:?}", loaded.err());
            assert!(i % 2 == 1 || loaded.is_err() || i + 2 >= whole.len(), "cut off at {i}");
        }
        fs::write(file, whole).unwrap();
    }
    fs::remove_file(adapter.join("adapter_model.safetensors")).unwrap();
    refuses(&["adapter_model.safetensors not found"]);
}
