//! Replies of servers that are paid for and not committed yet. A microbatch that was interrupted finds them again.
//!
//! `replies/STEP/iteration=I/microbatch=M.jsonl` has a line for each reply, with a checksum. It is removed once the
//! microbatch is committed; what its replies cost is then a line of `replies/usage.jsonl`. Neither is part of the
//! manifest: a damaged or missing line only means that a request is sent again.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::checksum::{with_checksum, without_checksum};
use super::owned::{is_link, refuse_links_to, remove_empty, remove_file};
use crate::data::{Epoch, open_regular};
use crate::error::{Error, Result};
use crate::store::files::atomic::{create_dirs, write_bytes};
use crate::store::files::io_error::io_error;

/// Folder of the replies in a run.
pub(crate) const FOLDER: &str = "replies";
/// File in it with the usage of committed microbatches.
pub(crate) const USAGE: &str = "usage.jsonl";
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
pub(crate) struct ReplyLine {
    /// Hash of the request, in hex.
    pub request: String,
    /// The model in the pipeline file.
    pub model: String,
    #[serde(flatten)]
    pub usage: ReplyUsage,
    /// The body.
    pub reply: String,
}

/// A line of the usage file.
#[derive(Serialize, Deserialize)]
pub(crate) struct UsageLine {
    pub model: String,
    pub step: String,
    pub iteration: u32,
    pub microbatch: u32,
    #[serde(flatten)]
    pub usage: ReplyUsage,
}

/// A line with its checksum and line end.
pub(crate) fn encode(line: &impl Serialize) -> Result<Vec<u8>> {
    let json = serde_json::to_vec(line).map_err(|e| Error::bug(e.to_string()))?;
    let mut line = with_checksum(&json).ok_or_else(|| Error::bug("a line of replies is an object"))?;
    line.push(b'\n');
    Ok(line)
}

/// Maximum bytes of a line. No reply is as long; a longer line is damage that could take all memory.
const MAX_LINE: u64 = 256 << 20;

/// What was read from a file of lines.
pub(crate) struct LinesRead<T> {
    /// The undamaged lines.
    pub lines: Vec<T>,
    /// Number of lines that do not match their checksum, or have none.
    pub damaged: usize,
    /// Bytes up to the end of the last complete line. What follows was cut by a crash, or is no line.
    pub whole: u64,
}

impl<T> LinesRead<T> {
    fn none() -> Self {
        Self { lines: Vec::new(), damaged: 0, whole: 0 }
    }
}

/// Opens a file of lines for appending. `whole` are its complete lines in bytes: a crash may have cut another one, which
/// is removed.
pub(crate) fn append_to(path: &Path, whole: u64) -> Result<File> {
    let fail = |e: std::io::Error| io_error("opening", path, &e);
    if let Some(above) = path.parent() {
        create_dirs(above)?;
    }
    let file = OpenOptions::new().create(true).append(true).open(path).map_err(fail)?;
    if file.metadata().map_err(fail)?.len() > whole {
        file.set_len(whole).map_err(fail)?;
    }
    Ok(file)
}

/// Reads a file of lines; none if it does not exist.
pub(crate) fn read_lines<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<LinesRead<T>> {
    let fail = |e: std::io::Error| io_error("reading", path, &e);
    let mut read = LinesRead::none();
    let mut file = match open_regular(path) {
        Ok(file) => BufReader::new(file),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(read),
        Err(e) => return Err(fail(e)),
    };
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = (&mut file).take(MAX_LINE).read_until(b'\n', &mut line).map_err(fail)? as u64;
        if line.pop() != Some(b'\n') {
            // The last line may be cut. One that does not end is not read further.
            read.damaged += usize::from(length == MAX_LINE);
            return Ok(read);
        }
        read.whole += length;
        // A line without a checksum is damaged too, although a manifest's may lack it.
        let json = line.starts_with(b"{\"sum\":").then(|| without_checksum(&line).ok()).flatten();
        match json.and_then(|json| serde_json::from_slice(&json).ok()) {
            Some(line) => read.lines.push(line),
            None => read.damaged += 1,
        }
    }
}

/// The files of replies with damaged lines, and the numbers of these and of the others.
pub(crate) fn damaged_files(run: &Path) -> Vec<(String, usize, usize)> {
    let mut found = Vec::new();
    let mut look = |path: String, read: Result<(usize, usize)>| match read {
        Ok((damaged, lines)) if damaged > 0 => found.push((path, damaged, lines)),
        // A file that cannot be read is refused by the run itself, and one of a running run may be gone.
        _ => {}
    };
    for (step, epoch) in all(run) {
        let path = path_of(&step, epoch);
        look(path.clone(), read_lines::<ReplyLine>(&run.join(&path)).map(|read| (read.damaged, read.lines.len())));
    }
    if !is_link(&run.join(FOLDER)) {
        let path = format!("{FOLDER}/{USAGE}");
        look(path.clone(), read_lines::<UsageLine>(&run.join(&path)).map(|read| (read.damaged, read.lines.len())));
    }
    found
}

/// Rewrites a file of replies without its damaged lines.
///
/// # Errors
/// The file cannot be read or written.
pub(crate) fn drop_damaged(run: &Path, path: &str) -> Result<()> {
    fn rewrite<T: Serialize + for<'a> Deserialize<'a>>(path: &Path) -> Result<()> {
        let mut bytes = Vec::new();
        for line in read_lines::<T>(path)?.lines {
            bytes.extend(encode(&line)?);
        }
        write_bytes(path, &bytes).map(drop)
    }
    refuse_links_to(run, path)?;
    match path.ends_with(USAGE) {
        true => rewrite::<UsageLine>(&run.join(path)),
        false => rewrite::<ReplyLine>(&run.join(path)),
    }
}

/// Path of a microbatch's replies in its run.
pub(crate) fn path_of(step: &str, epoch: Epoch) -> String {
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
pub(crate) fn all(run: &Path) -> Vec<(String, Epoch)> {
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
    remove_empty_folders(run);
    if !is_link(&run.join(FOLDER)) {
        remove_file(&run.join(FOLDER).join(USAGE))?;
        remove_empty(&run.join(FOLDER), run);
    }
    Ok(())
}

/// Removes a microbatch's replies.
pub(crate) fn remove(run: &Path, step: &str, epoch: Epoch) -> Result<()> {
    // The folder stays: another microbatch may be about to write into it.
    remove_file(&run.join(path_of(step, epoch)))
}

/// Removes the folders without replies, when no microbatch is at work.
pub(crate) fn remove_empty_folders(run: &Path) {
    let folders = |dir: &Path| -> Vec<PathBuf> {
        let entries = if is_link(dir) { None } else { fs::read_dir(dir).ok() };
        entries.into_iter().flatten().flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
    };
    for step in folders(&run.join(FOLDER)) {
        for iteration in folders(&step) {
            remove_empty(&iteration, &run.join(FOLDER));
        }
        remove_empty(&step, &run.join(FOLDER));
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
}
