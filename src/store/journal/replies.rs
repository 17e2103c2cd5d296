//! Replies of servers that are paid for and not committed yet, as a microbatch that was interrupted finds them again.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::owned::refuse_links_to;
use super::reply_files::{
    FOLDER, ReplyLine, ReplyUsage, USAGE, UsageLine, all, append_to, encode, lines, path_of, remove,
};
use super::run::Run;
use crate::data::Epoch;
use crate::error::Result;
use crate::store::files::io_error::io_error;

/// Longest time for which a reply is only in the memory of the operating system. A crash of the machine loses these
/// replies, and a crash of the process none.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// The replies of a microbatch to requests for one model.
pub struct Replies {
    path: PathBuf,
    model: String,
    state: Mutex<RepliesState>,
}

#[derive(Default)]
struct RepliesState {
    /// Bodies by the hash of the request.
    found: HashMap<String, Vec<u8>>,
    file: Option<File>,
    synced: Option<Instant>,
}

impl Replies {
    fn state(&self) -> MutexGuard<'_, RepliesState> {
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

impl Run {
    /// The replies that a microbatch already has from the servers of a model.
    ///
    /// # Errors
    /// The file exists and cannot be read, or is reached through a link.
    pub fn replies(&self, step: &str, epoch: Epoch, model: &str) -> Result<Replies> {
        let path = path_of(step, epoch);
        refuse_links_to(self.dir(), &path)?;
        let path = self.dir().join(path);
        let lines = lines::<ReplyLine>(&path)?.into_iter().filter(|line| line.model == model);
        let found = lines.map(|line| (line.request, line.reply.into_bytes())).collect();
        let state = Mutex::new(RepliesState { found, ..RepliesState::default() });
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
        refuse_links_to(self.dir(), &format!("{FOLDER}/{USAGE}"))?;
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
    use std::fs;

    use super::super::reply_files::remove_all;
    use super::*;

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
    fn a_link_in_place_of_a_folder_or_file_is_refused() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let (run, _) = Run::create_or_open(&dir.path().join("run"), "[pipeline]\nname = \"x\"\n", 1, false).unwrap();
        let (epoch, elsewhere) = (Epoch::new(1, 0), dir.path().join("elsewhere"));
        fs::create_dir_all(&elsewhere).unwrap();
        fs::write(elsewhere.join("file"), "theirs").unwrap();
        let folder = run.dir().join("replies");
        for (link, to) in [
            ("a", elsewhere.clone()),
            ("a/iteration=1", elsewhere.clone()),
            ("a/iteration=1/microbatch=00000.jsonl", elsewhere.join("file")),
        ] {
            fs::create_dir_all(folder.join(link).parent().unwrap()).unwrap();
            symlink(to, folder.join(link)).unwrap();
            let error = run.replies("a", epoch, "judge").err().unwrap().to_string();
            assert!(error.contains("is a link"), "{link}: {error}");
            fs::remove_dir_all(&folder).unwrap();
        }
        run.replies("a", epoch, "judge").unwrap().keep(&[1; 32], b"{}", ReplyUsage::default()).unwrap();
        symlink(elsewhere.join("file"), folder.join("usage.jsonl")).unwrap();
        assert!(run.close_replies("a", epoch).err().unwrap().to_string().contains("is a link"));
        assert_eq!(fs::read_to_string(elsewhere.join("file")).unwrap(), "theirs");
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 1);
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
