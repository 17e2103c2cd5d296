//! Encodes a tensor's values for the file.

use candle_core::Tensor;
use half::f16;

use super::gguf_type::GgufType;
use crate::error::{Error, Result};

/// Weights per block of q8_0.
pub(super) const BLOCK: usize = 32;
/// Weights that are encoded at a time; a multiple of [`BLOCK`].
const STRETCH: usize = 1 << 20;

/// Encodes an f32 tensor row by row and passes the bytes to `put` in parts.
pub(super) fn encode(w: &Tensor, kind: GgufType, mut put: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let flat = w.flatten_all()?;
    let n = flat.elem_count();
    let mut bytes = Vec::new();
    for start in (0..n).step_by(STRETCH) {
        let values: Vec<f32> = flat.narrow(0, start, STRETCH.min(n - start))?.to_vec1()?;
        if let Some(x) = values.iter().find(|x| !x.is_finite()) {
            return Err(Error::user(format!("it holds the value {x}")).help("the model is broken"));
        }
        bytes.clear();
        match kind {
            GgufType::F32 => values.iter().for_each(|x| bytes.extend(x.to_le_bytes())),
            GgufType::F16 => {
                for &x in &values {
                    bytes.extend(finite(f16::from_f32(x), x)?.to_le_bytes());
                }
            }
            GgufType::Q8_0 => {
                for block in values.chunks(BLOCK) {
                    q8_0(block, &mut bytes)?;
                }
            }
        }
        put(&bytes)?;
    }
    Ok(())
}

fn finite(half: f16, x: f32) -> Result<f16> {
    if half.is_finite() {
        return Ok(half);
    }
    Err(Error::user(format!("it holds the value {x}, which is beyond f16's range")).help("use --type f32"))
}

/// Quantises a block like ggml's reference (`quantize_row_q8_0_ref`). The scale d is the largest magnitude
/// / 127, stored as f16. The numbers are x / d, with d not yet rounded to f16, rounded to the nearest
/// integer, halves away from zero.
fn q8_0(block: &[f32], to: &mut Vec<u8>) -> Result<()> {
    let largest = block.iter().fold(0f32, |m, x| m.max(x.abs()));
    let d = largest / 127.;
    let inverse = if d == 0. { 0. } else { 1. / d };
    to.extend(finite(f16::from_f32(d), largest)?.to_le_bytes());
    to.extend(block.iter().flat_map(|x| ((x * inverse).round() as i8).to_le_bytes()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn coded(values: Vec<f32>, kind: GgufType) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let w = Tensor::from_vec(values.clone(), (values.len() / BLOCK, BLOCK), &Device::Cpu)?;
        encode(&w, kind, |part| {
            bytes.extend_from_slice(part);
            Ok(())
        })?;
        Ok(bytes)
    }

    /// Compares with bytes from the gguf package, made by `goldens/export/make.py`.
    #[test]
    fn q8_0_is_ggmls() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/export/q8_0.json");
        let golden: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let bits = golden["bits"].as_array().unwrap().iter().map(|b| f32::from_bits(b.as_u64().unwrap() as u32));
        let bytes = coded(bits.collect(), GgufType::Q8_0).unwrap();
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, golden["bytes"].as_str().unwrap());
        assert_eq!(bytes.len(), 30 * 34);
    }

    #[test]
    fn values_that_a_type_does_not_have_are_refused() {
        let with = |x: f32| {
            let mut values = vec![0.5; 2 * BLOCK];
            values[40] = x;
            values
        };
        for kind in [GgufType::F32, GgufType::F16, GgufType::Q8_0] {
            assert!(coded(with(f32::NAN), kind).unwrap_err().to_string().contains("NaN"));
            assert!(coded(with(f32::INFINITY), kind).is_err());
        }
        assert!(coded(with(65504.), GgufType::F16).is_ok());
        let message = coded(with(70000.), GgufType::F16).unwrap_err();
        assert!(message.to_string().contains("70000") && message.help_text().unwrap().contains("f32"));
        assert!(coded(with(8e6), GgufType::Q8_0).is_ok() && coded(with(1e7), GgufType::Q8_0).is_err());
    }
}
