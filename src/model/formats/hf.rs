//! The small files of a Hugging Face directory: configuration, tokenizer and chat template.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json, json};

use crate::data::{JsonFault, open_regular, parse_json_up_to};
use crate::error::{Error, ErrorContext, Result};
use crate::model::config::Config;
use crate::model::config::OneOrMany;
use crate::model::family::Family;
use crate::model::ops::frequencies;
use crate::model::text::tokenizer::Tokenizer;
use crate::model::text::tokenizer::TokenizerFiles;
use crate::model::text::tokenizer_json::MAX_VALUES;

/// Maximum length of a JSON file. The largest tokenizer.json in use has about 35 MB.
const MAX_LENGTH: u64 = 256 << 20;

/// Reads a whole text file of at most [`MAX_LENGTH`] bytes.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    let name = || path.display().to_string();
    let file = open_regular(path).user(name)?;
    let mut text = String::new();
    let n = file.take(MAX_LENGTH + 1).read_to_string(&mut text).user(name)?;
    if n as u64 > MAX_LENGTH {
        return Err(Error::user(format!("{}: the file is longer than {} MiB", name(), MAX_LENGTH >> 20)));
    }
    Ok(text)
}

/// Reads a JSON object. A key that comes twice is refused: readers of such a file may take another value each.
pub(crate) fn read_object(path: &Path) -> Result<Map<String, Json>> {
    let text = read_text(path)?;
    object(text.as_bytes()).map_err(|e| e.doing(path.display()))
}

/// Parses a JSON object as [`read_object`] does.
pub(crate) fn object(text: &[u8]) -> Result<Map<String, Json>> {
    match parse_json_up_to(MAX_VALUES, text) {
        Ok(Json::Object(object)) => Ok(object),
        Ok(_) => Err(Error::user("it is not a JSON object")),
        Err(fault @ JsonFault::DuplicateKey(_)) => Err(Error::user(fault.to_string()).help("keep one of the two")),
        Err(fault) => Err(Error::user(fault.to_string())),
    }
}

fn read_object_if_there(path: &Path) -> Result<Map<String, Json>> {
    if path.exists() { read_object(path) } else { Ok(Map::new()) }
}

/// Reads config.json and the tokenizer's files.
pub(crate) fn config_and_tokenizer(dir: &Path) -> Result<(Config, Tokenizer)> {
    let (path, json) = config_object(dir)?;
    let config = parse_config(json).map_err(|e| e.doing(path.display()))?;
    let tokenizer = tokenizer(dir, config.eos_token_id.as_ref())?;
    Ok((config, tokenizer))
}

/// Reads the tokenizer's files, and the model's context if there is a config.json. Its other keys are not checked: the
/// model may be of any family.
pub(crate) fn tokenizer_alone(dir: &Path) -> Result<(Tokenizer, Option<usize>)> {
    let path = dir.join("config.json");
    let config = read_object_if_there(&path)?;
    let eos = config.get("eos_token_id").cloned().map(serde_json::from_value::<Option<OneOrMany>>).transpose();
    let eos = eos.map_err(|e| Error::user(format!("{}: eos_token_id: {e}", path.display())))?.flatten();
    let positions = config.get("max_position_embeddings").and_then(Json::as_u64);
    Ok((tokenizer(dir, eos.as_ref())?, positions.and_then(|n| usize::try_from(n).ok())))
}

/// Reads config.json. Returns its path and its contents.
pub(crate) fn config_object(dir: &Path) -> Result<(PathBuf, Map<String, Json>)> {
    let path = dir.join("config.json");
    if !path.exists() {
        return Err(Error::user(format!("{}: config.json not found", dir.display()))
            .help("a model is a .gguf file, or a directory with config.json, model.safetensors and tokenizer.json"));
    }
    let json = read_object(&path)?;
    Ok((path, json))
}

/// Reads the tokenizer's files. `eos` holds the end-of-text ids of config.json.
pub(crate) fn tokenizer(dir: &Path, eos: Option<&OneOrMany>) -> Result<Tokenizer> {
    let path = dir.join("tokenizer.json");
    if !path.exists() {
        return Err(Error::user(format!("{}: tokenizer.json not found", dir.display())).help(
            "older models have tokenizer.model only; save the tokenizer once with transformers (AutoTokenizer, use_fast=True)",
        ));
    }
    let mut files = TokenizerFiles { tokenizer: read_text(&path)?, ..Default::default() };
    files.config = read_object_if_there(&dir.join("tokenizer_config.json"))?;
    add_special_tokens_map(&mut files.config, &dir.join("special_tokens_map.json"))?;
    add_added_tokens(&mut files.config, &dir.join("added_tokens.json"))?;
    choose_template(&mut files.config, dir)?;
    let generation = read_object_if_there(&dir.join("generation_config.json"))?;
    let more = generation.get("eos_token_id").cloned().map(serde_json::from_value::<Option<OneOrMany>>);
    let more =
        more.transpose().map_err(|e| Error::user(format!("generation_config.json: eos_token_id: {e}")))?.flatten();
    for ids in eos.into_iter().chain(&more) {
        files.eos.extend(ids.ids());
    }
    Tokenizer::new(files).map_err(|e| e.doing(dir.display()))
}

/// Adds the special tokens that older directories name in a separate file.
fn add_special_tokens_map(config: &mut Map<String, Json>, path: &Path) -> Result<()> {
    for (key, value) in read_object_if_there(path)? {
        if config.get(&key).is_none_or(Json::is_null) {
            config.insert(key, value);
        }
    }
    Ok(())
}

/// Adds the added tokens that older directories list in a separate file, by spelling.
fn add_added_tokens(config: &mut Map<String, Json>, path: &Path) -> Result<()> {
    let added = read_object_if_there(path)?;
    if added.is_empty() || config.get("added_tokens_decoder").is_some_and(|d| !d.is_null()) {
        return Ok(());
    }
    let by_id = added.into_iter().map(|(content, id)| (id.to_string(), json!({ "content": content })));
    config.insert("added_tokens_decoder".into(), Json::Object(by_id.collect()));
    Ok(())
}

/// Returns the chat template of a directory that need not have a tokenizer.
pub(crate) fn own_template(dir: &Path) -> Result<Option<Json>> {
    let mut config = read_object_if_there(&dir.join("tokenizer_config.json"))?;
    choose_template(&mut config, dir)?;
    Ok(config.remove("chat_template").filter(|template| !template.is_null()))
}

/// Selects one template for `chat_template`: chat_template.jinja if it exists, else the one named `default`
/// of a list.
fn choose_template(config: &mut Map<String, Json>, dir: &Path) -> Result<()> {
    let path = dir.join("chat_template.jinja");
    if path.exists() {
        config.insert("chat_template".into(), read_text(&path)?.into());
    } else if let Some(Json::Array(all)) = config.get("chat_template") {
        let named = |t: &&Json| t.get("name").and_then(Json::as_str) == Some("default");
        let template = all.iter().find(named).and_then(|t| t.get("template")).cloned();
        config.remove("chat_template");
        config.extend(template.map(|t| ("chat_template".to_string(), t)));
    }
    Ok(())
}

/// Checks that config.json describes a model that [`crate::model::nn::llama::Llama`] can compute, and
/// converts newer spellings to older ones.
pub(crate) fn parse_config(mut json: Map<String, Json>) -> Result<Config> {
    let text = |json: &Map<String, Json>, key: &str| json.get(key).and_then(Json::as_str).map(str::to_string);
    match text(&json, "model_type") {
        Some(kind) if kind == "llama" => {}
        Some(kind) if Family::named(&kind).is_some() => {
            return Err(Error::user(format!("it belongs to the family {kind}, which reflux runs but does not train"))
                .help("Llama 2 and 3, SmolLM2, TinyLlama and others of their shape can be trained"));
        }
        kind => {
            let kind = kind.map_or("no model_type".to_string(), |k| format!("model_type `{k}`"));
            return Err(Error::user(format!("it has {kind}; reflux trains models of type `llama`")).help(
                "Llama 2 and 3, SmolLM2, TinyLlama and others of their shape work; qwen2, qwen3 and gemma3_text \
                     can write prompts and judge",
            ));
        }
    }
    refuse_quantised(&json)?;
    if let Some(act) = json.get("hidden_act").filter(|a| !a.is_null() && **a != "silu") {
        return Err(Error::user(format!("hidden_act {act} is not supported; Llama has \"silu\"")));
    }
    for key in ["attention_bias", "mlp_bias"] {
        if let Some(value) = json.get(key).filter(|v| !v.is_null() && **v != false) {
            return Err(Error::user(format!("{key} = {value} is not supported")));
        }
    }
    one_rope(&mut json)?;
    json.retain(|_, v| !v.is_null());
    if json.get("bos_token_id").and_then(Json::as_i64).is_some_and(|id| id < 0) {
        json.remove("bos_token_id");
    }
    let config = typed_config(&json)?;
    check_config(&config)?;
    Ok(config)
}

/// Refuses a model whose weights use a quantisation scheme of their own.
pub(crate) fn refuse_quantised(json: &Map<String, Json>) -> Result<()> {
    let Some(settings) = json.get("quantization_config").filter(|v| !v.is_null()) else { return Ok(()) };
    let method = settings.get("quant_method").and_then(Json::as_str).unwrap_or("of an unknown method");
    Err(Error::user(format!("its weights are quantised ({method}), which reflux does not read from a folder"))
        .help("use the model before quantisation, or a GGUF file"))
}

/// Parses the configuration into typed values; an error names the key.
pub(crate) fn typed_config(json: &Map<String, Json>) -> Result<Config> {
    let read = |json: Map<String, Json>| serde_json::from_value::<Config>(Json::Object(json));
    let Err(e) = read(json.clone()) else { return read(json.clone()).map_err(|e| Error::user(e.to_string())) };
    // serde does not report the key. It is the one whose removal leads to another error, or to none.
    let wrong = json.keys().find(|key| {
        let mut without = json.clone();
        without.shift_remove(*key);
        read(without).err().is_none_or(|other| other.to_string() != e.to_string())
    });
    Err(match wrong {
        Some(key) => Error::user(format!("{key}: {e}")),
        None => Error::user(e.to_string()),
    })
}

/// Converts the spellings of the rotary settings to one: `rope_theta` and `rope_scaling`, with the type
/// under `rope_type`. Older files use `type`, or both; transformers 5 writes base and scaling into one
/// object, `rope_parameters`. If a file has several spellings, the one that transformers reads takes
/// precedence.
fn one_rope(json: &mut Map<String, Json>) -> Result<()> {
    let whole = |settings: &Map<String, Json>| match settings.get("partial_rotary_factor") {
        Some(part) if !part.is_null() && part.as_f64() != Some(1.) => {
            Err(Error::user(format!("partial_rotary_factor = {part} is not supported")))
        }
        _ => Ok(()),
    };
    whole(json)?;
    let newer = json.remove("rope_parameters").filter(|v| !v.is_null());
    let empty = |v: &Json| v.is_null() || v.as_object().is_some_and(Map::is_empty);
    let older = json.remove("rope_scaling").filter(|v| !empty(v));
    let top = json.get("original_max_position_embeddings").cloned();
    let mut rope = match older.or(newer) {
        None => return Ok(()),
        Some(Json::Object(rope)) => rope,
        Some(other) => return Err(Error::user(format!("the rotary settings are {other}; they must be an object"))),
    };
    if let Some(layers) = rope.iter().find(|(_, v)| v.is_object()) {
        return Err(Error::user(format!("separate rotary settings for `{}` layers are not supported", layers.0)));
    }
    whole(&rope)?;
    if let Some(theta) = rope.remove("rope_theta").filter(|v| !v.is_null()) {
        json.insert("rope_theta".into(), theta);
    }
    let older = rope.remove("type").filter(|v| !v.is_null());
    let kind = rope.remove("rope_type").filter(|v| !v.is_null()).or(older);
    rope.retain(|_, v| !v.is_null());
    let Some(kind) = kind else {
        // In this case transformers 5 applies no scaling, older versions refuse, and llama.cpp scales
        // linearly.
        return match rope.get("factor") {
            None => Ok(()),
            Some(factor) => Err(Error::user(format!("rope_scaling has a factor ({factor}) and no type"))
                .help("state the type: add \"rope_type\": \"linear\" to rope_scaling, or remove rope_scaling")),
        };
    };
    if kind == "default" {
        return Ok(());
    }
    needed_by_scaling(&kind, &rope)?;
    if kind == "llama3" {
        let within = rope.remove("original_max_position_embeddings");
        let original = top.or(within).filter(|v| !v.is_null()).or_else(|| json.get("max_position_embeddings").cloned());
        rope.extend(original.map(|n| ("original_max_position_embeddings".to_string(), n)));
    }
    rope.insert("rope_type".into(), kind);
    json.insert("rope_scaling".into(), rope.into());
    Ok(())
}

/// Refuses a scaling that lacks one of its numbers, because a default would make another model.
fn needed_by_scaling(kind: &Json, rope: &Map<String, Json>) -> Result<()> {
    let needed: &[&str] = match kind.as_str() {
        Some("linear") => &["factor"],
        Some("llama3") => &["factor", "low_freq_factor", "high_freq_factor"],
        _ => &[],
    };
    for key in needed {
        match rope.get(*key) {
            Some(value) if value.is_number() => {}
            Some(value) => return Err(Error::user(format!("rope_scaling: {key} is {value}; it must be a number"))),
            None => return Err(Error::user(format!("rope_scaling of type {kind} has no {key}"))),
        }
    }
    Ok(())
}

/// Maximum context. No model was trained on longer ones, and without a maximum, memory sized by the context
/// would be unbounded.
const MAX_CONTEXT: usize = 1 << 24;

/// Refuses invalid sizes, so that later arithmetic on them can neither overflow nor divide by zero.
pub(crate) fn check_config(c: &Config) -> Result<()> {
    let sizes = [
        ("vocab_size", c.vocab_size, 1 << 24),
        ("hidden_size", c.hidden_size, 1 << 17),
        ("intermediate_size", c.intermediate_size, 1 << 20),
        ("num_hidden_layers", c.num_hidden_layers, 1 << 12),
        ("num_attention_heads", c.num_attention_heads, 1 << 12),
        ("num_key_value_heads", c.kv_heads(), 1 << 12),
        ("max_position_embeddings", c.max_position_embeddings, MAX_CONTEXT),
    ];
    for (name, value, most) in sizes {
        if value == 0 || value > most {
            return Err(Error::user(format!("{name} is {value}; it must be between 1 and {most}")));
        }
    }
    let (heads, kv, width) = (c.num_attention_heads, c.kv_heads(), c.head_dim());
    if heads % kv != 0 {
        return Err(Error::user(format!("{heads} attention heads cannot share {kv} key-value heads evenly")));
    }
    if c.head_dim.is_none() && !c.hidden_size.is_multiple_of(heads) {
        let d = c.hidden_size;
        return Err(Error::user(format!("hidden_size {d} is not a multiple of num_attention_heads {heads}")));
    }
    if width == 0 || width % 2 != 0 || width > 1 << 12 {
        return Err(Error::user(format!("head_dim is {width}; it must be even and at most 4096")));
    }
    let fine = |x: f64| x.is_finite() && x > 0.;
    if !fine(c.rms_norm_eps) || !fine(c.rope_theta) {
        return Err(Error::user("rms_norm_eps and rope_theta must be positive numbers"));
    }
    // Report an unknown kind of scaling before the weights are read.
    frequencies(c).map(drop).user(|| "the rotary settings cannot be used")
}

impl Tokenizer {
    /// Loads the tokenizer and chat template of a Hugging Face directory, without the model's weights. It
    /// also reads config.json, which may name tokens that end an answer.
    ///
    /// # Errors
    /// A file is missing or invalid; the message names it.
    pub fn load(dir: &Path) -> Result<Self> {
        Ok(config_and_tokenizer(dir)?.1)
    }
}

/// Returns a model's display name: the last part of its path.
pub(crate) fn name_of(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into_owned())
}
