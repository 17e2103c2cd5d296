//! The sum of LoRA adapters that were trained one on the other, as one adapter of the first one's base model.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

use super::peft;
use crate::error::{Error, Result};
use crate::model::config::Config;
use crate::model::nn::lora::{LoraConfig, TARGETS};

/// An adapter with its weights.
type LoadedAdapter = (LoraConfig, BTreeMap<String, Tensor>);

/// Writes the sum of adapters to `dir`: what `base`, the model that the first of them was trained on, needs to compute
/// as the last one. Its rank is the sum of theirs. One adapter alone keeps its bits. Returns the rank.
///
/// # Errors
/// An adapter cannot be read, or does not fit the model; a full disk.
pub fn write_sum(adapters: &[PathBuf], model: &Config, base: &str, dir: &Path) -> Result<usize> {
    let mut parts: Vec<LoadedAdapter> =
        adapters.iter().map(|adapter| peft::load(adapter, model)).collect::<Result<_>>()?;
    let (lora, weights) = match parts.len() {
        0 => return Err(Error::bug("the sum of no adapters")),
        1 => parts.remove(0),
        _ => sum(&parts, model).map_err(|e| Error::bug(format!("adding adapters: {e}")))?,
    };
    let rank = lora.rank;
    peft::write(&lora, weights, Some(base), dir)?;
    Ok(rank)
}

/// Puts the rows of every A and the columns of every B side by side. B carries the factor of its adapter.
fn sum(parts: &[LoadedAdapter], model: &Config) -> candle_core::Result<LoadedAdapter> {
    let rank = parts.iter().map(|(lora, _)| lora.rank).sum();
    let has = |target: &&str| parts.iter().any(|(lora, _)| lora.targets.contains(target));
    let targets = TARGETS.into_iter().filter(|target| has(target)).collect();
    // The factor is alpha / rank, and here it is 1.
    let lora = LoraConfig { rank, alpha: rank as f64, dropout: 0., targets };
    let mut weights = BTreeMap::new();
    for (name, shape) in lora.weights(model) {
        let is_a = name.ends_with("lora_A.weight");
        let mut pieces = Vec::with_capacity(parts.len());
        for (part, known) in parts {
            let shape = if is_a { (part.rank, shape[1]) } else { (shape[0], part.rank) };
            pieces.push(match known.get(&name) {
                None => Tensor::zeros(shape, DType::F32, &Device::Cpu)?,
                Some(a) if is_a => a.clone(),
                Some(b) => (b * part.scale())?,
            });
        }
        weights.insert(name, Tensor::cat(&pieces, usize::from(!is_a))?);
    }
    Ok((lora, weights))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::nn::lora::merge;

    /// One after the other, and their sum, give the same weights up to rounding.
    #[test]
    fn the_sum_is_all_of_them() {
        let model: Config =
            serde_json::from_str(include_str!("../../../pipelines/listworld/model/config.json")).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let device = Device::Cpu;
        let mut wanted: BTreeMap<String, Tensor> = BTreeMap::new();
        for (name, shape) in model.weights() {
            wanted.insert(name, Tensor::zeros(shape, DType::F32, &device).unwrap());
        }
        let zero = wanted.clone();
        let add = |to: &mut BTreeMap<String, Tensor>, lora: &LoraConfig, of: &BTreeMap<String, Tensor>| {
            for (name, w) in to.iter_mut() {
                let part = |part: &str| of.get(&format!("{}.{part}.weight", name.strip_suffix(".weight").unwrap()));
                if let Some((a, b)) = part("lora_A").zip(part("lora_B")) {
                    *w = merge(w, a, b, lora.scale()).unwrap();
                }
            }
        };
        let mut adapters = Vec::new();
        for (i, targets) in [vec!["q_proj", "up_proj"], vec!["q_proj", "down_proj"]].into_iter().enumerate() {
            let lora = LoraConfig { rank: 2 + i, alpha: 5., dropout: 0., targets };
            let weights = lora.init(&model, 7 + i as u64, &device).unwrap();
            // B is drawn as A is, or nothing would be added.
            let drawn = |(name, w): (String, Tensor)| {
                let w = if name.ends_with("lora_B.weight") {
                    Tensor::randn(0f32, 1., w.shape(), &device).unwrap()
                } else {
                    w
                };
                (name, w)
            };
            let weights: BTreeMap<String, Tensor> = weights.into_iter().map(drawn).collect();
            add(&mut wanted, &lora, &weights);
            let to = dir.path().join(i.to_string());
            peft::write(&lora, weights, None, &to).unwrap();
            adapters.push(to);
        }
        let to = dir.path().join("sum");
        assert_eq!(write_sum(&adapters, &model, "base", &to).unwrap(), 5);
        let (lora, weights) = peft::load(&to, &model).unwrap();
        assert_eq!((lora.rank, lora.scale()), (5, 1.));
        let mut got = zero;
        add(&mut got, &lora, &weights);
        let mut moved = 0;
        for (name, w) in &wanted {
            let off = (w - &got[name]).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(off < 1e-5, "{name}: {off}");
            moved += usize::from(w.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap() > 0.1);
        }
        assert!(moved >= 3);
        // One adapter alone is not touched.
        assert_eq!(write_sum(&adapters[..1], &model, "base", &dir.path().join("one")).unwrap(), 2);
        let bytes = |dir: &Path| std::fs::read(dir.join(peft::WEIGHTS)).unwrap();
        assert_eq!(bytes(&adapters[0]), bytes(&dir.path().join("one")));
    }
}
