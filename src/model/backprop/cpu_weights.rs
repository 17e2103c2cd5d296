//! A model's numbers on the CPU: plain f32, or half precision that is widened where it is used.

use candle_core::Tensor;

use crate::model::config::Config;
use crate::model::nn::llama::Llama;
use crate::model::nn::llama::MatrixWeight;
use crate::model::nn::lora::Adapted;
use crate::model::ops::{FloatTensor, RopeTable, composed_only};

/// A model's numbers on the CPU.
pub(super) struct CpuWeights<'a> {
    pub config: &'a Config,
    /// The embedding, `[vocab_size, D]`.
    pub embed: Weight<'a>,
    pub layers: Vec<CpuLayer<'a>>,
    pub norm: Weight<'a>,
    /// The output matrix; `None` if it is the embedding.
    pub head: Option<Weight<'a>>,
    pub rope: &'a RopeTable,
}

/// One weight.
pub(super) struct Weight<'a> {
    /// Name of the weight, and key of its gradient; `None` if it is frozen.
    pub name: Option<String>,
    pub numbers: FloatTensor<'a>,
}

/// The weight of a matrix product, `[out, width]`.
pub(super) struct Linear<'a> {
    pub weight: Weight<'a>,
    pub out: usize,
    pub width: usize,
    pub adapter: Option<Adapter<'a>>,
}

/// The addend of LoRA: `scale B A`.
pub(super) struct Adapter<'a> {
    pub a: Weight<'a>,
    pub b: Weight<'a>,
    pub rank: usize,
    pub scale: f32,
}

pub(super) struct CpuLayer<'a> {
    pub attention_norm: Weight<'a>,
    pub q: Linear<'a>,
    pub k: Linear<'a>,
    pub v: Linear<'a>,
    pub o: Linear<'a>,
    pub mlp_norm: Weight<'a>,
    pub gate: Linear<'a>,
    pub up: Linear<'a>,
    pub down: Linear<'a>,
}

impl<'a> CpuWeights<'a> {
    /// Borrows a model's numbers. Returns `None` if a weight is not on the CPU, has another type, or is not
    /// contiguous.
    pub(super) fn of(llama: &'a Llama) -> Option<Self> {
        if composed_only() {
            return None;
        }
        let layer = |(i, layer): (usize, &'a crate::model::nn::llama::Layer)| {
            let name = |part: &str| format!("model.layers.{i}.{part}");
            Some(CpuLayer {
                attention_norm: Weight::of(llama, name("input_layernorm.weight"), &layer.attention_norm)?,
                q: Linear::of(llama, &name("self_attn.q_proj"), &layer.q)?,
                k: Linear::of(llama, &name("self_attn.k_proj"), &layer.k)?,
                v: Linear::of(llama, &name("self_attn.v_proj"), &layer.v)?,
                o: Linear::of(llama, &name("self_attn.o_proj"), &layer.o)?,
                mlp_norm: Weight::of(llama, name("post_attention_layernorm.weight"), &layer.mlp_norm)?,
                gate: Linear::of(llama, &name("mlp.gate_proj"), &layer.gate)?,
                up: Linear::of(llama, &name("mlp.up_proj"), &layer.up)?,
                down: Linear::of(llama, &name("mlp.down_proj"), &layer.down)?,
            })
        };
        let head = match &llama.head {
            _ if llama.config().tie_word_embeddings => None,
            MatrixWeight::Plain(w) => Some(Weight::of(llama, "lm_head.weight".into(), w)?),
            _ => return None,
        };
        Some(Self {
            config: llama.config(),
            embed: Weight::of(llama, "model.embed_tokens.weight".into(), llama.embed.as_ref()?)?,
            layers: llama.layers.iter().enumerate().map(layer).collect::<Option<_>>()?,
            norm: Weight::of(llama, "model.norm.weight".into(), &llama.norm)?,
            head,
            rope: &llama.rope,
        })
    }
}

impl<'a> Weight<'a> {
    fn of(llama: &Llama, name: String, tensor: &'a Tensor) -> Option<Self> {
        let name = llama.variables().contains_key(&name).then_some(name);
        Some(Self { name, numbers: FloatTensor::of(tensor).ok()? })
    }
}

impl<'a> Linear<'a> {
    fn of(llama: &Llama, name: &str, matrix: &'a MatrixWeight) -> Option<Self> {
        let (tensor, adapter) = match matrix {
            MatrixWeight::Plain(w) => (w, None),
            MatrixWeight::Lora(w) => (&w.weight, Some(Adapter::of(llama, name, w)?)),
            MatrixWeight::PackedWeight(_) => return None,
        };
        let (out, width) = tensor.dims2().ok()?;
        Some(Self { weight: Weight::of(llama, format!("{name}.weight"), tensor)?, out, width, adapter })
    }
}

impl<'a> Adapter<'a> {
    fn of(llama: &Llama, name: &str, adapted: &'a Adapted) -> Option<Self> {
        Some(Self {
            a: Weight::of(llama, format!("{name}.lora_A.weight"), &adapted.a)?,
            b: Weight::of(llama, format!("{name}.lora_B.weight"), &adapted.b)?,
            rank: adapted.a.dim(0).ok()?,
            scale: adapted.scale as f32,
        })
    }
}
