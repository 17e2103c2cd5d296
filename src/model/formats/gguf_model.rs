//! Reads a GGUF file as a Llama: converts metadata to configuration, and tensors to Hugging Face's names
//! and layout.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;

use candle_core::Tensor;

use super::gguf::{Gguf, Metadata};
use super::gguf_tokenizer;
use super::hf::check_config;
use crate::data::open_regular;
use crate::error::{Error, ErrorContext, Result};
use crate::model::config::Config;
use crate::model::config::{OneOrMany, RopeScaling};
use crate::model::ops::frequencies;
use crate::model::text::tokenizer::Tokenizer;

/// Maximum number of files per model. The largest released models have about 50.
const MAX_PARTS: usize = 1000;

/// An open file that has the tensors of a Llama.
pub(crate) struct GgufModel(Gguf<File>);

impl GgufModel {
    pub(crate) fn open(path: &Path) -> Result<(Self, Config, Tokenizer)> {
        let mut gguf = open_parts(path)?;
        let config = config(&mut gguf)?;
        gguf.check_places()?;
        let tokenizer = Tokenizer::new(gguf_tokenizer::files(&gguf.metadata)?)?;
        check_tensors(&gguf, &config)?;
        Ok((Self(gguf), config, tokenizer))
    }

    /// Reads the weight with the given Hugging Face name, in f32 and in Hugging Face's layout.
    pub(crate) fn tensor(&mut self, name: &str, config: &Config) -> Result<Tensor> {
        let w = self.0.tensor(&stored_name(name))?;
        Ok(match rotated_heads(name, config) {
            Some(heads) => half_split(&w, heads)?,
            None => w,
        })
    }
}

/// Reads the model's configuration from a GGUF file, and nothing else.
///
/// # Errors
/// The file is not a GGUF file of a Llama.
pub fn gguf_config(path: &Path) -> Result<Config> {
    open_parts(path).and_then(|mut gguf| config(&mut gguf)).map_err(|e| e.doing(path.display()))
}

fn open_file(path: &Path) -> Result<Gguf<File>> {
    Gguf::read(open_regular(path).user(|| "it cannot be opened")?)
}

/// Opens a file and, if llama.cpp has split the model, its other files: NAME-00001-of-00003.gguf and so on.
/// The first file has the metadata.
fn open_parts(path: &Path) -> Result<Gguf<File>> {
    let given = open_file(path)?;
    let count = Metadata(&given.metadata).size("split.count")?.unwrap_or(1);
    if count <= 1 {
        return Ok(given);
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let end = name.len().saturating_sub("-00001-of-00003.gguf".len());
    let suffix_of = |number: usize| format!("-{number:05}-of-{count:05}.gguf");
    let fits = name.is_char_boundary(end) && (1..=count).any(|number| name[end..] == suffix_of(number));
    if !fits || count > MAX_PARTS {
        return Err(Error::user(format!("it is one of {count} files of a model, and its name does not say which"))
            .help(format!("the files of a split model are named NAME{} and so on", suffix_of(1))));
    }
    let part = |number: usize| {
        let path = path.with_file_name(format!("{}{}", &name[..end], suffix_of(number)));
        open_file(&path).map_err(|e| e.doing(format!("part {number} of {count}, {}", path.display())))
    };
    let mut first = part(1)?;
    for number in 2..=count {
        first.add_part(part(number)?).map_err(|e| e.doing(format!("part {number} of {count}")))?;
    }
    let stated = Metadata(&first.metadata).size("split.tensors.count")?;
    let found = first.names().count();
    if stated.is_some_and(|stated| stated != found) {
        let stated = stated.unwrap_or_default();
        return Err(Error::user(format!("its {count} files have {found} tensors together, and should have {stated}")));
    }
    Ok(first)
}

fn config<R: Read + Seek>(gguf: &mut Gguf<R>) -> Result<Config> {
    let metadata = gguf.metadata.clone();
    let m = Metadata(&metadata);
    match m.text("general.architecture")? {
        Some("llama") => {}
        other => {
            let other = other.unwrap_or("none");
            return Err(Error::user(format!("its architecture is `{other}`; reflux trains `llama`"))
                .help("Llama 2 and 3, SmolLM2, TinyLlama and others of their shape work"));
        }
    }
    if m.size("llama.expert_count")?.is_some_and(|n| n > 0) {
        return Err(Error::user("it is a mixture of experts, which is not supported"));
    }
    let embedding = gguf.shape("token_embd.weight").map(<[usize]>::to_vec);
    let Some([vocab_size, _]) = embedding.as_deref() else {
        return Err(Error::user("tensor `token_embd.weight` is missing or not a matrix"));
    };
    let heads = m.needed("llama.attention.head_count")?;
    let hidden_size = m.needed("llama.embedding_length")?;
    let head_dim = m.size("llama.attention.key_length")?;
    let id = |key: &str| -> Result<Option<u32>> { Ok(m.size(key)?.and_then(|n| u32::try_from(n).ok())) };
    let mut config = Config {
        vocab_size: *vocab_size,
        hidden_size,
        intermediate_size: m.needed("llama.feed_forward_length")?,
        num_hidden_layers: m.needed("llama.block_count")?,
        num_attention_heads: heads,
        num_key_value_heads: m.size("llama.attention.head_count_kv")?,
        head_dim: head_dim.filter(|w| w.checked_mul(heads) != Some(hidden_size)),
        // Stored as f32: 1e-5 is read as 9.999999747378752e-6. The shortest decimal restores 1e-5.
        rms_norm_eps: shortest(m.float("llama.attention.layer_norm_rms_epsilon")?.unwrap_or(1e-5)),
        rope_theta: shortest(m.float("llama.rope.freq_base")?.unwrap_or(10_000.)),
        rope_scaling: None,
        max_position_embeddings: m.needed("llama.context_length")?,
        tie_word_embeddings: gguf.shape("output.weight").is_none(),
        bos_token_id: id("tokenizer.ggml.bos_token_id")?,
        eos_token_id: id("tokenizer.ggml.eos_token_id")?.map(OneOrMany::One),
    };
    check_config(&config)?;
    if m.size("llama.rope.dimension_count")?.is_some_and(|n| n != config.head_dim()) {
        return Err(Error::user("rotary positions on only a part of a head are not supported"));
    }
    config.rope_scaling = rope_scaling(gguf, &m, &config)?;
    Ok(config)
}

fn shortest(x: f64) -> f64 {
    (x as f32).to_string().parse().unwrap_or(x)
}

fn rope_scaling<R: Read + Seek>(gguf: &mut Gguf<R>, m: &Metadata, config: &Config) -> Result<Option<RopeScaling>> {
    if gguf.shape("rope_freqs.weight").is_some() {
        let factors: Vec<f32> = gguf.tensor("rope_freqs.weight")?.flatten_all()?.to_vec1()?;
        return llama3(&factors, config).map(Some);
    }
    let factor = m.float("llama.rope.scaling.factor")?;
    let linear = |factor: f64| RopeScaling {
        rope_type: "linear".into(),
        factor,
        low_freq_factor: 1.,
        high_freq_factor: 4.,
        original_max_position_embeddings: 0,
    };
    match (m.text("llama.rope.scaling.type")?, m.float("llama.rope.scale_linear")?) {
        // llama.cpp reads a factor without a type as a linear one.
        (Some("linear"), older) | (None, older) => Ok(factor.or(older).filter(|f| *f != 0. && *f != 1.).map(linear)),
        (Some("none"), _) => Ok(None),
        (Some(other), _) => Err(Error::user(format!("rope scaling `{other}` is not supported"))),
    }
}

/// Reconstructs Llama 3's scaling. llama.cpp stores it as the divisor of each frequency. The greatest
/// divisor is the factor. One divisor in the transition gives the original length by solving the formula
/// for it. The result must then reproduce all divisors. Released models have low and high frequency factors
/// of 1 and 4.
fn llama3(factors: &[f32], config: &Config) -> Result<RopeScaling> {
    let (low, high) = (1., 4.);
    let plain = frequencies(&Config { rope_scaling: None, ..config.clone() })?;
    // The factor was computed in f32: 8.000001 means 8.
    let factor = (factors.iter().copied().fold(1f32, f32::max) * 1e4).round() / 1e4;
    let solve = |(f, r): (&f32, &f32)| {
        let wavelength = 2. * std::f64::consts::PI / f64::from(*f);
        let smooth = (1. / f64::from(*r) - 1. / f64::from(factor)) / (1. - 1. / f64::from(factor));
        (*r > 1.001 && *r < 0.999 * factor).then_some(wavelength * (smooth * (high - low) + low))
    };
    let original = plain.iter().zip(factors).find_map(solve).unwrap_or(8192.).round();
    let scaling = RopeScaling {
        rope_type: "llama3".into(),
        factor: shortest(factor.into()),
        low_freq_factor: low,
        high_freq_factor: high,
        original_max_position_embeddings: original as usize,
    };
    let scaled = frequencies(&Config { rope_scaling: Some(scaling.clone()), ..config.clone() });
    let near = |((p, s), f): ((&f32, &f32), &f32)| (p / s - f).abs() <= 1e-4 * f;
    match scaled {
        Ok(scaled) if factors.len() == plain.len() && plain.iter().zip(&scaled).zip(factors).all(near) => Ok(scaling),
        _ => Err(Error::user("`rope_freqs.weight` holds another scaling than Llama 3's")
            .help("use the model's Hugging Face directory")),
    }
}

fn check_tensors<R: Read + Seek>(gguf: &Gguf<R>, config: &Config) -> Result<()> {
    let mut used = BTreeSet::from(["rope_freqs.weight".to_string()]);
    for (name, shape) in config.weights() {
        let stored = stored_name(&name);
        match gguf.shape(&stored) {
            Some(s) if s == shape => {}
            Some(s) => {
                return Err(Error::user(format!("tensor `{stored}` has shape {s:?}, the metadata require {shape:?}")));
            }
            None => return Err(Error::user(format!("tensor `{stored}` is missing"))),
        }
        used.insert(stored);
    }
    // An unknown tensor, such as a bias, would silently change the result.
    if let Some(name) = gguf.names().find(|n| !used.contains(*n)) {
        return Err(Error::user(format!("tensor `{name}` is not part of a Llama model that reflux knows")));
    }
    Ok(())
}

/// Returns the number of heads in a matrix whose rows llama.cpp permutes; `None` for other weights.
pub(in crate::model) fn rotated_heads(name: &str, config: &Config) -> Option<usize> {
    match name.rsplit('.').nth(1) {
        Some("q_proj") => Some(config.num_attention_heads),
        Some("k_proj") => Some(config.kv_heads()),
        _ => None,
    }
}

/// Returns llama.cpp's name of a weight of [`Config::weights`].
pub(in crate::model) fn stored_name(name: &str) -> String {
    let Some((layer, part)) = name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.')) else {
        return match name {
            "model.embed_tokens.weight" => "token_embd.weight",
            "model.norm.weight" => "output_norm.weight",
            _ => "output.weight",
        }
        .into();
    };
    let part = match part.trim_end_matches(".weight") {
        "input_layernorm" => "attn_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "post_attention_layernorm" => "ffn_norm",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        _ => "ffn_down",
    };
    format!("blk.{layer}.{part}.weight")
}

/// Reverses llama.cpp's permutation of the rows of the query and key matrices: row (head, j, side) moves to
/// (head, side, j). llama.cpp rotates neighbouring pairs, Hugging Face the two halves of a head.
fn half_split(w: &Tensor, heads: usize) -> candle_core::Result<Tensor> {
    let (rows, columns) = w.dims2()?;
    w.reshape((heads, rows / heads / 2, 2, columns))?.transpose(1, 2)?.contiguous()?.reshape((rows, columns))
}
