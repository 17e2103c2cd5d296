//! Checks a family's config.json against what candle-transformers computes. Refuses settings that would
//! compute another result than the model's authors intend, or would divide by zero.

use candle_nn::Activation;
use candle_transformers::models::{gemma3, qwen2, qwen3};
use serde_json::{Map, Value as Json};

use crate::error::{Error, Result};
use crate::model::config::Config;
use crate::model::family::Family;
use crate::model::formats::hf;

/// Settings shared by the three families, and those of Gemma 3 alone.
pub(super) struct FamilySettings {
    pub family: Family,
    /// Sizes with Llama's names, which these families share.
    pub sizes: Config,
    /// Whether the attention's matrices have biases. Qwen2's output matrix never has one.
    pub bias: bool,
    pub gemma: Option<Gemma>,
}

/// Gemma 3's own options.
pub(super) struct Gemma {
    /// Positions that a sliding layer sees, including the newest.
    pub window: usize,
    /// One layer out of this many has full attention: the last of each group.
    pub pattern: usize,
    /// Base of the rotary frequencies in sliding layers.
    pub local_theta: f64,
    pub attention_cap: Option<f64>,
    pub logit_cap: Option<f64>,
}

impl FamilySettings {
    /// Parses and checks config.json.
    pub fn parse(family: Family, mut json: Map<String, Json>) -> Result<Self> {
        hf::refuse_quantised(&json)?;
        let local_theta = flatten_rope(family, &mut json)?;
        json.retain(|_, v| !v.is_null());
        let mut needed = vec![
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "max_position_embeddings",
            "rms_norm_eps",
            "rope_theta",
        ];
        if family != Family::Qwen2 {
            needed.push("head_dim");
        }
        if let Some(key) = needed.into_iter().find(|k| !json.contains_key(*k)) {
            return Err(Error::user(format!("{key} is missing")));
        }
        json.entry("tie_word_embeddings").or_insert((family == Family::Gemma3).into());
        let sizes = hf::typed_config(&json)?;
        hf::check_config(&sizes)?;
        let settings = Self {
            family,
            bias: family == Family::Qwen2 || flag(&json, "attention_bias")?,
            gemma: if family == Family::Gemma3 { Some(gemma(&json, &sizes, local_theta)?) } else { None },
            sizes,
        };
        if family != Family::Gemma3 {
            qwen(&json, &settings.sizes)?;
        }
        Ok(settings)
    }

    /// Name and shape of every weight.
    pub fn weights(&self) -> Vec<(String, Vec<usize>)> {
        let c = &self.sizes;
        let (q, kv) = (c.num_attention_heads * c.head_dim(), c.kv_heads() * c.head_dim());
        let mut all = c.weights();
        for i in 0..c.num_hidden_layers {
            let mut layer = |name: &str, width: usize| all.push((format!("model.layers.{i}.{name}"), vec![width]));
            if self.bias {
                layer("self_attn.q_proj.bias", q);
                layer("self_attn.k_proj.bias", kv);
                layer("self_attn.v_proj.bias", kv);
                if self.family != Family::Qwen2 {
                    layer("self_attn.o_proj.bias", c.hidden_size);
                }
            }
            if self.family != Family::Qwen2 {
                layer("self_attn.q_norm.weight", c.head_dim());
                layer("self_attn.k_norm.weight", c.head_dim());
            }
            if self.family == Family::Gemma3 {
                layer("pre_feedforward_layernorm.weight", c.hidden_size);
                layer("post_feedforward_layernorm.weight", c.hidden_size);
            }
        }
        all
    }

    /// Builds candle-transformers' configuration, with tables for `positions` positions.
    pub fn qwen2(&self, positions: usize) -> qwen2::Config {
        let c = &self.sizes;
        qwen2::Config {
            vocab_size: c.vocab_size,
            hidden_size: c.hidden_size,
            intermediate_size: c.intermediate_size,
            num_hidden_layers: c.num_hidden_layers,
            num_attention_heads: c.num_attention_heads,
            num_key_value_heads: c.kv_heads(),
            max_position_embeddings: positions,
            // candle-transformers masks by this value whether or not `use_sliding_window` is set.
            sliding_window: positions,
            max_window_layers: c.num_hidden_layers,
            tie_word_embeddings: c.tie_word_embeddings,
            rope_theta: c.rope_theta,
            rms_norm_eps: c.rms_norm_eps,
            use_sliding_window: false,
            hidden_act: Activation::Silu,
        }
    }

    /// Like [`FamilySettings::qwen2`], for Qwen 3.
    pub fn qwen3(&self, positions: usize) -> qwen3::Config {
        let c = &self.sizes;
        qwen3::Config {
            vocab_size: c.vocab_size,
            hidden_size: c.hidden_size,
            intermediate_size: c.intermediate_size,
            num_hidden_layers: c.num_hidden_layers,
            num_attention_heads: c.num_attention_heads,
            head_dim: c.head_dim(),
            attention_bias: self.bias,
            num_key_value_heads: c.kv_heads(),
            max_position_embeddings: positions,
            sliding_window: None,
            max_window_layers: c.num_hidden_layers,
            tie_word_embeddings: c.tie_word_embeddings,
            rope_theta: c.rope_theta,
            rms_norm_eps: c.rms_norm_eps,
            use_sliding_window: false,
            hidden_act: Activation::Silu,
        }
    }

    /// Like [`FamilySettings::qwen2`], for Gemma 3.
    pub fn gemma3(&self, gemma: &Gemma, positions: usize) -> gemma3::Config {
        let c = &self.sizes;
        gemma3::Config {
            attention_bias: self.bias,
            head_dim: c.head_dim(),
            hidden_activation: Activation::GeluPytorchTanh,
            hidden_size: c.hidden_size,
            intermediate_size: c.intermediate_size,
            num_attention_heads: c.num_attention_heads,
            num_hidden_layers: c.num_hidden_layers,
            num_key_value_heads: c.kv_heads(),
            rms_norm_eps: c.rms_norm_eps,
            rope_theta: c.rope_theta,
            rope_local_base_freq: gemma.local_theta,
            vocab_size: c.vocab_size,
            final_logit_softcapping: gemma.logit_cap,
            attn_logit_softcapping: gemma.attention_cap,
            query_pre_attn_scalar: c.head_dim(),
            // candle-transformers allocates memory for this many positions at once.
            sliding_window: gemma.window.min(positions),
            sliding_window_pattern: gemma.pattern,
            max_position_embeddings: positions,
        }
    }
}

/// Converts transformers 5's `rope_parameters` to the older keys. Returns the base of Gemma's sliding
/// layers. Refuses scaled frequencies, which candle-transformers ignores.
fn flatten_rope(family: Family, json: &mut Map<String, Json>) -> Result<Option<Json>> {
    let mut local = json.remove("rope_local_base_freq");
    let mut scalings: Vec<Json> = json.remove("rope_scaling").into_iter().collect();
    if let Some(Json::Object(mut rope)) = json.remove("rope_parameters") {
        if family == Family::Gemma3 && !rope.contains_key("rope_theta") {
            if let Some(sliding) = rope.remove("sliding_attention") {
                local = sliding.get("rope_theta").cloned();
                scalings.push(sliding);
            }
            rope = match rope.remove("full_attention") {
                Some(Json::Object(full)) => full,
                _ => return Err(Error::user("rope_parameters has no full_attention")),
            };
        }
        if let Some(theta) = rope.remove("rope_theta") {
            json.insert("rope_theta".into(), theta);
        }
        scalings.push(Json::Object(rope));
    }
    for scaling in scalings {
        match scaling.get("rope_type").or(scaling.get("type")) {
            None if scaling.is_null() || scaling.as_object().is_some_and(Map::is_empty) => {}
            Some(Json::String(kind)) if kind == "default" => {}
            kind => {
                let kind = kind.map_or("without a type".into(), ToString::to_string);
                return Err(Error::user(format!("rope scaling {kind} is not supported for {}", family.name()))
                    .help("models of this family work as they were trained, without longer contexts"));
            }
        }
    }
    Ok(local)
}

fn qwen(json: &Map<String, Json>, sizes: &Config) -> Result<()> {
    want_text(json, "hidden_act", "silu")?;
    let layers = layer_types(json)?;
    let sliding = match &layers {
        Some(layers) => layers.contains(&true),
        None => whole(json, "max_window_layers", sizes.num_hidden_layers)? < sizes.num_hidden_layers,
    };
    let window = whole(json, "sliding_window", usize::MAX)?;
    if sliding && flag(json, "use_sliding_window")? && window < sizes.max_position_embeddings {
        return Err(Error::user("use_sliding_window = true is not supported for Qwen")
            .help("lower max_position_embeddings to sliding_window: within the window both are the same"));
    }
    if sizes
        .head_dim
        .is_some_and(|d| json["model_type"] == "qwen2" && d * sizes.num_attention_heads != sizes.hidden_size)
    {
        return Err(Error::user("qwen2 with a head_dim other than hidden_size / num_attention_heads is not supported"));
    }
    Ok(())
}

fn gemma(json: &Map<String, Json>, sizes: &Config, local_theta: Option<Json>) -> Result<Gemma> {
    want_text(json, "hidden_activation", "gelu_pytorch_tanh")?;
    if flag(json, "use_bidirectional_attention")? {
        return Err(Error::user("use_bidirectional_attention = true: it is an encoder and writes no text"));
    }
    if !sizes.tie_word_embeddings {
        return Err(Error::user("tie_word_embeddings = false is not supported for Gemma 3"));
    }
    let scalar = number(json, "query_pre_attn_scalar")?.unwrap_or(256.);
    if scalar != sizes.head_dim() as f64 {
        let d = sizes.head_dim();
        return Err(Error::user(format!("query_pre_attn_scalar {scalar} other than head_dim {d} is not supported")));
    }
    let window = whole(json, "sliding_window", 0)?;
    if window == 0 {
        return Err(Error::user("sliding_window must be 1 or more"));
    }
    let local_theta = local_theta.as_ref().and_then(Json::as_f64).filter(|t| t.is_finite() && *t > 0.);
    let local_theta = local_theta.ok_or_else(|| {
        Error::user(
            "the base of the sliding layers' rotary frequencies (rope_local_base_freq) is not a positive number",
        )
    })?;
    let cap = |key: &str| match number(json, key)? {
        Some(c) if !(c.is_finite() && c > 0.) => Err(Error::user(format!("{key} is {c}, it must be above 0"))),
        cap => Ok(cap),
    };
    Ok(Gemma {
        window,
        pattern: pattern(json, sizes.num_hidden_layers)?,
        local_theta,
        attention_cap: cap("attn_logit_softcapping")?,
        logit_cap: cap("final_logit_softcapping")?,
    })
}

/// Returns the period of layers with full attention, from the list of layer types or from the older keys.
fn pattern(json: &Map<String, Json>, layers: usize) -> Result<usize> {
    let Some(types) = layer_types(json)? else {
        let older = if json.contains_key("sliding_window_pattern") { "" } else { "_" };
        return match whole(json, &format!("{older}sliding_window_pattern"), 6)? {
            0 => Err(Error::user("sliding_window_pattern must be 1 or more")),
            n => Ok(n),
        };
    };
    let every = types.iter().position(|sliding| !sliding).map_or(layers + 1, |at| at + 1);
    let regular = types.iter().enumerate().all(|(i, &sliding)| sliding == ((i + 1) % every > 0));
    if types.len() != layers || !regular {
        return Err(Error::user(format!("layer_types must name {layers} layers, every n-th of them full_attention")));
    }
    Ok(every)
}

/// Returns which layers have a sliding window, if the file lists them.
fn layer_types(json: &Map<String, Json>) -> Result<Option<Vec<bool>>> {
    let Some(list) = json.get("layer_types") else { return Ok(None) };
    let kind = |t: &Json| match t.as_str() {
        Some("sliding_attention") => Some(true),
        Some("full_attention") => Some(false),
        _ => None,
    };
    let all = list.as_array().and_then(|l| l.iter().map(kind).collect());
    all.map(Some).ok_or_else(|| Error::user("layer_types supports only full_attention and sliding_attention"))
}

fn want_text(json: &Map<String, Json>, key: &str, want: &str) -> Result<()> {
    match json.get(key) {
        None => Ok(()),
        Some(Json::String(s)) if s == want => Ok(()),
        Some(other) => Err(Error::user(format!("{key} {other} is not supported; this family has \"{want}\""))),
    }
}

fn flag(json: &Map<String, Json>, key: &str) -> Result<bool> {
    json.get(key).map_or(Some(false), Json::as_bool).ok_or_else(|| Error::user(format!("{key} is not true or false")))
}

fn whole(json: &Map<String, Json>, key: &str, default: usize) -> Result<usize> {
    let Some(value) = json.get(key) else { return Ok(default) };
    let value = value.as_u64().and_then(|n| usize::try_from(n).ok());
    value.ok_or_else(|| Error::user(format!("{key} is not a whole number")))
}

fn number(json: &Map<String, Json>, key: &str) -> Result<Option<f64>> {
    let Some(value) = json.get(key) else { return Ok(None) };
    value.as_f64().map(Some).ok_or_else(|| Error::user(format!("{key} is not a number")))
}
