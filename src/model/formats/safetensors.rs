//! Reads safetensors: one file, or several that an index names.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde_json::Value as Json;

use super::hf;
use super::tensor_size::elements;
use crate::data::open_regular;
use crate::error::{Error, ErrorContext, Result};

/// Maximum length of a header, the same as in the reference implementation.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Reads only the weights of the given names and shapes from the directory's safetensors files. `family` is
/// the name of such a model in messages.
pub(in crate::model) fn load(
    dir: &Path,
    family: &str,
    expected: impl IntoIterator<Item = (String, Vec<usize>)>,
    device: &Device,
    dtype: DType,
) -> Result<BTreeMap<String, Tensor>> {
    let files = WeightFiles::open(shards(dir)?, dir, (family, "config.json"), expected)?;
    if files.has_another_head()? {
        return Err(Error::user(format!(
            "{}: `{HEAD}` is not the embedding, and config.json ties them",
            dir.display()
        ))
        .help("set tie_word_embeddings to false in config.json if the model has two matrices"));
    }
    let names: Vec<String> = files.entries.keys().cloned().collect();
    names.into_iter().map(|n| Ok((n.clone(), files.tensor(&n)?.to_dtype(dtype)?.to_device(device)?))).collect()
}

/// Safetensors files that hold the requested weights.
pub(in crate::model) struct WeightFiles {
    paths: Vec<PathBuf>,
    /// File and place of each weight, by name.
    entries: BTreeMap<String, (usize, TensorEntry)>,
    /// An output matrix that was not requested, because the configuration says that it is the embedding.
    head: Option<(usize, TensorEntry)>,
}

const HEAD: &str = "lm_head.weight";
const EMBEDDING: &str = "model.embed_tokens.weight";

impl WeightFiles {
    /// Reads the files' headers. `dir` and the family of the configuration file are names for messages.
    pub(in crate::model) fn open(
        paths: Vec<PathBuf>,
        dir: &Path,
        (family, config): (&str, &str),
        expected: impl IntoIterator<Item = (String, Vec<usize>)>,
    ) -> Result<Self> {
        let expected: BTreeMap<String, Vec<usize>> = expected.into_iter().collect();
        let mut entries: BTreeMap<String, (usize, TensorEntry)> = BTreeMap::new();
        let mut head = None;
        for (at, path) in paths.iter().enumerate() {
            for entry in header(path).map_err(|e| e.doing(path.display()))? {
                let wrong = |what: String| Error::user(format!("{}: tensor `{}` {what}", path.display(), entry.name));
                let name = full_name(&entry.name, &expected);
                let Some(shape) = expected.get(&name) else {
                    if name == HEAD {
                        head = Some((at, entry));
                        continue;
                    }
                    if ignored(&name) {
                        continue;
                    }
                    return Err(wrong(format!("is not part of a {family} model of this {config}"))
                        .help(help_for_unknown_tensor(&entry.name, config, &expected)));
                };
                if *shape != entry.shape {
                    return Err(wrong(format!("has shape {:?}, {config} requires {shape:?}", entry.shape)));
                }
                if entries.contains_key(&name) {
                    return Err(wrong("is in another file of the model already".into()));
                }
                entries.insert(name, (at, entry));
            }
        }
        let missing: Vec<&str> = expected.keys().filter(|n| !entries.contains_key(*n)).map(String::as_str).collect();
        match missing.as_slice() {
            [] => Ok(Self { paths, entries, head }),
            [first, rest @ ..] => Err(Error::user(format!(
                "{}: tensor `{first}` is missing{}",
                dir.display(),
                if rest.is_empty() { String::new() } else { format!(", and {} more", rest.len()) }
            ))
            .help(format!("{config} and the weights belong to different models, or a file of the model is missing"))),
        }
    }

    /// Whether the files have an output matrix although the configuration says that it is the embedding,
    /// and the two differ. transformers then uses both. Many checkpoints only carry a copy of the
    /// embedding.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(in crate::model) fn has_another_head(&self) -> Result<bool> {
        let (Some((at, head)), Some((of, embedding))) = (&self.head, self.entries.get(EMBEDDING)) else {
            return Ok(false);
        };
        if head.shape != embedding.shape {
            let path = self.paths[*at].display();
            let (a, b) = (&head.shape, &embedding.shape);
            return Err(Error::user(format!("{path}: tensor `{HEAD}` has shape {a:?}, the embedding {b:?}")));
        }
        let same_place = (at, head.begin) == (of, embedding.begin);
        Ok(!same_place && self.values(*at, head)? != self.values(*of, embedding)?)
    }

    fn values(&self, at: usize, entry: &TensorEntry) -> Result<Vec<f32>> {
        Ok(read(&self.paths[at], entry)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
    }

    /// Adds the output matrix to the weights.
    pub(in crate::model) fn take_head(&mut self) {
        self.entries.extend(self.head.take().map(|head| (HEAD.to_string(), head)));
    }

    /// Reads a weight on the CPU, in its stored type; f64 is converted to f32.
    pub(in crate::model) fn tensor(&self, name: &str) -> Result<Tensor> {
        let Some((at, entry)) = self.entries.get(name) else {
            return Err(Error::bug(format!("tensor `{name}` was not requested")));
        };
        let path = &self.paths[*at];
        read(path, entry).map_err(|e| e.doing(format!("{}: tensor `{name}`", path.display())))
    }
}

/// Reads every tensor of a safetensors file, in its stored type; f64 is converted to f32.
///
/// # Errors
/// The file was not found or is not a safetensors file; its header is checked before any data is read.
pub fn read_all(path: &Path, device: &Device) -> Result<BTreeMap<String, Tensor>> {
    let all = || -> Result<BTreeMap<String, Tensor>> {
        header(path)?.iter().map(|e| Ok((e.name.clone(), read(path, e)?.to_device(device)?))).collect()
    };
    all().map_err(|e| e.doing(path.display()))
}

fn read(path: &Path, entry: &TensorEntry) -> Result<Tensor> {
    let mut bytes = vec![0u8; entry.bytes];
    let mut file = open_regular(path).user(|| "cannot be opened")?;
    file.seek(SeekFrom::Start(entry.begin))?;
    file.read_exact(&mut bytes)?;
    let tensor = Tensor::from_raw_buffer(&bytes, entry.dtype, &entry.shape, &Device::Cpu)?;
    Ok(if entry.dtype == DType::F64 { tensor.to_dtype(DType::F32)? } else { tensor })
}

/// Whether a tensor is redundant: some checkpoints store rotary tables.
fn ignored(name: &str) -> bool {
    name.ends_with(".rotary_emb.inv_freq")
}

/// Returns the full name of a weight. Models saved without their head omit the prefix.
fn full_name(name: &str, expected: &BTreeMap<String, Vec<usize>>) -> String {
    let prefixed = format!("model.{name}");
    if !expected.contains_key(name) && expected.contains_key(&prefixed) { prefixed } else { name.to_string() }
}

/// Returns the help for a tensor that the model does not have.
fn help_for_unknown_tensor(name: &str, config: &str, expected: &BTreeMap<String, Vec<usize>>) -> String {
    for (prefix, how) in
        [("_orig_mod.", "from what torch.compile made of it"), ("module.", "from a DataParallel wrapper")]
    {
        if name.strip_prefix(prefix).is_some_and(|rest| expected.contains_key(&full_name(rest, expected))) {
            return format!(
                "the model was saved {how}, so that all names begin with `{prefix}`: save the model itself"
            );
        }
    }
    format!("{config} and the weights belong to different models, or it is another architecture")
}

/// Returns the files that hold a directory's weights.
pub(in crate::model) fn shards(dir: &Path) -> Result<Vec<PathBuf>> {
    // If both exist, an earlier save left the shards; transformers reads the single file.
    let path = dir.join("model.safetensors");
    if path.exists() {
        return Ok(vec![path]);
    }
    let index = dir.join("model.safetensors.index.json");
    if !index.exists() {
        let what = if dir.join("pytorch_model.bin").exists() {
            "only pytorch_model.bin, which can run code"
        } else {
            "no weights"
        };
        return Err(Error::user(format!("{}: found {what}", dir.display()))
            .help("reflux reads model.safetensors, or the files that model.safetensors.index.json names"));
    }
    let json = hf::read_object(&index)?;
    let map = json.get("weight_map").and_then(Json::as_object);
    let map = map.ok_or_else(|| Error::user(format!("{}: weight_map is missing", index.display())))?;
    let mut names = BTreeSet::new();
    for file in map.values() {
        let name = file.as_str().filter(|n| !n.is_empty() && !n.contains(['/', '\\']) && *n != "..");
        let name = name.ok_or_else(|| Error::user(format!("{}: {file} is not a file name", index.display())))?;
        names.insert(name.to_string());
    }
    Ok(names.into_iter().map(|n| dir.join(n)).collect())
}

/// A tensor as described by the header. `begin` counts from the start of the file.
struct TensorEntry {
    name: String,
    dtype: DType,
    shape: Vec<usize>,
    begin: u64,
    bytes: usize,
}

/// Reads a file's header and checks that it matches the file's length.
fn header(path: &Path) -> Result<Vec<TensorEntry>> {
    let mut file = open_regular(path).user(|| "cannot be opened")?;
    let length = file.metadata()?.len();
    let mut prefix = [0u8; 8];
    file.read_exact(&mut prefix).map_err(|_| Error::user("it is cut off within its first eight bytes"))?;
    let header = u64::from_le_bytes(prefix);
    if prefix == *b"version " {
        return Err(Error::user("it is a Git LFS pointer, not the weights themselves")
            .help("fetch the file: `git lfs pull` in the repository, or `huggingface-cli download`"));
    }
    if header > MAX_HEADER_BYTES || header > length.saturating_sub(8) {
        return Err(Error::user(format!("its header claims {header} bytes, the file has {length}"))
            .help("the file is cut off, or it is not a safetensors file"));
    }
    let mut bytes = vec![0u8; header as usize];
    file.read_exact(&mut bytes)?;
    let described = hf::object(&bytes).map_err(|e| e.doing("its header is broken"))?;

    let data = 8 + header;
    let mut entries = Vec::with_capacity(described.len());
    for (name, json) in described {
        if name != "__metadata__" {
            entries.push(entry(&name, &json, data, length).map_err(|e| e.doing(format!("tensor `{name}`")))?);
        }
    }
    // In order of place, so that overlaps are between neighbours.
    entries.sort_by(|a, b| (a.begin, &a.name).cmp(&(b.begin, &b.name)));
    for pair in entries.windows(2) {
        if pair[0].begin + pair[0].bytes as u64 > pair[1].begin {
            let (a, b) = (&pair[0].name, &pair[1].name);
            return Err(Error::user(format!("the data of tensors `{a}` and `{b}` overlap")));
        }
    }
    Ok(entries)
}

fn entry(name: &str, json: &Json, data: u64, length: u64) -> Result<TensorEntry> {
    let dtype = match json.get("dtype").and_then(Json::as_str) {
        Some("F32") => DType::F32,
        Some("F16") => DType::F16,
        Some("BF16") => DType::BF16,
        // Converted to f32 when read.
        Some("F64") => DType::F64,
        Some(other) => {
            let cause = match other {
                "U8" | "I8" | "F8_E4M3" | "F8_E5M2" | "F4" => ", as quantised weights have",
                _ => "",
            };
            return Err(Error::user(format!("has type {other}{cause}"))
                .help("reflux reads F32, F16 and BF16, and F64 as f32; use the model before quantisation"));
        }
        None => return Err(Error::user("has no dtype")),
    };
    let numbers = |key: &str| -> Result<Vec<u64>> {
        let all = json.get(key).and_then(Json::as_array).and_then(|a| a.iter().map(Json::as_u64).collect());
        all.ok_or_else(|| Error::user(format!("{key} is not a list of whole numbers")))
    };
    let shape: Vec<usize> = numbers("shape")?.into_iter().map(|d| usize::try_from(d).unwrap_or(usize::MAX)).collect();
    let offsets = numbers("data_offsets")?;
    let &[begin, end] = offsets.as_slice() else { return Err(Error::user("data_offsets is not a pair")) };
    if begin > end || end > length - data {
        let there = length - data;
        return Err(Error::user(format!("has bytes {begin} to {end}, the file has {there}"))
            .help("the file is cut off or broken"));
    }
    let bytes = elements(&shape).and_then(|n| n.checked_mul(dtype.size_in_bytes()));
    if bytes != usize::try_from(end - begin).ok() {
        return Err(Error::user(format!("of shape {shape:?} and type {dtype:?} cannot have {} bytes", end - begin)));
    }
    Ok(TensorEntry { name: name.to_string(), dtype, shape, begin: data + begin, bytes: (end - begin) as usize })
}
