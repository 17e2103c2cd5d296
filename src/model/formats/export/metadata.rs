//! Writes the configuration as metadata.

use super::gguf::{MetadataTable, WrittenValue};
use super::gguf_type::GgufType;
use crate::error::{Error, Result};
use crate::model::config::Config;

/// Builds `general.*` and `llama.*`, in the order of llama.cpp's converter.
pub(super) fn of(config: &Config, name: &str, kind: GgufType) -> Result<MetadataTable> {
    let c = config;
    let mut all = MetadataTable::new();
    let mut put = |key: &str, value: WrittenValue| all.push((key.to_owned(), value));
    let size = |key: &str, n: usize| -> Result<WrittenValue> {
        let n = u32::try_from(n).map_err(|_| Error::user(format!("{key} is {n}, GGUF holds at most {}", u32::MAX)))?;
        Ok(WrittenValue::U32(n))
    };
    put("general.architecture", WrittenValue::Text("llama".into()));
    put("general.type", WrittenValue::Text("model".into()));
    put("general.name", WrittenValue::Text(name.into()));
    let mut sizes = |key: &str, n: usize| -> Result<()> {
        put(key, size(key, n)?);
        Ok(())
    };
    sizes("llama.block_count", c.num_hidden_layers)?;
    sizes("llama.context_length", c.max_position_embeddings)?;
    sizes("llama.embedding_length", c.hidden_size)?;
    sizes("llama.feed_forward_length", c.intermediate_size)?;
    sizes("llama.attention.head_count", c.num_attention_heads)?;
    sizes("llama.attention.head_count_kv", c.kv_heads())?;
    if c.head_dim.is_some_and(|d| d * c.num_attention_heads != c.hidden_size) {
        sizes("llama.attention.key_length", c.head_dim())?;
        sizes("llama.attention.value_length", c.head_dim())?;
    }
    sizes("llama.rope.dimension_count", c.head_dim())?;
    sizes("llama.vocab_size", c.vocab_size)?;
    put("llama.rope.freq_base", WrittenValue::F32(c.rope_theta as f32));
    put("llama.attention.layer_norm_rms_epsilon", WrittenValue::F32(c.rms_norm_eps as f32));
    match &c.rope_scaling {
        Some(s) if s.rope_type == "linear" => {
            put("llama.rope.scaling.type", WrittenValue::Text("linear".into()));
            put("llama.rope.scaling.factor", WrittenValue::F32(s.factor as f32));
        }
        // llama3's scaling is stored in a tensor.
        Some(s) if !matches!(s.rope_type.as_str(), "llama3" | "default") => {
            return Err(Error::user(format!(
                "its rope_scaling is of type `{}`, which cannot be exported",
                s.rope_type
            )));
        }
        _ => {}
    }
    let file_type = match kind {
        GgufType::F32 => 0,
        GgufType::F16 => 1,
        GgufType::Q8_0 => 7,
    };
    put("general.file_type", WrittenValue::U32(file_type));
    put("general.quantization_version", WrittenValue::U32(2));
    Ok(all)
}
