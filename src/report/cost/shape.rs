//! Arithmetic of a Llama model (weights, operations and bytes), computed from its shape alone.

use crate::model::Config;

/// The shape of a Llama model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ModelShape {
    /// Number of blocks, L.
    pub layers: f64,
    /// Width of the residual stream, D.
    pub hidden: f64,
    /// Width of the MLP, F.
    pub intermediate: f64,
    /// Query heads times head width, A.
    pub attention: f64,
    /// Key and value heads times head width, K.
    pub kv: f64,
    /// Vocabulary size, V.
    pub vocabulary: f64,
    /// Whether the output matrix shares the embedding's weights.
    pub tied: bool,
}

impl ModelShape {
    /// Reads the shape from a `config.json`; returns `None` if a count is 0.
    pub fn of(config: &Config) -> Option<Self> {
        let heads = config.num_attention_heads;
        if heads == 0 || [config.num_hidden_layers, config.hidden_size, config.vocab_size].contains(&0) {
            return None;
        }
        let width = config.head_dim() as f64;
        Some(Self {
            layers: config.num_hidden_layers as f64,
            hidden: config.hidden_size as f64,
            intermediate: config.intermediate_size as f64,
            attention: heads as f64 * width,
            kv: config.kv_heads() as f64 * width,
            vocabulary: config.vocab_size as f64,
            tied: config.tie_word_embeddings,
        })
    }
    /// Names, rows and columns of the matrices of one layer.
    fn layer(&self) -> [(&'static str, f64, f64); 7] {
        let Self { hidden: d, intermediate: f, attention: a, kv: k, .. } = *self;
        [
            ("q_proj", a, d),
            ("k_proj", k, d),
            ("v_proj", k, d),
            ("o_proj", d, a),
            ("gate_proj", f, d),
            ("up_proj", f, d),
            ("down_proj", d, f),
        ]
    }
    /// Weights of all layers' matrices: `L (2 D (A + K) + 3 D F)`.
    pub fn matrices(&self) -> f64 {
        self.layers * self.layer().iter().map(|(_, rows, columns)| rows * columns).sum::<f64>()
    }
    /// Weights of the output matrix: `V D`.
    pub fn output(&self) -> f64 {
        self.vocabulary * self.hidden
    }
    /// All weights: the layers' matrices, the embedding, the output matrix unless it is tied, and `2 L + 1`
    /// norms.
    pub fn parameters(&self) -> f64 {
        let embeddings = if self.tied { self.output() } else { 2. * self.output() };
        self.matrices() + embeddings + (2. * self.layers + 1.) * self.hidden
    }
    /// Weights of an adapter of this rank on the target matrices.
    pub fn adapter(&self, rank: f64, targets: &[&str]) -> f64 {
        let has = self.layer().into_iter().filter(|(name, ..)| targets.contains(name));
        self.layers * rank * has.map(|(_, rows, columns)| rows + columns).sum::<f64>()
    }
    /// Operations of a forward for one token that attends to `context` others: two for each weight, and `4
    /// L A` for each token attended to (one product with its key and one with its value). `output` adds the
    /// output matrix.
    pub fn forward(&self, context: f64, output: bool) -> f64 {
        let weights = self.matrices() + if output { self.output() } else { 0. };
        2. * weights + 4. * self.layers * self.attention * context
    }
    /// Count of numbers in one token's keys and values: `2 L K`.
    pub fn kv(&self) -> f64 {
        2. * self.layers * self.kv
    }
    /// Count of numbers that a forward stores for each token for the backward. A layer stores its input,
    /// the normed input, queries, keys, values, the attention output, the MLP input, the normed MLP input
    /// and three vectors of the MLP's width. With `recompute` it stores its input alone.
    pub fn activations(&self, recompute: bool) -> f64 {
        let layer = 4. * self.hidden + 2. * self.attention + 2. * self.kv + 3. * self.intermediate;
        self.layers * if recompute { self.hidden } else { layer }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(config: &str) -> (ModelShape, Config) {
        let config: Config = serde_json::from_str(config).unwrap();
        (ModelShape::of(&config).unwrap(), config)
    }
    const SMOLLM2: &str = r#"{ "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": true }"#;
    /// A model whose head width is not the hidden size divided by the number of heads.
    const WIDE: &str = r#"{ "vocab_size": 100, "hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 5 }"#;

    #[test]
    fn parameters_are_those_that_are_published() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/pipelines/shapes/llama2-70b.json");
        let (llama, config) = shape(&std::fs::read_to_string(path).unwrap());
        // By hand: 80 (2 x 8192 (8192 + 1024) + 3 x 8192 x 28672) + 2 x 32000 x 8192 + 161 x 8192. The
        // index of the published weights gives the same: 137,953,296,384 bytes of 16 bits each.
        assert_eq!(llama.parameters(), 137_953_296_384. / 2.);
        assert_eq!(llama.parameters(), 68_976_648_192.);
        let of_weights = |c: &Config| c.weights().iter().map(|(_, s)| s.iter().product::<usize>() as f64).sum::<f64>();
        assert_eq!(llama.parameters(), of_weights(&config));
        let (small, config) = shape(SMOLLM2);
        assert_eq!((small.parameters(), of_weights(&config)), (134_515_008., 134_515_008.));
        let (wide, config) = shape(WIDE);
        assert_eq!(wide.parameters(), of_weights(&config));
        // 2 (A D + 2 K D + D A + 3 F D) + 2 V D + 5 D.
        assert_eq!(wide.parameters(), 2. * (240. + 240. + 240. + 720.) + 2400. + 60.);
    }

    #[test]
    fn a_forward_is_two_operations_a_weight_and_its_attention() {
        let (small, _) = shape(SMOLLM2);
        // The 30 layers' matrices have 106,168,320 weights, the output matrix has 28,311,552; each token
        // attended to costs 4 x 30 x 576.
        assert_eq!(small.matrices(), 106_168_320.);
        assert_eq!(small.forward(0., false), 212_336_640.);
        assert_eq!(small.forward(100., true), 2. * (106_168_320. + 28_311_552.) + 69_120. * 100.);
        assert_eq!(small.kv(), 2. * 30. * 192.);
    }

    #[test]
    fn an_adapter_has_two_thin_matrices_for_each_of_its_targets() {
        let (small, _) = shape(SMOLLM2);
        assert_eq!(small.adapter(16., &["q_proj", "v_proj"]), 30. * 16. * (2. * 576. + 576. + 192.));
        assert_eq!(small.adapter(8., &[]), 0.);
    }

    #[test]
    fn numbers_that_are_no_model_are_refused() {
        for key in ["num_attention_heads", "num_hidden_layers", "hidden_size", "vocab_size"] {
            let mut config: serde_json::Value = serde_json::from_str(SMOLLM2).unwrap();
            config[key] = 0.into();
            assert_eq!(ModelShape::of(&serde_json::from_value(config).unwrap()), None, "{key}");
        }
    }
}
