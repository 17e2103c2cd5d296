//! Random weights.
use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

use crate::error::{Error, Result};
use crate::model::config::Config;

/// Draws weights: norms are 1, all others N(0, std) by Box-Muller over the generator of (seed, weight
/// name).
pub(crate) fn normal(config: &Config, std: f32, seed: u64, device: &Device) -> Result<BTreeMap<String, Tensor>> {
    let mut all = BTreeMap::new();
    for (name, shape) in config.weights() {
        let n: usize = shape.iter().product();
        let mut values = Vec::new();
        values.try_reserve_exact(n + 1).map_err(|_| {
            Error::user(format!("weight `{name}` of shape {shape:?} does not fit into memory"))
                .help("the sizes are those of config.json")
        })?;
        if shape.len() == 1 {
            values.resize(n, 1f32);
        } else {
            draw(&mut values, n, std, seed, &name);
        }
        all.insert(name, Tensor::from_vec(values, shape, device)?);
    }
    Ok(all)
}

/// Draws numbers in (0, 1) from the generator of (seed, weight name).
pub(crate) fn uniform(seed: u64, name: &str) -> impl FnMut() -> f64 {
    use rand_chacha::rand_core::{Rng, SeedableRng};
    let key = blake3::Hasher::new().update(&seed.to_le_bytes()).update(name.as_bytes()).finalize();
    let mut rng = rand_chacha::ChaCha8Rng::from_seed(*key.as_bytes());
    // Maps 32 random bits to the middle of one of 2^32 cells of (0, 1): never 0, so its logarithm is
    // finite.
    move || (f64::from(rng.next_u32()) + 0.5) / 4_294_967_296.
}

fn draw(values: &mut Vec<f32>, n: usize, std: f32, seed: u64, name: &str) {
    let mut uniform = uniform(seed, name);
    while values.len() < n {
        let (radius, angle) = ((-2. * uniform().ln()).sqrt(), std::f64::consts::TAU * uniform());
        values.push((radius * angle.cos()) as f32 * std);
        values.push((radius * angle.sin()) as f32 * std);
    }
    values.truncate(n);
}
