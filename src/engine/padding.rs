//! How many rows a step needs at least, so that no row's bits depend on how many there are.

use crate::model::llama;

/// The fewest rows a matrix product may have for its rows to be bit-equal to those of larger ones.
///
/// The gemm crate (0.19) has other code paths, with other orders of summation, for one row; for products of at most 256
/// elements (rows x outputs); and for more than 512 inputs where neither rows nor outputs exceed 64.
pub(super) fn min_rows(config: &llama::Config) -> usize {
    let (d, f) = (config.hidden_size, config.intermediate_size);
    let (q, kv) = (config.num_attention_heads * config.head_dim(), config.kv_heads() * config.head_dim());
    let products = [(d, q), (d, kv), (q, d), (d, f), (f, d), (d, config.vocab_size)];
    let least = |(inputs, outputs): (usize, usize)| {
        let small = 256 / outputs.max(1) + 1;
        if inputs > 512 && outputs <= 64 { small.max(65) } else { small.max(2) }
    };
    products.into_iter().map(least).max().unwrap_or(2)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;

    fn config(hidden: usize, kv_heads: usize, head_dim: usize, f: usize, vocab: usize) -> llama::Config {
        let json = format!(
            r#"{{"vocab_size": {vocab}, "hidden_size": {hidden}, "intermediate_size": {f}, "num_hidden_layers": 1,
            "num_attention_heads": {}, "num_key_value_heads": {kv_heads}, "head_dim": {head_dim}}}"#,
            hidden / head_dim
        );
        serde_json::from_str(&json).unwrap()
    }

    /// The measurement behind [`min_rows`]: from that many rows on, a row of a product has the same bits whatever the
    /// number of rows. It is printed where, below that, it has not.
    #[test]
    fn products_of_enough_rows_are_bit_equal() {
        let configs = [
            config(64, 2, 16, 96, 128),
            config(128, 2, 32, 256, 152),
            config(576, 3, 64, 1536, 3000),
            config(768, 1, 64, 1024, 500),
            config(48, 1, 8, 1100, 40),
        ];
        for c in configs {
            let (d, f, kv) = (c.hidden_size, c.intermediate_size, c.kv_heads() * c.head_dim());
            let least = min_rows(&c);
            for (inputs, outputs) in [(d, d), (d, kv), (d, f), (f, d), (d, c.vocab_size)] {
                let fill = |n: usize, seed: usize| -> Vec<f32> {
                    (0..n).map(|i| ((i + seed).wrapping_mul(2654435761) >> 7 & 0xffff) as f32 / 65536. - 0.5).collect()
                };
                let w = Tensor::from_vec(fill(outputs * inputs, 7), (outputs, inputs), &Device::Cpu).unwrap();
                let x = Tensor::from_vec(fill(300 * inputs, 1), (300, inputs), &Device::Cpu).unwrap();
                let bits = |rows: usize| -> Vec<u32> {
                    let y = crate::model::ops::linear(&x.narrow(0, 0, rows).unwrap(), &w).unwrap();
                    y.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().map(|y| y.to_bits()).collect()
                };
                let want = bits(300);
                let equal = |rows: usize| bits(rows) == want[..rows * outputs];
                let unequal: Vec<usize> = (1..least).filter(|&rows| !equal(rows)).collect();
                println!("{inputs} -> {outputs}, least {least}: not bit-equal at {unequal:?} rows");
                for rows in (least..70).chain([100, 128, 200, 255, 256, 257]) {
                    assert!(equal(rows), "{inputs} -> {outputs} is not bit-equal at {rows} rows; the least is {least}");
                }
            }
        }
    }
}
