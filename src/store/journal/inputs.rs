//! External inputs of a run: which files it read from outside its directory, with the content hash of each.
//!
//! The manifest gets an entry when an input is first read. Whoever reads it again, in this process or a later one, compares it
//! with that entry. Hashing a large file is slow, so the entry of a large file also keeps the times that the file system has
//! for it, and a file of the same size and times is taken to be the same. Small files are always hashed.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::manifest::Entry;
use super::run::Run;
use crate::error::{Error, Result};
use crate::store::files::atomic::{hash_file, io_error};
use crate::store::files::listing;

/// Which files of a folder belong to an input.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputForm {
    /// The data files that [`crate::store::datasets::dataset::Dataset`] reads.
    Dataset,
    /// The files that a model may be loaded from: weights, configuration, tokenizer and templates.
    Model,
    /// One text file.
    Text,
}

/// An external input as the manifest has it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputEntry {
    /// The table of the pipeline file that names it, e.g. `step.prompts` or `model.judge`.
    pub table: String,
    /// The key of that table.
    pub key: String,
    /// The path as it was opened; for a model of the hub, its folder in the cache.
    pub path: String,
    /// Which files of a folder count.
    pub form: InputForm,
    /// The commit that a branch or tag of the hub stood for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// blake3 over names, sizes and hashes of all files, 64 hex digits.
    pub hash: String,
    /// Every file by its path below `path` (empty for `path` itself); none where there are more than `MAX_LISTED`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, InputFile>,
}

/// A file of an external input.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputFile {
    /// Size in bytes.
    pub bytes: u64,
    /// blake3 of the bytes, 64 hex digits.
    pub hash: String,
    /// The file's times when it was hashed, for files of at least `LARGE` bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<FileTimes>,
}

/// The times that the file system keeps, in nanoseconds from 1970.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileTimes {
    /// Last change of the content.
    pub modified: i64,
    /// Last change of content or attributes, where the system has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed: Option<i64>,
}

/// An input that is not what the manifest has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChangedInput {
    /// The table of the pipeline file that names it.
    pub table: String,
    /// What has changed, for people.
    pub what: String,
}

/// An input that is about to be read.
#[derive(Clone, Copy, Debug)]
pub struct InputPlace<'a> {
    /// The table of the pipeline file that names it.
    pub table: &'a str,
    /// The key of that table.
    pub key: &'a str,
    /// Where it is.
    pub path: &'a Path,
    /// Which files of a folder count.
    pub form: InputForm,
    /// The commit of the hub that it was resolved to.
    pub revision: Option<&'a str>,
    /// The hash of a text that was read before the run was opened.
    pub content: Option<&'a str>,
}

/// Files of at least this many bytes are not hashed again while their size and times stay the same.
pub const LARGE: u64 = 16 << 20;
/// Folders of more files than this have one hash for all of them: a manifest's line stays short.
pub const MAX_LISTED: usize = 2000;
/// A file that was written this recently may be written again within the same tick of the file system's clock.
const SETTLED: Duration = Duration::from_secs(2);

/// The inputs that this process has compared with the manifest, with the sizes and times that they had then.
pub(crate) type Seen = BTreeMap<(String, String), BTreeMap<PathBuf, (u64, FileTimes)>>;

fn nanoseconds(time: io::Result<SystemTime>) -> i64 {
    // A system without this time: all files look alike, and the size and hash decide.
    let since = time.ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(unix)]
fn changed(metadata: &Metadata) -> Option<i64> {
    use std::os::unix::fs::MetadataExt as _;
    Some(metadata.ctime().saturating_mul(1_000_000_000).saturating_add(metadata.ctime_nsec()))
}
#[cfg(not(unix))]
fn changed(_: &Metadata) -> Option<i64> {
    None
}

fn times(metadata: &Metadata) -> FileTimes {
    FileTimes { modified: nanoseconds(metadata.modified()), changed: changed(metadata) }
}

/// Whether a name is one that a model's loader may open.
fn is_of_a_model(name: &str) -> bool {
    let extension = Path::new(name).extension().and_then(|e| e.to_str()).unwrap_or_default();
    matches!(extension, "json" | "safetensors" | "jinja" | "gguf" | "model" | "txt") && !name.starts_with('.')
}

/// The files of `model-00001-of-00003.gguf` and its like: all parts, whichever is named.
fn parts(path: &Path) -> Option<Vec<PathBuf>> {
    let name = path.file_name()?.to_str()?;
    let (stem, extension) = name.rsplit_once('.')?;
    let (head, count) = stem.rsplit_once("-of-")?;
    let (head, number) = head.rsplit_once('-')?;
    let total: u32 = count.parse().ok()?;
    let width = number.len();
    if number.parse::<u32>().is_err() || total > 10_000 {
        return None;
    }
    let part = |n: u32| path.with_file_name(format!("{head}-{n:0width$}-of-{count}.{extension}"));
    Some((1..=total).map(part).filter(|p| p.exists()).collect())
}

/// Every file of an input, with the name that the manifest has for it.
fn list(path: &Path, form: InputForm) -> Result<Vec<(String, PathBuf)>> {
    let metadata = fs::metadata(path).map_err(|e| io_error("reading", path, &e))?;
    let below = |file: PathBuf| {
        let name = file.strip_prefix(path).unwrap_or(&file).to_string_lossy().replace('\\', "/");
        (name, file)
    };
    if metadata.is_file() {
        let split = (form == InputForm::Model).then(|| parts(path)).flatten().unwrap_or_default();
        if split.len() > 1 {
            let name = |file: &Path| file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            return Ok(split.into_iter().map(|file| (name(&file), file)).collect());
        }
        return Ok(vec![(String::new(), path.to_owned())]);
    }
    if !metadata.is_dir() {
        return Err(Error::user(format!("`{}` is neither a file nor a directory", path.display())));
    }
    match form {
        InputForm::Dataset => match listing::files(path) {
            Ok(files) => Ok(files.into_iter().map(below).collect()),
            // A revision without pairs of its own: its files say what it is made of.
            Err(_) => Ok(files_in(path, |_| true)?.into_iter().map(below).collect()),
        },
        InputForm::Model => Ok(files_in(path, is_of_a_model)?.into_iter().map(below).collect()),
        InputForm::Text => Err(Error::user(format!("`{}` is a directory", path.display()))),
    }
}

/// The files directly in a folder whose names are `wanted`, by name.
fn files_in(dir: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(|e| io_error("listing", dir, &e))? {
        let path = entry.map_err(|e| io_error("listing", dir, &e))?.path();
        // The hub's cache has links to its files.
        if path.is_file() && path.file_name().and_then(|n| n.to_str()).is_some_and(&wanted) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// An input as it is now.
struct Found {
    hash: String,
    files: BTreeMap<String, InputFile>,
    stamps: BTreeMap<PathBuf, (u64, FileTimes)>,
}

/// Size and times of every file, without reading any.
fn stamps(path: &Path, form: InputForm) -> Result<BTreeMap<PathBuf, (u64, FileTimes)>> {
    let stamp = |(_, file): (String, PathBuf)| {
        let metadata = fs::metadata(&file).map_err(|e| io_error("reading", &file, &e))?;
        Ok((file, (metadata.len(), times(&metadata))))
    };
    list(path, form)?.into_iter().map(stamp).collect()
}

/// Hashes an input's files, but for large ones that have the size and times that `known` has for them.
fn look(path: &Path, form: InputForm, known: Option<&InputEntry>) -> Result<Found> {
    let hash_one = |(name, file): (String, PathBuf)| -> Result<(String, InputFile, PathBuf, (u64, FileTimes))> {
        let metadata = fs::metadata(&file).map_err(|e| io_error("reading", &file, &e))?;
        if !metadata.is_file() {
            return Err(Error::user(format!("`{}` is no regular file", file.display())));
        }
        let (bytes, now) = (metadata.len(), times(&metadata));
        let before = known.and_then(|k| k.files.get(&name)).filter(|f| f.bytes == bytes && f.times == Some(now));
        if let Some(same) = before {
            return Ok((name, same.clone(), file, (bytes, now)));
        }
        let (hash, bytes) = hash_file(&file)?;
        let age = metadata.modified().ok().and_then(|t| SystemTime::now().duration_since(t).ok());
        let trusted = bytes >= LARGE && age.is_some_and(|age| age > SETTLED);
        Ok((name, InputFile { bytes, hash, times: trusted.then_some(now) }, file, (bytes, now)))
    };
    let each: Vec<_> = list(path, form)?.into_par_iter().map(hash_one).collect::<Result<_>>()?;
    let mut found = Found { hash: String::new(), files: BTreeMap::new(), stamps: BTreeMap::new() };
    for (name, file, path, stamp) in each {
        found.files.insert(name, file);
        found.stamps.insert(path, stamp);
    }
    let mut hasher = blake3::Hasher::new();
    for (name, file) in &found.files {
        hasher.update(format!("{name}\0{}\0{}\n", file.bytes, file.hash).as_bytes());
    }
    found.hash = hasher.finalize().to_hex().to_string();
    if found.files.len() > MAX_LISTED {
        found.files.clear();
    }
    Ok(found)
}

impl InputEntry {
    /// What of the input differs from `found`, for people; `None` if nothing does.
    fn difference(&self, found: &Found) -> Option<String> {
        if self.hash == found.hash {
            return None;
        }
        let mut files = Vec::new();
        let place = |name: &str| if name.is_empty() { self.path.clone() } else { format!("{}/{name}", self.path) };
        for (name, file) in &self.files {
            match found.files.get(name) {
                Some(now) if now.bytes == file.bytes && now.hash == file.hash => {}
                Some(now) if now.bytes == file.bytes => files.push(format!("`{}` has other content", place(name))),
                Some(now) => {
                    files.push(format!("`{}` has {} bytes, it had {}", place(name), now.bytes, file.bytes));
                }
                None => files.push(format!("`{}` is gone", place(name))),
            }
        }
        for name in found.files.keys().filter(|name| !self.files.is_empty() && !self.files.contains_key(*name)) {
            files.push(format!("`{}` is new", place(name)));
        }
        let more = files.len().saturating_sub(3);
        files.truncate(3);
        let mut words = files.join(", ");
        if words.is_empty() {
            words = format!("`{}` has other content", self.path);
        }
        if more > 0 {
            words += &format!(" and {more} more files");
        }
        Some(format!("{words} ({}.{})", self.table, self.key))
    }
}

/// The error for inputs that are not what the run read before.
pub fn changed_error(run: &Run, what: &[String]) -> Error {
    Error::user(format!(
        "the run `{}` read other inputs than are here now:\n  {}",
        run.dir().display(),
        what.join("\n  ")
    ))
}

impl Run {
    /// Compares an input with the manifest before it is read, or records it there when it is read for the first time.
    ///
    /// # Errors
    /// The input is not what the run read before; it cannot be read; a full disk.
    pub fn read_input(&self, place: &InputPlace<'_>) -> Result<()> {
        let id = (place.table.to_owned(), place.key.to_owned());
        // Held while hashing: whoever else wants this input waits instead of hashing it twice.
        let mut seen = self.seen_inputs();
        if let Some(before) = seen.get(&id)
            && *before == stamps(place.path, place.form)?
        {
            return Ok(());
        }
        let known = self.input(place.table, place.key);
        let found = look(place.path, place.form, known.as_ref())?;
        let read_before = place.content.filter(|_| found.files.len() == 1);
        if let (Some(read), Some(now)) = (read_before, found.files.values().next())
            && now.hash != read
        {
            let what = format!("`{}` has changed since the pipeline file was checked", place.path.display());
            return Err(changed_error(self, &[what]));
        }
        match known {
            Some(known) => {
                if let Some(what) = known.difference(&found) {
                    return Err(
                        changed_error(self, &[what]).help("give it back its content, or start another run with --name")
                    );
                }
            }
            None => self.record_input(InputEntry {
                table: id.0.clone(),
                key: id.1.clone(),
                path: place.path.to_string_lossy().into_owned(),
                form: place.form,
                revision: place.revision.map(str::to_owned),
                hash: found.hash,
                files: found.files,
            })?,
        }
        seen.insert(id, found.stamps);
        Ok(())
    }

    /// The recorded inputs of the tables that `wanted` names which are not what was read before.
    ///
    /// # Errors
    /// An input is there and cannot be read.
    pub fn changed_inputs(&self, wanted: &dyn Fn(&InputEntry) -> bool) -> Result<Vec<ChangedInput>> {
        let mut changed = Vec::new();
        for entry in self.inputs().into_iter().filter(|e| wanted(e)) {
            let path = Path::new(&entry.path);
            let what = match fs::metadata(path) {
                // A model of the hub is fetched again, at the commit that is recorded.
                Err(_) if entry.revision.is_some() => None,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    Some(format!("`{}` is gone ({}.{})", entry.path, entry.table, entry.key))
                }
                _ => entry.difference(&look(path, entry.form, Some(&entry))?),
            };
            changed.extend(what.map(|what| ChangedInput { table: entry.table.clone(), what }));
        }
        Ok(changed)
    }

    /// Compares the inputs that this process has read with what they were then. A run that ends checks this, because an input
    /// that changes while it is read gives rows of both.
    ///
    /// # Errors
    /// An input has changed or cannot be read.
    pub fn check_inputs_again(&self) -> Result<()> {
        let seen = self.seen_inputs().clone();
        let unchanged = |e: &InputEntry| {
            let before = seen.get(&(e.table.clone(), e.key.clone()));
            before.is_none_or(|before| stamps(Path::new(&e.path), e.form).is_ok_and(|now| now == *before))
        };
        let changed = self.changed_inputs(&|e| !unchanged(e))?;
        if changed.is_empty() {
            return Ok(());
        }
        let what: Vec<String> = changed.into_iter().map(|c| c.what).collect();
        Err(changed_error(self, &what))
    }

    fn record_input(&self, entry: InputEntry) -> Result<()> {
        self.record_if_open(Entry::Input(entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place<'a>(path: &'a Path, form: InputForm) -> InputPlace<'a> {
        InputPlace { table: "step.p", key: "dataset", path, form, revision: None, content: None }
    }
    fn open(dir: &Path) -> Run {
        Run::create_or_open(&dir.join("run"), "[step.p]\n", 1, false).unwrap().0
    }
    fn all(_: &InputEntry) -> bool {
        true
    }

    #[test]
    fn an_input_is_recorded_once_and_a_change_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.jsonl");
        fs::write(&path, "{\"a\": 1}\n").unwrap();
        {
            let run = open(dir.path());
            run.read_input(&place(&path, InputForm::Dataset)).unwrap();
            run.read_input(&place(&path, InputForm::Dataset)).unwrap();
            assert_eq!(run.inputs().len(), 1);
            run.check_inputs_again().unwrap();
        }
        let run = open(dir.path());
        assert!(run.changed_inputs(&all).unwrap().is_empty());
        // The same size, and even the same time of modification.
        let before = fs::metadata(&path).unwrap().modified().unwrap();
        fs::write(&path, "{\"a\": 2}\n").unwrap();
        fs::File::options().append(true).open(&path).unwrap().set_modified(before).unwrap();
        let changed = run.changed_inputs(&all).unwrap();
        assert!(changed[0].what.contains("p.jsonl` has other content (step.p.dataset)"), "{changed:?}");
        let refused = run.read_input(&place(&path, InputForm::Dataset)).unwrap_err().to_string();
        assert!(refused.contains("other inputs") && refused.contains("p.jsonl"), "{refused}");
        fs::remove_file(&path).unwrap();
        assert!(run.changed_inputs(&all).unwrap()[0].what.contains("is gone"));
        fs::write(&path, "{\"a\": 1}\n").unwrap();
        run.read_input(&place(&path, InputForm::Dataset)).unwrap();
    }

    #[test]
    fn a_change_while_the_run_reads_is_found_at_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rubric.jinja");
        fs::write(&path, "A").unwrap();
        let run = open(dir.path());
        run.read_input(&place(&path, InputForm::Text)).unwrap();
        fs::write(&path, "B, and longer").unwrap();
        assert!(run.check_inputs_again().unwrap_err().to_string().contains("13 bytes, it had 1"));
        assert!(run.read_input(&place(&path, InputForm::Text)).is_err());
    }

    #[test]
    fn a_folder_is_what_its_loader_reads() {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("model");
        fs::create_dir(&model).unwrap();
        for name in ["config.json", "model.safetensors", "README.md", "training.log"] {
            fs::write(model.join(name), name).unwrap();
        }
        let run = open(dir.path());
        run.read_input(&place(&model, InputForm::Model)).unwrap();
        let files: Vec<String> = run.inputs()[0].files.keys().cloned().collect();
        assert_eq!(files, ["config.json", "model.safetensors"]);
        fs::write(model.join("README.md"), "more").unwrap();
        assert!(run.changed_inputs(&all).unwrap().is_empty(), "nobody reads it");
        fs::write(model.join("tokenizer.json"), "{}").unwrap();
        assert!(run.changed_inputs(&all).unwrap()[0].what.contains("tokenizer.json` is new"));
    }

    #[test]
    fn a_split_gguf_has_all_of_its_parts() {
        let dir = tempfile::tempdir().unwrap();
        for n in 1..=3 {
            fs::write(dir.path().join(format!("m-0000{n}-of-00003.gguf")), format!("{n}")).unwrap();
        }
        let first = dir.path().join("m-00001-of-00003.gguf");
        let names: Vec<String> = list(&first, InputForm::Model).unwrap().into_iter().map(|(n, _)| n).collect();
        assert_eq!(names, ["m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"]);
    }

    #[test]
    fn large_files_of_the_same_size_and_times_are_not_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.gguf");
        fs::write(&path, vec![7; LARGE as usize]).unwrap();
        let long_ago = SystemTime::now() - Duration::from_secs(3600);
        fs::File::options().append(true).open(&path).unwrap().set_modified(long_ago).unwrap();
        let first = look(&path, InputForm::Model, None).unwrap();
        let mut entry = InputEntry {
            table: "model.m".into(),
            key: "path".into(),
            path: path.display().to_string(),
            form: InputForm::Model,
            revision: None,
            hash: first.hash.clone(),
            files: first.files,
        };
        // A hash that the bytes do not have shows that they were not read.
        entry.files.get_mut("").unwrap().hash = "0".repeat(64);
        let again = look(&path, InputForm::Model, Some(&entry)).unwrap();
        assert_eq!(again.files[""].hash, "0".repeat(64));
        fs::File::options().append(true).open(&path).unwrap().set_modified(SystemTime::now()).unwrap();
        assert_eq!(look(&path, InputForm::Model, Some(&entry)).unwrap().hash, first.hash);
    }
}
