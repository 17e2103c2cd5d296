//! A LoRA adapter in PEFT's layout: a directory with adapter_config.json and adapter_model.safetensors, which
//! `peft.PeftModel.from_pretrained(base, dir)` loads.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use candle_core::{DType, Tensor};
use serde_json::{Map, Value as Json, json};

use super::safetensors;
use super::{hf, save};
use crate::error::{Error, ErrorContext, Result};
use crate::model::config::Config;
use crate::model::config::OneOrMany;
use crate::model::nn::finite;
use crate::model::nn::llama::Llama;
use crate::model::nn::lora::LoraConfig;
use crate::model::nn::lora::TARGETS;
use crate::model::text::tokenizer::Tokenizer;

/// PEFT's prefix for the weight names of a causal language model.
const PREFIX: &str = "base_model.model.";
/// File name of an adapter's settings.
pub const CONFIG: &str = "adapter_config.json";
/// File name of an adapter's weights.
pub const WEIGHTS: &str = "adapter_model.safetensors";

/// File names of a whole model's weights.
const WHOLE: [&str; 4] =
    ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"];

/// Values of `init_lora_weights` that only describe the initial A and B. The other values (`pissa`,
/// `olora`, `loftq`, `corda`, `lora_ga`) subtract the initial adapter from the base model's weights, and
/// PEFT does so again when it loads the adapter.
const HARMLESS_INITS: [&str; 4] = ["gaussian", "eva", "orthogonal", "mica"];

/// Whether a directory holds an adapter. `Trainer` also saves the base model's config.json there, but not
/// its weights.
pub fn is_one(dir: &Path) -> bool {
    dir.join(CONFIG).is_file() && whole_weights(dir).is_none()
}

/// Returns the first file of a whole model's weights in the directory.
fn whole_weights(dir: &Path) -> Option<&'static str> {
    WHOLE.into_iter().find(|name| dir.join(name).exists())
}

/// Refuses a directory that holds both a whole model's weights and an adapter, because the choice would be
/// ambiguous.
pub(crate) fn check_not_both(dir: &Path) -> Result<()> {
    match whole_weights(dir).filter(|_| dir.join(CONFIG).is_file()) {
        None => Ok(()),
        Some(weights) => {
            let message = format!("{}: it holds a whole model ({weights}) and an adapter ({CONFIG})", dir.display());
            Err(Error::user(message).help("move the adapter's files into a directory of their own"))
        }
    }
}

/// Writes the adapter of `llama`, its settings first. adapter_config.json names `base` as the base model.
///
/// # Errors
/// The model has no adapter, some weights are not finite, or the directory cannot be written.
pub fn save(llama: &Llama, base: Option<&str>, dir: &Path) -> Result<()> {
    let Some(lora) = llama.lora() else { return Err(Error::bug("a model without an adapter has none to save")) };
    let weights = llama.variables().iter().map(|(name, v)| (name.clone(), v.as_tensor().clone())).collect();
    write(lora, weights, base, dir)
}

/// Writes an adapter whose weights have the names of [`LoraConfig::weights`], as [`save`] does.
///
/// # Errors
/// Some weights are not finite, or the directory cannot be written.
pub(crate) fn write(
    lora: &LoraConfig,
    weights: BTreeMap<String, Tensor>,
    base: Option<&str>,
    dir: &Path,
) -> Result<()> {
    let weights = weights.into_iter().map(|(name, w)| (format!("{PREFIX}{name}"), w)).collect();
    finite::check(&weights).map_err(|e| e.doing("the adapter is not saved"))?;
    fs::create_dir_all(dir).doing(|| dir.display())?;
    let whole = lora.alpha.fract() == 0. && lora.alpha.abs() < 1e9;
    let alpha = if whole { json!(lora.alpha as i64) } else { json!(lora.alpha) };
    // The keys of PEFT that affect what the adapter computes; the other keys have defaults.
    let config = json!({
        "alpha_pattern": {}, "auto_mapping": null, "base_model_name_or_path": base, "bias": "none",
        "fan_in_fan_out": false, "inference_mode": true, "init_lora_weights": true, "layers_pattern": null,
        "layers_to_transform": null, "lora_alpha": alpha, "lora_dropout": lora.dropout, "modules_to_save": null,
        "peft_type": "LORA", "r": lora.rank, "rank_pattern": {}, "revision": null, "target_modules": lora.targets,
        "task_type": "CAUSAL_LM", "use_dora": false, "use_rslora": false,
    });
    save::write_file(&dir.join(CONFIG), |to| Ok(writeln!(to, "{config:#}")?))?;
    save::write_file(&dir.join(WEIGHTS), |to| save::safetensors(&weights, to))
}

/// Loads the adapter in a directory for a model of the given configuration. Returns its settings, and its
/// weights in f32 on the CPU under the names of [`LoraConfig::weights`]. It ignores the base model that the
/// directory names.
///
/// # Errors
/// It is not a plain LoRA of this model's matrices, or one of its files is invalid; the message names the
/// file.
pub fn load(dir: &Path, model: &Config) -> Result<(LoraConfig, BTreeMap<String, Tensor>)> {
    let (lora, _) = open(dir)?;
    let weights = weights(dir, &lora, model)?;
    Ok((lora, weights))
}

/// Reads the settings of the adapter in a directory and the path of its base model.
pub(crate) fn open(dir: &Path) -> Result<(LoraConfig, Option<String>)> {
    let path = dir.join(CONFIG);
    let json = hf::read_object(&path)?;
    let lora = config(&json).map_err(|e| e.doing(path.display()))?;
    let base = json.get("base_model_name_or_path").and_then(Json::as_str).filter(|b| !b.is_empty());
    Ok((lora, base.map(str::to_owned)))
}

/// Returns the path of the base model that an adapter's configuration names. The path is relative to the
/// working directory, as in PEFT, or else to the adapter's directory.
pub(crate) fn base(dir: &Path, named: Option<&str>) -> Result<PathBuf> {
    let help = "write the path of the model that the adapter was trained on there";
    let Some(named) = named else {
        let message = format!("{}: base_model_name_or_path is missing", dir.join(CONFIG).display());
        return Err(Error::user(message).help(help));
    };
    let found = [PathBuf::from(named), dir.join(named)].into_iter().find(|p| p.exists());
    let base = found.ok_or_else(|| {
        let path = dir.join(CONFIG);
        Error::user(format!("{}: base_model_name_or_path is `{named}`, which was not found", path.display())).help(help)
    })?;
    if is_one(&base) {
        let message = format!("{}: the base model `{named}` is itself an adapter", dir.join(CONFIG).display());
        return Err(Error::user(message).help("export or save it merged, and train the merged model"));
    }
    Ok(base)
}

/// Returns the tokenizer of the adapter: its own if its directory has one, else the base model's with the
/// adapter's chat template, if any. Ids that end a text in the base model's files also end it here.
///
/// # Errors
/// A file is invalid; the message names it.
pub(crate) fn tokenizer(dir: &Path, base: Tokenizer) -> Result<Tokenizer> {
    if dir.join("tokenizer.json").exists() {
        let eos = OneOrMany::Many(base.files().eos.clone());
        return hf::tokenizer(dir, Some(&eos));
    }
    let Some(template) = hf::own_template(dir)? else { return Ok(base) };
    let mut own = base.files().clone();
    own.config.insert("chat_template".into(), template);
    Tokenizer::new(own).map_err(|e| e.doing(dir.display()))
}

/// Returns the path of the base model of the adapter in `dir`; `None` if `dir` holds no adapter.
///
/// # Errors
/// The adapter's configuration cannot be read, or its base model was not found.
pub fn base_of(dir: &Path) -> Result<Option<PathBuf>> {
    if !is_one(dir) {
        return Ok(None);
    }
    let (_, named) = open(dir)?;
    base(dir, named.as_deref()).map(Some)
}

/// An adapter that can be moved to any folder.
pub struct Standalone {
    /// The base model that it names.
    pub base: String,
    /// Contents of [`CONFIG`] for the copy.
    pub config: String,
    /// The file to copy to [`WEIGHTS`].
    pub weights: PathBuf,
}

/// Returns the adapter in `dir` with the absolute path of its base model, so that PEFT finds the base from
/// any folder and any working directory. A run's own adapters name their base relative to their location,
/// so that a run has the same bytes anywhere. A base that is not a local path, such as a name on the hub,
/// does not change.
///
/// # Errors
/// The directory holds no adapter, or its base model has no files that PEFT reads.
pub fn standalone(dir: &Path) -> Result<Standalone> {
    let (_, named) = open(dir)?;
    let hub = named.as_deref().filter(|named| !Path::new(named).exists() && !dir.join(named).exists());
    let base = match hub.filter(|named| named.split('/').count() == 2 && !named.starts_with(['.', '/'])) {
        Some(named) => named.to_owned(),
        None => fs::canonicalize(base(dir, named.as_deref())?).doing(|| dir.display())?.display().to_string(),
    };
    if base.to_ascii_lowercase().ends_with(".gguf") {
        return Err(Error::user(format!("the base model {base} is a GGUF file, which PEFT does not load"))
            .help("export the merged model instead: name a file that ends in .gguf"));
    }
    let mut config = hf::read_object(&dir.join(CONFIG))?;
    config.insert("base_model_name_or_path".into(), base.clone().into());
    Ok(Standalone { base, config: format!("{:#}\n", Json::Object(config)), weights: dir.join(WEIGHTS) })
}

/// Reads the adapter's weights in f32 on the CPU, under the names of [`LoraConfig::weights`].
pub(crate) fn weights(dir: &Path, lora: &LoraConfig, model: &Config) -> Result<BTreeMap<String, Tensor>> {
    let path = dir.join(WEIGHTS);
    if !path.exists() {
        return Err(Error::user(format!("{}: {WEIGHTS} not found", dir.display()))
            .help("reflux reads adapters in safetensors only; adapter_model.bin can run code"));
    }
    let expected: Vec<_> =
        lora.weights(model).into_iter().map(|(name, shape)| (format!("{PREFIX}{name}"), shape)).collect();
    let names: Vec<String> = expected.iter().map(|(name, _)| name.clone()).collect();
    let files = safetensors::WeightFiles::open(vec![path], dir, ("LoRA", CONFIG), expected)?;
    let weight = |name: String| {
        let w = files.tensor(&name)?.to_dtype(DType::F32)?;
        Ok((name[PREFIX.len()..].to_owned(), w))
    };
    names.into_iter().map(weight).collect()
}

/// Parses adapter_config.json and refuses settings that are not supported.
fn config(json: &Map<String, Json>) -> Result<LoraConfig> {
    let kind = json.get("peft_type").and_then(Json::as_str).unwrap_or("none");
    if kind != "LORA" {
        return Err(Error::user(format!("its peft_type is {kind}; reflux reads LORA")));
    }
    for (key, value) in json {
        let allowed = match key.as_str() {
            "bias" => *value == "none",
            "use_rslora" | "use_dora" | "fan_in_fan_out" | "lora_bias" | "use_qalora" | "use_bdlora" => off(value),
            "modules_to_save"
            | "layers_to_transform"
            | "layers_pattern"
            | "rank_pattern"
            | "alpha_pattern"
            | "target_parameters"
            | "layer_replication"
            | "trainable_token_indices"
            | "exclude_modules"
            | "alora_invocation_tokens" => off(value),
            "init_lora_weights" => match value {
                Json::Null | Json::Bool(_) => true,
                _ => value.as_str().is_some_and(|init| HARMLESS_INITS.contains(&init.to_lowercase().as_str())),
            },
            _ => true,
        };
        if !allowed {
            let help = match key.as_str() {
                "init_lora_weights" => {
                    "this initialisation changes the base model's weights; merge the adapter with PEFT \
                     (merge_and_unload), or save it as plain LoRA (path_initial_model_for_weight_conversion)"
                }
                _ => "reflux reads plain LoRA of a Llama's matrices; merge the adapter with PEFT (merge_and_unload)",
            };
            return Err(Error::user(format!("{key} is {value}, which is not supported")).help(help));
        }
    }
    let rank = json.get("r").and_then(Json::as_u64).and_then(|r| usize::try_from(r).ok()).filter(|r| *r > 0);
    let rank = rank.ok_or_else(|| Error::user("r is not a whole number above 0"))?;
    let alpha = json.get("lora_alpha").and_then(Json::as_f64).filter(|a| a.is_finite());
    let alpha = alpha.ok_or_else(|| Error::user("lora_alpha is not a number"))?;
    let dropout = match json.get("lora_dropout") {
        None => Some(0.),
        Some(rate) => rate.as_f64().filter(|r| (0.0..1.0).contains(r)),
    };
    let dropout = dropout.ok_or_else(|| Error::user("lora_dropout is not a number from 0 to below 1"))?;
    let named: Vec<&str> = match json.get("target_modules") {
        Some(Json::String(all)) if all == "all-linear" => TARGETS.to_vec(),
        Some(Json::Array(list)) => list.iter().map(|t| t.as_str().unwrap_or_default()).collect(),
        other => {
            let other = other.unwrap_or(&Json::Null);
            return Err(Error::user(format!("target_modules is {other}, not a list of names")));
        }
    };
    // PEFT writes whole paths for `all-linear`. The weights show whether every layer has its part.
    let named: Vec<&str> = named.iter().map(|t| t.rsplit('.').next().unwrap_or(t)).collect();
    if let Some(unknown) = named.iter().find(|t| !TARGETS.contains(t)) {
        let known = TARGETS.join(", ");
        return Err(Error::user(format!("target_modules has `{unknown}`")).help(format!("reflux knows {known}")));
    }
    let targets: Vec<&'static str> = TARGETS.into_iter().filter(|t| named.contains(t)).collect();
    if targets.is_empty() {
        return Err(Error::user("target_modules is empty"));
    }
    Ok(LoraConfig { rank, alpha, dropout, targets })
}

/// Whether a setting has no effect.
fn off(value: &Json) -> bool {
    match value {
        Json::Null | Json::Bool(false) => true,
        Json::Array(all) => all.is_empty(),
        Json::Object(all) => all.is_empty(),
        _ => false,
    }
}
