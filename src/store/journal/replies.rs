//! Replies of servers that are paid for and not committed yet. A microbatch that was interrupted finds them again.
//!
//! `replies/STEP/iteration=I/microbatch=M.jsonl` has a line for each reply, with a checksum. It is removed once the
//! microbatch is committed; what its replies cost is then a line of `replies/usage.jsonl`. Neither is part of the
//! manifest: a damaged or missing line only means that a request is sent again.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::checksum::{with_checksum, without_checksum};
use super::owned::{is_link, remove_empty, remove_file};
use super::run::Run;
use crate::data::{Epoch, open_regular};
use crate::error::{Error, Result};
use crate::store::files::atomic::create_dirs;
use crate::store::files::io_error::io_error;

/// Folder of the replies in a run.
pub(crate) const FOLDER: &str = "replies";
/// File in it with the usage of committed microbatches.
const USAGE: &str = "usage.jsonl";
/// Longest time for which a reply is only in the memory of the operating system. A crash of the machine loses these
/// replies, and a crash of the process none.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// What a server counted for a reply, or for several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplyUsage {
    /// Tokens of prompts.
    pub prompt: u64,
    /// The part of them that was in the server's cache.
    pub cached: u64,
    /// Tokens of answers.
    pub sampled: u64,
}

impl std::ops::AddAssign for ReplyUsage {
    fn add_assign(&mut self, other: Self) {
        self.prompt = self.prompt.saturating_add(other.prompt);
        self.cached = self.cached.saturating_add(other.cached);
        self.sampled = self.sampled.saturating_add(other.sampled);
    }
}

/// A line of a microbatch's replies.
#[derive(Serialize, Deserialize)]
struct ReplyLine {
    /// Hash of the request, in hex.
    request: String,
    /// The model in the pipeline file.
    model: String,
    #[serde(flatten)]
    usage: ReplyUsage,
    /// The body.
    reply: String,
}

/// A line of the usage file.
#[derive(Serialize, Deserialize)]
struct UsageLine {
    model: String,
    step: String,
    iteration: u32,
    microbatch: u32,
    #[serde(flatten)]
    usage: ReplyUsage,
}

/// The replies of a microbatch to requests for one model.
pub struct Replies {
    path: PathBuf,
    model: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Bodies by the hash of the request.
    found: HashMap<String, Vec<u8>>,
    file: Option<File>,
    synced: Option<Instant>,
}

impl Replies {
    fn state(&self) -> MutexGuard<'_, State> {
        // A line is appended in one write, and the map only repeats the file.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The reply to a request, by the request's hash.
    pub fn find(&self, request: &[u8; 32]) -> Option<Vec<u8>> {
        self.state().found.get(&blake3::Hash::from_bytes(*request).to_hex().to_string()).cloned()
    }

    /// Appends a reply.
    ///
    /// # Errors
    /// The disk is full.
    pub fn keep(&self, request: &[u8; 32], body: &[u8], usage: ReplyUsage) -> Result<()> {
        let fail = |e: std::io::Error| io_error("writing", &self.path, &e);
        let request = blake3::Hash::from_bytes(*request).to_hex().to_string();
        let reply = String::from_utf8_lossy(body).into_owned();
        let line = encode(&ReplyLine { request, model: self.model.clone(), usage, reply })?;
        let mut state = self.state();
        if state.file.is_none() {
            state.file = Some(append_to(&self.path)?);
            state.synced = Some(Instant::now());
        }
        let due = state.synced.is_some_and(|at| at.elapsed() >= SYNC_INTERVAL);
        if let Some(file) = &mut state.file {
            file.write_all(&line).map_err(fail)?;
            if due {
                file.sync_data().map_err(fail)?;
            }
        }
        if due {
            state.synced = Some(Instant::now());
        }
        Ok(())
    }
}

/// A line with its checksum and line end.
fn encode(line: &impl Serialize) -> Result<Vec<u8>> {
    let json = serde_json::to_vec(line).map_err(|e| Error::bug(e.to_string()))?;
    let mut line = with_checksum(&json).ok_or_else(|| Error::bug("a line of replies is an object"))?;
    line.push(b'\n');
    Ok(line)
}

/// Opens a file of lines for appending, and ends a line that a crash has cut.
fn append_to(path: &Path) -> Result<File> {
    let fail = |e: std::io::Error| io_error("opening", path, &e);
    if let Some(above) = path.parent() {
        create_dirs(above)?;
    }
    let mut file = OpenOptions::new().create(true).read(true).append(true).open(path).map_err(fail)?;
    if file.seek(SeekFrom::End(0)).map_err(fail)? > 0 {
        file.seek(SeekFrom::End(-1)).map_err(fail)?;
        let mut last = [0];
        file.read_exact(&mut last).map_err(fail)?;
        if last != *b"\n" {
            file.write_all(b"\n").map_err(fail)?;
        }
    }
    Ok(file)
}

/// The undamaged lines of a file; none if it does not exist.
fn lines<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Vec<T>> {
    let mut bytes = Vec::new();
    match open_regular(path) {
        Ok(mut file) => file.read_to_end(&mut bytes).map_err(|e| io_error("reading", path, &e))?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(io_error("reading", path, &e)),
    };
    // A line without a checksum is damaged too, although a manifest's may lack it.
    let line = |line: &[u8]| -> Option<T> {
        let json = line.starts_with(b"{\"sum\":").then(|| without_checksum(line).ok()).flatten()?;
        serde_json::from_slice(&json).ok()
    };
    Ok(bytes.split(|b| *b == b'\n').filter_map(line).collect())
}

fn path_of(step: &str, epoch: Epoch) -> String {
    format!("{FOLDER}/{step}/iteration={}/microbatch={:05}.jsonl", epoch.iteration, epoch.microbatch)
}

/// The microbatch whose replies are in the file with this path in the run, if it is such a file.
pub(crate) fn microbatch_of(path: &str) -> Option<(&str, Epoch)> {
    let parts: Vec<&str> = path.split('/').collect();
    let [FOLDER, step, iteration, name] = parts[..] else { return None };
    let digits = name.strip_prefix("microbatch=")?.strip_suffix(".jsonl")?;
    let epoch = Epoch::new(iteration.strip_prefix("iteration=")?.parse().ok()?, digits.parse().ok()?);
    // Only the exact spelling is ours.
    (path_of(step, epoch) == path).then_some((step, epoch))
}

/// Whether a path in a run is that of the usage file or of a microbatch's replies.
pub(crate) fn is_ours(path: &str) -> bool {
    path.strip_prefix(FOLDER).is_some_and(|rest| rest.strip_prefix('/') == Some(USAGE)) || microbatch_of(path).is_some()
}

/// The microbatches of a run with replies on disk.
fn all(run: &Path) -> Vec<(String, Epoch)> {
    let names = |dir: &Path| -> Vec<String> {
        let entries = if is_link(dir) { None } else { fs::read_dir(dir).ok() };
        entries.into_iter().flatten().flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect()
    };
    let mut found = Vec::new();
    for step in names(&run.join(FOLDER)) {
        for iteration in names(&run.join(FOLDER).join(&step)) {
            for name in names(&run.join(FOLDER).join(&step).join(&iteration)) {
                let path = format!("{FOLDER}/{step}/{iteration}/{name}");
                found.extend(microbatch_of(&path).map(|(step, epoch)| (step.to_owned(), epoch)));
            }
        }
    }
    found.sort();
    found
}

/// Removes the replies of a run and its usage file.
///
/// # Errors
/// A file cannot be removed.
pub(crate) fn remove_all(run: &Path) -> Result<()> {
    for (step, epoch) in all(run) {
        remove(run, &step, epoch)?;
    }
    if !is_link(&run.join(FOLDER)) {
        remove_file(&run.join(FOLDER).join(USAGE))?;
        remove_empty(&run.join(FOLDER), run);
    }
    Ok(())
}

fn remove(run: &Path, step: &str, epoch: Epoch) -> Result<()> {
    let path = run.join(path_of(step, epoch));
    remove_file(&path)?;
    if let Some(above) = path.parent() {
        remove_empty(above, &run.join(FOLDER));
    }
    Ok(())
}

impl Run {
    /// The replies that a microbatch already has from the servers of a model.
    ///
    /// # Errors
    /// The file exists and cannot be read.
    pub fn replies(&self, step: &str, epoch: Epoch, model: &str) -> Result<Replies> {
        let path = self.dir().join(path_of(step, epoch));
        let lines = lines::<ReplyLine>(&path)?.into_iter().filter(|line| line.model == model);
        let found = lines.map(|line| (line.request, line.reply.into_bytes())).collect();
        let state = Mutex::new(State { found, ..State::default() });
        Ok(Replies { path, model: model.to_owned(), state })
    }

    /// Adds the cost of a committed microbatch's replies to the usage file, and removes the replies. Does nothing
    /// where there are none.
    ///
    /// # Errors
    /// The disk is full.
    pub(crate) fn close_replies(&self, step: &str, epoch: Epoch) -> Result<()> {
        let lines = lines::<ReplyLine>(&self.dir().join(path_of(step, epoch)))?;
        if lines.is_empty() {
            return Ok(());
        }
        let mut sums: BTreeMap<String, ReplyUsage> = BTreeMap::new();
        lines.into_iter().for_each(|line| *sums.entry(line.model).or_default() += line.usage);
        let path = self.dir().join(FOLDER).join(USAGE);
        let mut text = Vec::new();
        for (model, usage) in sums {
            let Epoch { iteration, microbatch } = epoch;
            text.extend(encode(&UsageLine { model, step: step.to_owned(), iteration, microbatch, usage })?);
        }
        let mut file = append_to(&path)?;
        file.write_all(&text).and_then(|()| file.sync_data()).map_err(|e| io_error("writing", &path, &e))?;
        remove(self.dir(), step, epoch)
    }

    /// Closes the replies of microbatches that were committed just before a crash.
    pub(crate) fn close_committed_replies(&self) -> Result<()> {
        for (step, epoch) in all(self.dir()) {
            if self.committed(&step, epoch).is_some() {
                self.close_replies(&step, epoch)?;
            }
        }
        Ok(())
    }

    /// What a model's servers have counted in this run, in all its processes. Replies of microbatches that are not
    /// committed are left out: those are counted when they are found again.
    ///
    /// # Errors
    /// The usage file cannot be read.
    pub fn reply_usage(&self, model: &str) -> Result<ReplyUsage> {
        // A crash between the line and the removal of the replies leaves two lines for a microbatch.
        let lines = lines::<UsageLine>(&self.dir().join(FOLDER).join(USAGE))?;
        let lines = lines.into_iter().filter(|line| line.model == model);
        let last: BTreeMap<(String, u32, u32), ReplyUsage> =
            lines.map(|line| ((line.step, line.iteration, line.microbatch), line.usage)).collect();
        let mut sum = ReplyUsage::default();
        last.into_values().for_each(|usage| sum += usage);
        Ok(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exact_paths_are_ours() {
        let epoch = Epoch::new(2, 7);
        assert_eq!(microbatch_of(&path_of("answers", epoch)), Some(("answers", epoch)));
        assert!(is_ours("replies/usage.jsonl") && is_ours(&path_of("answers", epoch)));
        for theirs in [
            "replies/notes.txt",
            "replies/answers/iteration=2/microbatch=7.jsonl",
            "replies/answers/iteration=02/microbatch=00007.jsonl",
            "replies/answers/microbatch=00007.jsonl",
            "repliesusage.jsonl",
            "data/answers/iteration=2/microbatch=00007.jsonl",
        ] {
            assert!(!is_ours(theirs), "{theirs}");
        }
    }

    #[test]
    fn replies_are_found_again_whatever_was_cut() {
        let dir = tempfile::tempdir().unwrap();
        let (run, _) = Run::create_or_open(&dir.path().join("run"), "[pipeline]\nname = \"x\"\n", 1, false).unwrap();
        let epoch = Epoch::new(1, 0);
        let usage = ReplyUsage { prompt: 10, cached: 4, sampled: 3 };
        let replies = run.replies("answers", epoch, "judge").unwrap();
        replies.keep(&[1; 32], b"one", usage).unwrap();
        replies.keep(&[2; 32], b"two", usage).unwrap();
        let path = run.dir().join(path_of("answers", epoch));
        let whole = fs::read(&path).unwrap();
        // A crash may cut the file anywhere: the whole lines before the cut are found.
        let first = whole.iter().position(|b| *b == b'\n').unwrap();
        for cut in 0..=whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let again = run.replies("answers", epoch, "judge").unwrap();
            assert_eq!(again.find(&[1; 32]).is_some(), cut >= first, "cut at {cut}");
            again.keep(&[3; 32], b"three", usage).unwrap();
            let third = run.replies("answers", epoch, "judge").unwrap();
            assert_eq!(third.find(&[3; 32]).as_deref(), Some(&b"three"[..]), "cut at {cut}");
            assert_eq!(third.find(&[1; 32]).as_deref(), (cut >= first).then_some(&b"one"[..]));
        }
        // Another model's replies are its own.
        assert!(run.replies("answers", epoch, "other").unwrap().find(&[1; 32]).is_none());
        fs::write(&path, &whole).unwrap();
        assert_eq!(run.reply_usage("judge").unwrap(), ReplyUsage::default());
        for _ in 0..2 {
            // As after a crash between the usage line and the removal.
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &whole).unwrap();
            run.close_replies("answers", epoch).unwrap();
            assert!(!path.exists());
            assert_eq!(run.reply_usage("judge").unwrap(), ReplyUsage { prompt: 20, cached: 8, sampled: 6 });
        }
        fs::write(run.dir().join("replies/notes.txt"), "mine").unwrap();
        remove_all(run.dir()).unwrap();
        assert!(run.dir().join("replies/notes.txt").exists() && !run.dir().join("replies/usage.jsonl").exists());
    }

    #[test]
    fn a_changed_bit_is_not_a_reply() {
        let dir = tempfile::tempdir().unwrap();
        let (run, _) = Run::create_or_open(&dir.path().join("run"), "[pipeline]\nname = \"x\"\n", 1, false).unwrap();
        let epoch = Epoch::new(1, 0);
        run.replies("a", epoch, "judge").unwrap().keep(&[1; 32], b"{\"x\": 1}", ReplyUsage::default()).unwrap();
        let path = run.dir().join(path_of("a", epoch));
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() - 1 {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(&path, &damaged).unwrap();
            assert!(run.replies("a", epoch, "judge").unwrap().find(&[1; 32]).is_none(), "byte {at}");
        }
    }
}
