//! Writes a model as a Hugging Face directory that transformers' AutoModelForCausalLM and AutoTokenizer
//! load.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use candle_core::{DType, Tensor};
use serde_json::{Map, Value as Json, json};

use crate::error::{Error, ErrorContext, Result};
use crate::model::nn::finite;
use crate::model::nn::hash::{bytes, hash};
use crate::model::nn::llama::Llama;
use crate::model::text::tokenizer::Tokenizer;

/// Saves a model. Each file is written under a temporary name and renamed, the weights last: a directory
/// with weights is complete.
pub(crate) fn save(llama: &Llama, tokenizer: &Tokenizer, dir: &Path) -> Result<String> {
    let weights = llama.merged()?;
    finite::check(&weights).map_err(|e| e.doing("the model is not saved"))?;
    fs::create_dir_all(dir).doing(|| dir.display())?;
    let files = tokenizer.files();
    let config = llama.config();
    let mut tokenizer_config = files.config.clone();
    // A class of the model's own would read files (vocab.json, tokenizer.model) that are not here; this
    // class reads tokenizer.json.
    tokenizer_config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
    tokenizer_config.remove("auto_map");
    // transformers would add a beginning-of-text token because of flags that belong to the old class.
    tokenizer_config.remove("add_bos_token");
    tokenizer_config.remove("add_eos_token");

    let mut json = to_object(config)?;
    json.insert("architectures".into(), json!(["LlamaForCausalLM"]));
    json.insert("model_type".into(), "llama".into());
    json.insert("hidden_act".into(), "silu".into());
    json.insert("attention_bias".into(), false.into());
    json.insert("mlp_bias".into(), false.into());
    json.insert("num_key_value_heads".into(), config.kv_heads().into());
    json.insert("head_dim".into(), config.head_dim().into());
    json.insert("use_cache".into(), true.into());
    json.insert("torch_dtype".into(), torch_dtype(weights.values().next().map_or(DType::F32, Tensor::dtype))?.into());

    let mut generation = Map::new();
    generation.insert("_from_model_config".into(), true.into());
    if let Some(bos) = config.bos_token_id {
        generation.insert("bos_token_id".into(), bos.into());
    }
    match tokenizer.eos_ids() {
        [] => {}
        [one] => drop(generation.insert("eos_token_id".into(), (*one).into())),
        many => drop(generation.insert("eos_token_id".into(), many.into())),
    }

    write(dir, "config.json", &pretty(json))?;
    write(dir, "generation_config.json", &pretty(generation))?;
    write(dir, "tokenizer.json", files.tokenizer.as_bytes())?;
    write(dir, "tokenizer_config.json", &pretty(tokenizer_config))?;
    // The template is in tokenizer_config.json; a file left by an earlier model would take precedence.
    let stale = dir.join("chat_template.jinja");
    if stale.exists() {
        fs::remove_file(&stale).doing(|| stale.display())?;
    }
    write_with(dir, "model.safetensors", |to| safetensors(&weights, to))?;
    hash(&weights)
}

fn to_object(value: &impl serde::Serialize) -> Result<Map<String, Json>> {
    match serde_json::to_value(value) {
        Ok(Json::Object(map)) => Ok(map),
        other => Err(Error::bug(format!("the configuration is not an object: {other:?}"))),
    }
}

fn pretty(map: Map<String, Json>) -> Vec<u8> {
    format!("{:#}\n", Json::Object(map)).into_bytes()
}

fn write(dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    write_with(dir, name, |to| Ok(to.write_all(bytes)?))
}

fn write_with(dir: &Path, name: &str, fill: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> Result<()> {
    write_file(&dir.join(name), fill)
}

/// Writes a file of a model's directory under a temporary name next to it and renames it, so that the file
/// is complete or absent. If the process dies, the owner of the directory removes the temporary file with
/// the directory.
pub(crate) fn write_file<T>(path: &Path, fill: impl FnOnce(&mut BufWriter<File>) -> Result<T>) -> Result<T> {
    let Some(name) = path.file_name() else {
        return Err(Error::user(format!("{} is not the name of a file", path.display())));
    };
    let temporary = path.with_file_name(format!(".{}.writing", name.to_string_lossy()));
    let write = || -> Result<T> {
        let mut to = BufWriter::new(File::create(&temporary)?);
        let filled = fill(&mut to)?;
        to.into_inner().map_err(|e| e.into_error())?.sync_all()?;
        fs::rename(&temporary, path)?;
        Ok(filled)
    };
    write().map_err(|e| {
        // Report the error that stopped the write, even if the temporary file cannot be removed.
        let _ = fs::remove_file(&temporary);
        e.doing(path.display())
    })
}

/// Writes tensors in the safetensors format, in order of name: the header, then each tensor's bytes.
///
/// # Errors
/// `to` fails, or a tensor has a type that models cannot have.
pub fn safetensors(weights: &BTreeMap<String, Tensor>, to: &mut dyn Write) -> Result<()> {
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut end = 0;
    for (name, w) in weights {
        let begin = end;
        end += w.elem_count() * w.dtype().size_in_bytes();
        let dtype = w.dtype().as_str().to_uppercase();
        header.insert(name.clone(), json!({"dtype": dtype, "shape": w.dims(), "data_offsets": [begin, end]}));
    }
    let mut header = Json::Object(header).to_string();
    // Tensors start at a multiple of eight bytes.
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    to.write_all(&(header.len() as u64).to_le_bytes())?;
    to.write_all(header.as_bytes())?;
    for w in weights.values() {
        bytes(w, |part| Ok(to.write_all(part)?))?;
    }
    Ok(())
}

/// Returns the type of the weights of a model that [`Model::save`](crate::model::Model::save) wrote.
///
/// # Errors
/// Its config.json cannot be read, or names a type that models cannot have.
pub fn saved_dtype(dir: &Path) -> Result<DType> {
    let (path, json) = super::hf::config_object(dir)?;
    let name = json.get("torch_dtype").and_then(Json::as_str).unwrap_or("float32");
    let all = [DType::F32, DType::BF16, DType::F16];
    all.into_iter().find(|d| torch_dtype(*d).is_ok_and(|n| n == name)).ok_or_else(|| {
        Error::user(format!("{}: torch_dtype is {name}", path.display()))
            .help("known types are float32, bfloat16 and float16")
    })
}

fn torch_dtype(dtype: DType) -> Result<&'static str> {
    match dtype {
        DType::F32 => Ok("float32"),
        DType::F16 => Ok("float16"),
        DType::BF16 => Ok("bfloat16"),
        other => Err(Error::bug(format!("weights of type {other:?}"))),
    }
}
