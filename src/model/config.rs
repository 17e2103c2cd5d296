//! Configuration of a Llama-family model, as stored in `config.json`.

use serde::{Deserialize, Serialize};

/// Contents of a Llama-family model's `config.json`. Field names are those of Hugging Face.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Number of token ids, V.
    pub vocab_size: usize,
    /// Width of the residual stream, D.
    pub hidden_size: usize,
    /// Width inside the MLP, F.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Query heads, H.
    pub num_attention_heads: usize,
    /// Key and value heads; H if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_key_value_heads: Option<usize>,
    /// Width of a head; D / H if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<usize>,
    /// Added to the mean square under the root of RMSNorm.
    #[serde(default = "default_eps")]
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    #[serde(default = "default_theta")]
    pub rope_theta: f64,
    /// Scaling of the rotary frequencies: Llama 3's or linear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_scaling: Option<RopeScaling>,
    /// Longest sequence, in tokens.
    #[serde(default = "default_positions")]
    pub max_position_embeddings: usize,
    /// Whether the output matrix is the embedding matrix.
    #[serde(default)]
    pub tie_word_embeddings: bool,
    /// Token that starts a text, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eos_token_id: Option<OneOrMany>,
}

/// Scaling of the rotary frequencies for contexts beyond the trained length.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RopeScaling {
    /// `llama3`, `linear` or `default`; older files call the key `type`.
    #[serde(alias = "type")]
    pub rope_type: String,
    /// Scaling factor.
    #[serde(default = "one")]
    pub factor: f64,
    /// llama3: wavelengths above `original / low_freq_factor` are scaled by the whole factor.
    #[serde(default = "one")]
    pub low_freq_factor: f64,
    /// llama3: wavelengths below `original / high_freq_factor` are not scaled.
    #[serde(default = "four")]
    pub high_freq_factor: f64,
    /// Length the model was first trained at, in tokens.
    #[serde(default)]
    pub original_max_position_embeddings: usize,
}

/// One token id or several. Some files write a negative id for an absent token; these are dropped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, try_from = "serde_json::Value")]
pub enum OneOrMany {
    /// One id.
    One(u32),
    /// Several ids.
    Many(Vec<u32>),
}
impl TryFrom<serde_json::Value> for OneOrMany {
    type Error = String;

    fn try_from(json: serde_json::Value) -> Result<Self, String> {
        let wrong = |value: &serde_json::Value| {
            format!("it is {value}; it must be a whole number (without quotes) or a list of them")
        };
        let id = |value: &serde_json::Value| -> Result<Option<u32>, String> {
            match value.as_i64() {
                Some(id) if id < 0 => Ok(None),
                Some(id) => u32::try_from(id).map(Some).map_err(|_| wrong(value)),
                None => Err(wrong(value)),
            }
        };
        match &json {
            serde_json::Value::Array(all) => {
                let ids: Vec<Option<u32>> = all.iter().map(id).collect::<Result<_, _>>()?;
                Ok(Self::Many(ids.into_iter().flatten().collect()))
            }
            one => Ok(id(one)?.map_or(Self::Many(Vec::new()), Self::One)),
        }
    }
}

impl OneOrMany {
    /// Returns the ids as a slice.
    pub fn ids(&self) -> &[u32] {
        match self {
            OneOrMany::One(id) => std::slice::from_ref(id),
            OneOrMany::Many(ids) => ids,
        }
    }
}

fn default_eps() -> f64 {
    1e-6
}
fn default_theta() -> f64 {
    10_000.
}
fn default_positions() -> usize {
    2048
}
fn one() -> f64 {
    1.
}
fn four() -> f64 {
    4.
}

impl Config {
    /// Width of one head.
    pub fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads)
    }
    /// Key and value heads.
    pub fn kv_heads(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }
    /// Name and shape of every weight, in Hugging Face's naming.
    pub fn weights(&self) -> Vec<(String, Vec<usize>)> {
        let (d, f) = (self.hidden_size, self.intermediate_size);
        let (q, kv) = (self.num_attention_heads * self.head_dim(), self.kv_heads() * self.head_dim());
        let mut all = vec![("model.embed_tokens.weight".into(), vec![self.vocab_size, d])];
        for i in 0..self.num_hidden_layers {
            let mut layer =
                |name: &str, shape: Vec<usize>| all.push((format!("model.layers.{i}.{name}.weight"), shape));
            layer("input_layernorm", vec![d]);
            layer("self_attn.q_proj", vec![q, d]);
            layer("self_attn.k_proj", vec![kv, d]);
            layer("self_attn.v_proj", vec![kv, d]);
            layer("self_attn.o_proj", vec![d, q]);
            layer("post_attention_layernorm", vec![d]);
            layer("mlp.gate_proj", vec![f, d]);
            layer("mlp.up_proj", vec![f, d]);
            layer("mlp.down_proj", vec![d, f]);
        }
        all.push(("model.norm.weight".into(), vec![d]));
        if !self.tie_word_embeddings {
            all.push(("lm_head.weight".into(), vec![self.vocab_size, d]));
        }
        all
    }
}
