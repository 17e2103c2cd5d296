//! Files of an external input: which ones belong to it, and their hashes.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rayon::prelude::*;

use super::entry::{FileTimes, InputEntry, InputFile, InputForm};
use crate::error::{Error, Result};
use crate::store::files::integrity::hash_file;
use crate::store::files::io_error::io_error;
use crate::store::files::listing;

/// Files of at least this many bytes are not hashed again while their size and timestamps are unchanged.
pub const LARGE_FILE: u64 = 16 << 20;

/// Folders with more files than this get a single hash, to keep the manifest line short.
pub const MAX_LISTED: usize = 2000;

/// Minimum age of a file before its timestamps are trusted: a younger one may be rewritten within the same
/// tick of the file system's clock.
const SETTLE_TIME: Duration = Duration::from_secs(2);

/// Inputs that this process has compared with the manifest, with the sizes and timestamps of their files at
/// that time.
pub(crate) type CheckedInputs = BTreeMap<(String, String), BTreeMap<PathBuf, (u64, FileTimes)>>;

fn nanoseconds(time: io::Result<SystemTime>) -> i64 {
    // On a system without this timestamp all files get 0, and size and hash decide.
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

/// Whether a model's loader may open a file of this name.
fn is_of_a_model(name: &str) -> bool {
    let extension = Path::new(name).extension().and_then(|e| e.to_str()).unwrap_or_default();
    matches!(extension, "json" | "safetensors" | "jinja" | "gguf" | "model" | "txt") && !name.starts_with('.')
}

/// All parts of a split file such as `model-00001-of-00003.gguf`, given any of them.
fn split_parts(path: &Path) -> Option<Vec<PathBuf>> {
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

/// Every file of an input, with its name in the manifest.
fn list(path: &Path, form: InputForm) -> Result<Vec<(String, PathBuf)>> {
    let metadata = fs::metadata(path).map_err(|e| io_error("reading", path, &e))?;
    let below = |file: PathBuf| {
        let name = file.strip_prefix(path).unwrap_or(&file).to_string_lossy().replace('\\', "/");
        (name, file)
    };
    if metadata.is_file() {
        let split = (form == InputForm::Model).then(|| split_parts(path)).flatten().unwrap_or_default();
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
            // A revision without pairs of its own has no data files; its other files identify it.
            Err(_) => Ok(files_in(path, |_| true)?.into_iter().map(below).collect()),
        },
        InputForm::Model => Ok(files_in(path, is_of_a_model)?.into_iter().map(below).collect()),
        InputForm::Text => Err(Error::user(format!("`{}` is a directory", path.display()))),
    }
}

/// Files directly in a folder whose names are `wanted`, sorted.
fn files_in(dir: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(|e| io_error("listing", dir, &e))? {
        let path = entry.map_err(|e| io_error("listing", dir, &e))?.path();
        // `is_file` follows links, because the hub's cache contains links to its files.
        if path.is_file() && path.file_name().and_then(|n| n.to_str()).is_some_and(&wanted) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Current state of an input.
pub(crate) struct InputSnapshot {
    pub hash: String,
    pub files: BTreeMap<String, InputFile>,
    pub file_stamps: BTreeMap<PathBuf, (u64, FileTimes)>,
}

/// Size and timestamps of every file, without reading any.
pub(crate) fn file_stamps(path: &Path, form: InputForm) -> Result<BTreeMap<PathBuf, (u64, FileTimes)>> {
    let stamp = |(_, file): (String, PathBuf)| {
        let metadata = fs::metadata(&file).map_err(|e| io_error("reading", &file, &e))?;
        Ok((file, (metadata.len(), times(&metadata))))
    };
    list(path, form)?.into_iter().map(stamp).collect()
}

/// Hashes an input's files, except for large ones whose size and timestamps are the same as in `known`.
pub(crate) fn snapshot(path: &Path, form: InputForm, known: Option<&InputEntry>) -> Result<InputSnapshot> {
    let hash_one = |(name, file): (String, PathBuf)| -> Result<(String, InputFile, PathBuf, (u64, FileTimes))> {
        let metadata = fs::metadata(&file).map_err(|e| io_error("reading", &file, &e))?;
        if !metadata.is_file() {
            return Err(Error::user(format!("`{}` is not a regular file", file.display())));
        }
        let (bytes, now) = (metadata.len(), times(&metadata));
        let before = known.and_then(|k| k.files.get(&name)).filter(|f| f.bytes == bytes && f.times == Some(now));
        if let Some(same) = before {
            return Ok((name, same.clone(), file, (bytes, now)));
        }
        let (hash, bytes) = hash_file(&file)?;
        let age = metadata.modified().ok().and_then(|t| SystemTime::now().duration_since(t).ok());
        let trusted = bytes >= LARGE_FILE && age.is_some_and(|age| age > SETTLE_TIME);
        Ok((name, InputFile { bytes, hash, times: trusted.then_some(now) }, file, (bytes, now)))
    };
    let each: Vec<_> = list(path, form)?.into_par_iter().map(hash_one).collect::<Result<_>>()?;
    let mut found = InputSnapshot { hash: String::new(), files: BTreeMap::new(), file_stamps: BTreeMap::new() };
    for (name, file, path, stamp) in each {
        found.files.insert(name, file);
        found.file_stamps.insert(path, stamp);
    }
    let mut hasher = blake3::Hasher::new();
    // Names and sizes are hashed too, so that moving bytes between files changes the hash.
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
    /// Description of the differences between the recorded input and `found`; `None` if they are equal.
    pub(crate) fn difference(&self, found: &InputSnapshot) -> Option<String> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
        fs::write(&path, vec![7; LARGE_FILE as usize]).unwrap();
        let long_ago = SystemTime::now() - Duration::from_secs(3600);
        fs::File::options().append(true).open(&path).unwrap().set_modified(long_ago).unwrap();
        let first = snapshot(&path, InputForm::Model, None).unwrap();
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
        let again = snapshot(&path, InputForm::Model, Some(&entry)).unwrap();
        assert_eq!(again.files[""].hash, "0".repeat(64));
        fs::File::options().append(true).open(&path).unwrap().set_modified(SystemTime::now()).unwrap();
        assert_eq!(snapshot(&path, InputForm::Model, Some(&entry)).unwrap().hash, first.hash);
    }
}
