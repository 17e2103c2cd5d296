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
pub(crate) struct Found {
    pub hash: String,
    pub files: BTreeMap<String, InputFile>,
    pub stamps: BTreeMap<PathBuf, (u64, FileTimes)>,
}

/// Size and times of every file, without reading any.
pub(crate) fn stamps(path: &Path, form: InputForm) -> Result<BTreeMap<PathBuf, (u64, FileTimes)>> {
    let stamp = |(_, file): (String, PathBuf)| {
        let metadata = fs::metadata(&file).map_err(|e| io_error("reading", &file, &e))?;
        Ok((file, (metadata.len(), times(&metadata))))
    };
    list(path, form)?.into_iter().map(stamp).collect()
}

/// Hashes an input's files, but for large ones that have the size and times that `known` has for them.
pub(crate) fn look(path: &Path, form: InputForm, known: Option<&InputEntry>) -> Result<Found> {
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
    pub(crate) fn difference(&self, found: &Found) -> Option<String> {
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
