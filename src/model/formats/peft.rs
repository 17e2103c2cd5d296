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
use crate::error::{Context, Error, Result};
use crate::model::config::Config;
use crate::model::config::OneOrMany;
use crate::model::nn::finite;
use crate::model::nn::llama::Llama;
use crate::model::nn::lora::LoraConfig;
use crate::model::nn::lora::TARGETS;
use crate::model::text::tokenizer::Tokenizer;

/// What PEFT puts before the names of a causal language model.
const PREFIX: &str = "base_model.model.";
/// The file of an adapter's settings.
pub const CONFIG: &str = "adapter_config.json";
/// The file of an adapter's weights.
pub const WEIGHTS: &str = "adapter_model.safetensors";

/// Files of a whole model's weights.
const WHOLE: [&str; 4] =
    ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"];

/// Values of `init_lora_weights` that only say how A and B began. The others (`pissa`, `olora`, `loftq`, `corda`, `lora_ga`)
/// take the adapter's first value out of the base model's weights, and PEFT does so again when it loads the adapter.
const HARMLESS_INITS: [&str; 4] = ["gaussian", "eva", "orthogonal", "mica"];

/// Whether a directory is an adapter's. What `Trainer` saves has the base model's config.json too, but not its weights.
pub fn is_one(dir: &Path) -> bool {
    dir.join(CONFIG).is_file() && whole_weights(dir).is_none()
}

/// The first file of a whole model's weights that the directory has.
fn whole_weights(dir: &Path) -> Option<&'static str> {
    WHOLE.into_iter().find(|name| dir.join(name).exists())
}

/// Refuses a directory that holds a whole model's weights and an adapter: which of them is meant cannot be known.
pub(crate) fn check_not_both(dir: &Path) -> Result<()> {
    match whole_weights(dir).filter(|_| dir.join(CONFIG).is_file()) {
        None => Ok(()),
        Some(weights) => {
            let message = format!("{}: it holds a whole model ({weights}) and an adapter ({CONFIG})", dir.display());
            Err(Error::user(message).help("move the adapter's files into a directory of their own"))
        }
    }
}

/// Writes the adapter of `llama`, its settings first. `base` is what adapter_config.json says of the model that it was
/// trained on.
///
/// # Errors
/// The model has no adapter, its weights are not all finite, or the directory cannot be written.
pub fn save(llama: &Llama, base: Option<&str>, dir: &Path) -> Result<()> {
    let Some(lora) = llama.lora() else { return Err(Error::bug("a model without an adapter has none to save")) };
    let weights =
        llama.variables().iter().map(|(name, v)| (format!("{PREFIX}{name}"), v.as_tensor().clone())).collect();
    finite::check(&weights).map_err(|e| e.doing("the adapter is not saved"))?;
    fs::create_dir_all(dir).doing(|| dir.display())?;
    let whole = lora.alpha.fract() == 0. && lora.alpha.abs() < 1e9;
    let alpha = if whole { json!(lora.alpha as i64) } else { json!(lora.alpha) };
    // The keys of PEFT that bear on what the adapter computes; the rest have defaults.
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

/// The adapter in a directory for a model of that configuration: its settings, and its weights in f32 on the CPU, named as
/// [`LoraConfig::weights`] names them. Which base model the directory names is not looked at.
///
/// # Errors
/// It is not plain LoRA of this model's matrices, or one of its files is broken; the message names the file.
pub fn load(dir: &Path, model: &Config) -> Result<(LoraConfig, BTreeMap<String, Tensor>)> {
    let (lora, _) = open(dir)?;
    let weights = weights(dir, &lora, model)?;
    Ok((lora, weights))
}

/// The settings of the adapter in a directory, and where its base model is.
pub(crate) fn open(dir: &Path) -> Result<(LoraConfig, Option<String>)> {
    let path = dir.join(CONFIG);
    let json = hf::read_object(&path)?;
    let lora = config(&json).map_err(|e| e.doing(path.display()))?;
    let base = json.get("base_model_name_or_path").and_then(Json::as_str).filter(|b| !b.is_empty());
    Ok((lora, base.map(str::to_owned)))
}

/// Where the base model is that an adapter's configuration names: from the working directory, as PEFT has it, or else from
/// the adapter's.
pub(crate) fn base(dir: &Path, named: Option<&str>) -> Result<PathBuf> {
    let help = "write the path of the model that the adapter was trained on there";
    let Some(named) = named else {
        let message = format!("{}: it names no base_model_name_or_path", dir.join(CONFIG).display());
        return Err(Error::user(message).help(help));
    };
    let found = [PathBuf::from(named), dir.join(named)].into_iter().find(|p| p.exists());
    let base = found.ok_or_else(|| {
        let path = dir.join(CONFIG);
        Error::user(format!("{}: base_model_name_or_path is `{named}`, and there is no such model", path.display()))
            .help(help)
    })?;
    if is_one(&base) {
        let message = format!("{}: the base model `{named}` is itself an adapter", dir.join(CONFIG).display());
        return Err(Error::user(message).help("export or save it merged, and train on that"));
    }
    Ok(base)
}

/// The tokenizer to use with the adapter: its own where its directory has one, and the base model's else, with the
/// adapter's chat template if it has one. Ids that end a text by the base model's files end it here too.
///
/// # Errors
/// One of the files is broken; the message names it.
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

/// Where the base model is of the adapter in `dir`; `None` if there is no adapter.
///
/// # Errors
/// The adapter's configuration cannot be read, or its base model is not there.
pub fn base_of(dir: &Path) -> Result<Option<PathBuf>> {
    if !is_one(dir) {
        return Ok(None);
    }
    let (_, named) = open(dir)?;
    base(dir, named.as_deref()).map(Some)
}

/// An adapter for a folder anywhere.
pub struct Standalone {
    /// What it names as its base model.
    pub base: String,
    /// What [`CONFIG`] is to say.
    pub config: String,
    /// The file that [`WEIGHTS`] is to be a copy of.
    pub weights: PathBuf,
}

/// The adapter in `dir` with its base model named by its absolute path, so that PEFT finds it from any folder and any working
/// directory. A run's own adapters name their base from where they lie: the same run has the same bytes anywhere. A base that
/// is no path here, as a name on the hub, stays as it is.
///
/// # Errors
/// There is no adapter, or its base model has no files that PEFT reads.
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

/// The adapter's weights, named as [`LoraConfig::weights`] names them, in f32 on the CPU.
pub(crate) fn weights(dir: &Path, lora: &LoraConfig, model: &Config) -> Result<BTreeMap<String, Tensor>> {
    let path = dir.join(WEIGHTS);
    if !path.exists() {
        return Err(Error::user(format!("{}: there is no {WEIGHTS}", dir.display()))
            .help("reflux reads adapters in safetensors only; adapter_model.bin can run code"));
    }
    let expected: Vec<_> =
        lora.weights(model).into_iter().map(|(name, shape)| (format!("{PREFIX}{name}"), shape)).collect();
    let names: Vec<String> = expected.iter().map(|(name, _)| name.clone()).collect();
    let files = safetensors::Files::open(vec![path], dir, ("LoRA", CONFIG), expected)?;
    let weight = |name: String| {
        let w = files.tensor(&name)?.to_dtype(DType::F32)?;
        Ok((name[PREFIX.len()..].to_owned(), w))
    };
    names.into_iter().map(weight).collect()
}

/// adapter_config.json, if it says nothing but what we compute.
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
    // Whole paths where PEFT was asked for `all-linear`; that every layer has its part shows in the weights.
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

/// Whether a setting says nothing.
fn off(value: &Json) -> bool {
    match value {
        Json::Null | Json::Bool(false) => true,
        Json::Array(all) => all.is_empty(),
        Json::Object(all) => all.is_empty(),
        _ => false,
    }
}
