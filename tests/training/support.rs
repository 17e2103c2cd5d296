//! The goldens' model and rows.

use std::collections::BTreeMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use reflux::model::{Config, Llama};
use reflux::train::losses::PairColumns;
use reflux::train::{Example, ForwardLimits, Pair, Quiet, reference};
use serde_json::Value;

pub fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/train").join(name)
}
pub fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(file(&format!("{name}.json"))).unwrap()).unwrap()
}
pub fn config() -> Config {
    serde_json::from_value(json("config")).unwrap()
}
pub fn weights(name: &str) -> BTreeMap<String, Tensor> {
    let all = candle_core::safetensors::load(file(&format!("{name}.safetensors")), &Device::Cpu).unwrap();
    all.into_iter().collect()
}
pub fn policy(name: &str) -> Llama {
    Llama::trainable(&config(), &weights(name)).unwrap()
}
pub fn frozen(name: &str) -> Llama {
    Llama::frozen(&config(), &weights(name)).unwrap()
}

fn ids(v: &Value) -> Vec<u32> {
    v.as_array().unwrap().iter().map(|t| t.as_u64().unwrap() as u32).collect()
}
pub fn pairs() -> Vec<Pair> {
    let pair = |(i, p): (usize, &Value)| Pair {
        id: format!("pair-{i}"),
        prompt: ids(&p["prompt"]),
        chosen: ids(&p["chosen"]),
        rejected: ids(&p["rejected"]),
        reference: None,
        columns: PairColumns::default(),
    };
    json("data")["pairs"].as_array().unwrap().iter().enumerate().map(pair).collect()
}
/// The pairs with the log-probabilities of the model `name` as their reference.
pub fn against(name: &str) -> Vec<Pair> {
    referred(&frozen(name), pairs())
}
/// `pairs` with the log-probabilities that `llama` gives.
pub fn referred(llama: &Llama, mut pairs: Vec<Pair>) -> Vec<Pair> {
    pairs.iter_mut().for_each(|p| p.reference = None);
    reference(llama, &mut pairs, ForwardLimits::default(), &mut Quiet).unwrap();
    pairs
}
/// The sums of the log-probabilities that `llama` gives chosen and rejected.
pub fn sums(llama: &Llama, pairs: &[Pair]) -> Vec<(f64, f64)> {
    referred(llama, pairs.to_vec()).iter().map(|p| p.reference.as_ref().unwrap().sums()).collect()
}
pub fn examples() -> Vec<Example> {
    let example = |e: &Value| Example { tokens: ids(&e["tokens"]), context: e["context"].as_u64().unwrap() as usize };
    json("data")["examples"].as_array().unwrap().iter().map(example).collect()
}

/// The weights' bits, in the order of their names.
pub fn bits(llama: &Llama) -> Vec<u32> {
    let bits = |v: &candle_core::Var| v.flatten_all().unwrap().to_dtype(DType::F32).unwrap().to_vec1::<f32>().unwrap();
    llama.variables().values().flat_map(bits).map(f32::to_bits).collect()
}
/// Largest difference of two models' weights.
pub fn difference(a: &Llama, b: &Llama) -> f32 {
    bits(a).into_iter().zip(bits(b)).map(|(a, b)| (f32::from_bits(a) - f32::from_bits(b)).abs()).fold(0., f32::max)
}
