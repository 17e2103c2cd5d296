//! The Llama forward pass over *packed rows*. A row is one token with its position; an [`Attention`]
//! decides which rows see which. Training passes a packed batch without padding. The engine passes a
//! mixture of prefill chunks and single decode steps. Both run this one definition, and every operation in
//! it has a backward pass.
//!
//! It covers Llama 2 (arXiv 2307.09288), Llama 3 (arXiv 2407.21783), SmolLM2, TinyLlama and models of the
//! same shape.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Result, Tensor, Var};

use super::lora::{Adapted, LoraConfig};
use crate::model::config::Config;
use crate::model::ops::{self, Attention};

/// The weight of a matrix product.
pub(crate) enum MatrixWeight {
    /// Stored as in the files, `[out, in]`.
    Plain(Tensor),
    /// Packed for inference on the CPU.
    PackedWeight(ops::PackedWeight),
    /// Frozen, with a trained adapter.
    Lora(Adapted),
}

impl MatrixWeight {
    /// Computes `x W^T`. An adapter with dropout draws by `keys`, one per row, if they are given.
    fn product(&self, x: &Tensor, keys: Option<&[u64]>) -> Result<Tensor> {
        match self {
            MatrixWeight::Plain(w) => ops::linear(x, w),
            MatrixWeight::PackedWeight(w) => w.product(x),
            MatrixWeight::Lora(w) => w.product(x, keys),
        }
    }
    /// Computes `base + x W^T`.
    fn product_onto(&self, base: &Tensor, x: &Tensor) -> Result<Tensor> {
        match self {
            MatrixWeight::PackedWeight(w) => w.product_onto(base, x),
            other => base + other.product(x, None)?,
        }
    }
    /// Packs the matrix for inference. It drops the plain tensor, so only one matrix at a time exists twice
    /// in memory.
    fn into_packed(self) -> Result<Self> {
        match self {
            MatrixWeight::Plain(w) => Ok(MatrixWeight::PackedWeight(ops::PackedWeight::new(&w)?)),
            // In f32, so that narrower types do not round away what the adapter learned.
            MatrixWeight::Lora(w) => Ok(MatrixWeight::PackedWeight(ops::PackedWeight::new(&w.merged()?)?)),
            panels => Ok(panels),
        }
    }
}

/// Dropout of each layer's output in training. Adapters draw by the same keys.
#[derive(Clone, Copy)]
pub(crate) struct Dropped<'a> {
    pub dropout: ops::Dropout,
    /// Key of each row's draws.
    pub keys: &'a [u64],
}

pub(crate) struct Layer {
    pub attention_norm: Tensor,
    pub q: MatrixWeight,
    pub k: MatrixWeight,
    pub v: MatrixWeight,
    pub o: MatrixWeight,
    pub mlp_norm: Tensor,
    pub gate: MatrixWeight,
    pub up: MatrixWeight,
    pub down: MatrixWeight,
}

impl Layer {
    /// The matrices with their names within the layer, in the order of [`super::lora::TARGETS`].
    fn matrices(&self) -> [(&'static str, &MatrixWeight); 7] {
        [
            ("self_attn.q_proj", &self.q),
            ("self_attn.k_proj", &self.k),
            ("self_attn.v_proj", &self.v),
            ("self_attn.o_proj", &self.o),
            ("mlp.gate_proj", &self.gate),
            ("mlp.up_proj", &self.up),
            ("mlp.down_proj", &self.down),
        ]
    }
    fn matrix_mut(&mut self, target: &str) -> Option<&mut MatrixWeight> {
        match target {
            "q_proj" => Some(&mut self.q),
            "k_proj" => Some(&mut self.k),
            "v_proj" => Some(&mut self.v),
            "o_proj" => Some(&mut self.o),
            "gate_proj" => Some(&mut self.gate),
            "up_proj" => Some(&mut self.up),
            "down_proj" => Some(&mut self.down),
            _ => None,
        }
    }
    fn for_inference(self) -> Result<Self> {
        Ok(Self {
            attention_norm: self.attention_norm.to_dtype(DType::F32)?,
            q: self.q.into_packed()?,
            k: self.k.into_packed()?,
            v: self.v.into_packed()?,
            o: self.o.into_packed()?,
            mlp_norm: self.mlp_norm.to_dtype(DType::F32)?,
            gate: self.gate.into_packed()?,
            up: self.up.into_packed()?,
            down: self.down.into_packed()?,
        })
    }
}

/// A Llama model. Its weights are [`Var`]s if [`Llama::trainable`] created it, and plain tensors if
/// [`Llama::frozen`] did. With [`Llama::with_lora`], only the adapter's weights are variables.
pub struct Llama {
    config: Config,
    device: Device,
    dtype: DType,
    weights: BTreeMap<String, Tensor>,
    vars: BTreeMap<String, Var>,
    lora: Option<LoraConfig>,
    /// `None` if the packed output matrix also serves as the embedding.
    pub(crate) embed: Option<Tensor>,
    pub(crate) layers: Vec<Layer>,
    pub(crate) norm: Tensor,
    pub(crate) head: MatrixWeight,
    pub(crate) rope: ops::RopeTable,
}

impl Llama {
    /// Creates a frozen model from weights with the names that [`Config::weights`] lists.
    ///
    /// # Errors
    /// A weight is missing or has the wrong shape.
    pub fn frozen(config: &Config, weights: &BTreeMap<String, Tensor>) -> Result<Self> {
        Self::build(config, weights, BTreeMap::new())
    }

    /// Creates a model whose weights are variables with gradients.
    ///
    /// # Errors
    /// A weight is missing or has the wrong shape.
    pub fn trainable(config: &Config, weights: &BTreeMap<String, Tensor>) -> Result<Self> {
        let vars: BTreeMap<String, Var> =
            weights.iter().map(|(name, w)| Ok((name.clone(), Var::from_tensor(w)?))).collect::<Result<_>>()?;
        let tensors = vars.iter().map(|(name, v)| (name.clone(), v.as_tensor().clone())).collect();
        Self::build(config, &tensors, vars)
    }

    fn build(config: &Config, weights: &BTreeMap<String, Tensor>, vars: BTreeMap<String, Var>) -> Result<Self> {
        let expected: BTreeMap<String, Vec<usize>> = config.weights().into_iter().collect();
        let get = |name: String| -> Result<Tensor> {
            let w = weights.get(&name).ok_or_else(|| candle_core::Error::msg(format!("weight `{name}` is missing")))?;
            if w.dims() != expected[&name] {
                let (got, want) = (w.dims(), &expected[&name]);
                candle_core::bail!("weight `{name}` has shape {got:?}, the config requires {want:?}")
            }
            Ok(w.clone())
        };
        let embed = get("model.embed_tokens.weight".into())?;
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for i in 0..config.num_hidden_layers {
            let get = |name: &str| get(format!("model.layers.{i}.{name}.weight"));
            let matrix = |name: &str| get(name).map(MatrixWeight::Plain);
            layers.push(Layer {
                attention_norm: get("input_layernorm")?,
                q: matrix("self_attn.q_proj")?,
                k: matrix("self_attn.k_proj")?,
                v: matrix("self_attn.v_proj")?,
                o: matrix("self_attn.o_proj")?,
                mlp_norm: get("post_attention_layernorm")?,
                gate: matrix("mlp.gate_proj")?,
                up: matrix("mlp.up_proj")?,
                down: matrix("mlp.down_proj")?,
            });
        }
        let head = if config.tie_word_embeddings { embed.clone() } else { get("lm_head.weight".into())? };
        let (device, dtype) = (embed.device().clone(), ops::computed_in(embed.dtype()));
        let norm = get("model.norm.weight".into())?;
        let rope = ops::RopeTable::new(config)?;
        Ok(Self {
            config: config.clone(),
            device,
            dtype,
            weights: weights.clone(),
            vars,
            lora: None,
            embed: Some(embed),
            layers,
            norm,
            head: MatrixWeight::Plain(head),
            rope,
        })
    }

    /// Adds an adapter (arXiv 2106.09685) whose weights are the only variables. `adapter` has the names and
    /// shapes that [`LoraConfig::weights`] lists; its weights become f32, whatever the model's own type.
    ///
    /// # Errors
    /// A weight is missing or has the wrong shape, or the model is already packed for inference.
    pub fn with_lora(mut self, lora: &LoraConfig, adapter: &BTreeMap<String, Tensor>) -> Result<Self> {
        self.vars = lora.variables(&self.config, adapter, &self.device)?;
        for (i, layer) in self.layers.iter_mut().enumerate() {
            for target in &lora.targets {
                let Some(matrix) = layer.matrix_mut(target) else {
                    candle_core::bail!("there is no matrix `{target}`")
                };
                let MatrixWeight::Plain(weight) = matrix else {
                    candle_core::bail!("only a plain matrix can have an adapter")
                };
                *matrix = MatrixWeight::Lora(Adapted::new(weight.detach(), &self.vars, lora, i, target)?);
            }
        }
        self.weights = self.weights.into_iter().map(|(name, w)| (name, w.detach())).collect();
        self.lora = Some(lora.clone());
        Ok(self)
    }

    /// Returns a model that shares all weights, including an adapter's, but has no gradients. It sees
    /// further training of this model at once.
    ///
    /// # Errors
    /// The model is packed for inference.
    pub fn view(&self) -> Result<Self> {
        let weights = self.weights.iter().map(|(name, w)| (name.clone(), w.detach())).collect();
        let mut view = Self::build(&self.config, &weights, BTreeMap::new())?;
        let Some(lora) = &self.lora else { return Ok(view) };
        for (layer, of) in view.layers.iter_mut().zip(&self.layers) {
            for (name, matrix) in of.matrices() {
                let target = name.rsplit('.').next().and_then(|target| layer.matrix_mut(target));
                if let (MatrixWeight::Lora(w), Some(target)) = (matrix, target) {
                    *target = MatrixWeight::Lora(w.detached());
                }
            }
        }
        view.lora = Some(lora.clone());
        Ok(view)
    }

    /// Packs the model for generating text. On the CPU its matrices become [`ops::PackedWeight`], which
    /// keep the weights' type and compute in f32: bf16 or f16 weights halve the memory, and all arithmetic
    /// stays in f32. On other devices the model does not change. [`Llama::weights`], [`Llama::variables`]
    /// and [`Llama::head`] are not available afterwards.
    ///
    /// # Errors
    /// Returns any error of candle.
    pub fn for_inference(self) -> Result<Self> {
        if !self.device.is_cpu() || ops::composed_only() {
            return Ok(self);
        }
        // The maps hold the matrices too. Dropping them lets each matrix be freed as soon as it is packed.
        let Self { config, device, weights, vars, embed, layers, norm, head, rope, .. } = self;
        drop((weights, vars));
        let embed = embed.filter(|_| !config.tie_word_embeddings);
        let layers = layers.into_iter().map(Layer::for_inference).collect::<Result<_>>()?;
        Ok(Self {
            dtype: DType::F32,
            weights: BTreeMap::new(),
            vars: BTreeMap::new(),
            lora: None,
            embed,
            layers,
            norm: norm.to_dtype(DType::F32)?,
            head: head.into_packed()?,
            config,
            device,
            rope,
        })
    }

    /// The model's configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }
    /// The device that holds the weights.
    pub fn device(&self) -> &Device {
        &self.device
    }
    /// Type of the arithmetic and of cached keys and values: f32, whatever the weights' type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }
    /// All weights by name. For a trainable model these are the variables' tensors, which track gradients.
    pub fn weights(&self) -> &BTreeMap<String, Tensor> {
        &self.weights
    }
    /// The trainable weights by name; empty for a frozen model.
    pub fn variables(&self) -> &BTreeMap<String, Var> {
        &self.vars
    }

    /// The settings of the adapter, if the model has one.
    pub fn lora(&self) -> Option<&LoraConfig> {
        self.lora.as_ref()
    }
    /// Whether the model has an adapter with dropout.
    pub fn drops(&self) -> bool {
        self.lora.as_ref().is_some_and(|l| l.dropout > 0.)
    }
    /// Returns all weights by name, as a model without an adapter has them. With an adapter, a weight with
    /// a target is `W + scale B A`, and all weights are f32, so that narrower types do not round away what
    /// the adapter learned.
    ///
    /// # Errors
    /// Returns any error of candle.
    pub fn merged(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut all = self.weights.clone();
        if self.lora.is_some() {
            all = all.into_iter().map(|(name, w)| Ok((name, w.to_dtype(DType::F32)?))).collect::<Result<_>>()?;
        }
        for (i, layer) in self.layers.iter().enumerate() {
            for (name, matrix) in layer.matrices() {
                if let MatrixWeight::Lora(w) = matrix {
                    all.insert(format!("model.layers.{i}.{name}.weight"), w.merged()?);
                }
            }
        }
        Ok(all)
    }

    /// Runs N packed rows and returns the final normalised states, `[N, hidden_size]`. `positions[i]` is
    /// the position of token `ids[i]` in its own sequence.
    ///
    /// # Errors
    /// An id or position is out of range, or candle fails.
    pub fn forward(&self, ids: &[u32], positions: &[u32], attention: &mut dyn Attention) -> Result<Tensor> {
        self.normed(&self.states(ids, positions, attention, None)?)
    }

    /// Computes the states after the last layer, before the last norm.
    pub(crate) fn states(
        &self,
        ids: &[u32],
        positions: &[u32],
        attention: &mut dyn Attention,
        dropped: Option<Dropped<'_>>,
    ) -> Result<Tensor> {
        let rope = self.angles(positions)?;
        let mut x = self.embedded(ids)?;
        for layer in 0..self.layers.len() {
            x = self.layer(layer, &x, &rope, attention, dropped)?;
        }
        Ok(x)
    }

    /// Computes the rotary angles of the rows.
    pub(crate) fn angles(&self, positions: &[u32]) -> Result<ops::RopeRows> {
        self.rope.rows(positions, &self.device, self.dtype)
    }

    /// Runs one layer.
    pub(crate) fn layer(
        &self,
        index: usize,
        x: &Tensor,
        rope: &ops::RopeRows,
        attention: &mut dyn Attention,
        dropped: Option<Dropped<'_>>,
    ) -> Result<Tensor> {
        let (n, layer) = (x.dim(0)?, &self.layers[index]);
        let (heads, kv, width) = (self.config.num_attention_heads, self.config.kv_heads(), self.config.head_dim());
        let eps = self.config.rms_norm_eps;
        let add = |base: &Tensor, matrix: &MatrixWeight, y: &Tensor, part: usize| match dropped {
            None => matrix.product_onto(base, y),
            Some(d) => {
                let mask = d.dropout.mask(d.keys, (2 * index + part) as u64, self.config.hidden_size, &self.device)?;
                base + (matrix.product(y, Some(d.keys))? * mask.to_dtype(base.dtype())?)?
            }
        };
        let keys = dropped.map(|d| d.keys);
        let y = ops::rms_norm(x, &layer.attention_norm, eps)?;
        let q = ops::rope(&layer.q.product(&y, keys)?.reshape((n, heads, width))?, rope)?;
        let k = ops::rope(&layer.k.product(&y, keys)?.reshape((n, kv, width))?, rope)?;
        let v = layer.v.product(&y, keys)?.reshape((n, kv, width))?;
        let a = attention.attend(index, &q, &k, &v)?.reshape((n, heads * width))?;
        let x = add(x, &layer.o, &a, 0)?;
        let y = ops::rms_norm(&x, &layer.mlp_norm, eps)?;
        let y = ops::swiglu(&layer.gate.product(&y, keys)?, &layer.up.product(&y, keys)?)?;
        add(&x, &layer.down, &y, 1)
    }

    /// Applies the last norm.
    pub(crate) fn normed(&self, x: &Tensor) -> Result<Tensor> {
        ops::rms_norm(x, &self.norm, self.config.rms_norm_eps)
    }

    /// Computes the logits of the given states, `[N, hidden_size]` to `[N, vocab_size]`.
    ///
    /// # Errors
    /// Returns any error of candle.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        self.head.product(hidden, None)
    }
    /// Returns the output matrix, `[vocab_size, hidden_size]`, for losses that never hold all logits at
    /// once.
    ///
    /// # Errors
    /// The model is packed for inference.
    pub fn head(&self) -> Result<&Tensor> {
        match &self.head {
            MatrixWeight::Plain(w) => Ok(w),
            _ => candle_core::bail!("a model packed for inference has no plain output matrix"),
        }
    }

    /// Returns the embeddings of tokens, `[N, hidden_size]`.
    pub(crate) fn embedded(&self, ids: &[u32]) -> Result<Tensor> {
        match (&self.embed, &self.head) {
            (Some(embed), _) => ops::embedding(embed, ids),
            (None, MatrixWeight::PackedWeight(head)) => head.rows(ids),
            (None, _) => candle_core::bail!("the model has no embedding"),
        }
    }
}
