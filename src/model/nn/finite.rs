//! Checks that weights are finite. Models with other weights are neither saved nor loaded.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::model::ops::Floats;

/// Numbers that one thread checks per task.
const PART: usize = 1 << 16;
/// Numbers of a weight that are widened at a time, because an embedding may be half a model.
const STRETCH: usize = 1 << 20;

/// Checks that every number of every weight is finite.
///
/// # Errors
/// A number is not finite; the message names the first weight that has such numbers, and their count. Or
/// the weights cannot be read back from their device.
pub(crate) fn check(weights: &BTreeMap<String, Tensor>) -> Result<()> {
    for (name, weight) in weights {
        let bad = count(weight)?;
        if bad == 0 {
            continue;
        }
        let all = weight.elem_count();
        let message = format!("weight `{name}` holds {bad} of {all} numbers that are infinite or NaN");
        let help = if weight.dtype() == DType::F16 {
            "f16 ends at 65504: use bf16 or f32. If they are not finite there either, the training that made them diverged"
        } else {
            "the training that made them diverged: lower its learning_rate, or find the step where it began in its metrics"
        };
        return Err(Error::user(message).help(help));
    }
    Ok(())
}

/// Counts the numbers of a weight that are not finite.
fn count(weight: &Tensor) -> Result<usize> {
    let flat = weight.detach().flatten_all()?;
    let (mut bad, n) = (0, flat.elem_count());
    for start in (0..n).step_by(STRETCH) {
        let part = flat.narrow(0, start, STRETCH.min(n - start))?;
        let part = part.to_dtype(DType::F32)?.to_device(&Device::Cpu)?.contiguous()?;
        let numbers = Floats::of(&part)?;
        bad += numbers.par_chunks(PART).map(|c| c.iter().filter(|x| !x.is_finite()).count()).sum::<usize>();
    }
    Ok(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_looked_at_in_every_type() {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let weights = |numbers: Vec<f32>| {
                let tensor = Tensor::from_vec(numbers.clone(), (numbers.len() / 2, 2), &Device::Cpu).unwrap();
                BTreeMap::from([("w".to_owned(), tensor.to_dtype(dtype).unwrap())])
            };
            let good = vec![1.5f32; STRETCH + 10];
            check(&weights(good.clone())).unwrap();
            for (place, value) in [(0, f32::NAN), (STRETCH - 1, f32::INFINITY), (STRETCH + 9, f32::NEG_INFINITY)] {
                let mut numbers = good.clone();
                numbers[place] = value;
                let error = check(&weights(numbers)).unwrap_err().to_string();
                assert!(error.contains("`w` holds 1 of 1048586 numbers"), "{dtype:?} {place}: {error}");
            }
        }
        // A number that f32 can represent and f16 cannot.
        let large = Tensor::new(&[7e4f32], &Device::Cpu).unwrap();
        check(&BTreeMap::from([("w".to_owned(), large.clone())])).unwrap();
        let error = check(&BTreeMap::from([("w".to_owned(), large.to_dtype(DType::F16).unwrap())])).unwrap_err();
        assert!(error.help_text().unwrap().contains("use bf16 or f32"), "{error}");
    }
}
