//! Replies of servers that are paid for and not committed yet, as a microbatch that was interrupted finds them again.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, MutexGuard, PoisonError};

use super::owned::refuse_links_to;
use super::reply_files::{
    FOLDER, LinesRead, ReplyLine, ReplyUsage, USAGE, UsageLine, all, append_to, encode, path_of, read_lines, remove,
};
use super::run::Run;
use super::stored_replies::{Replies, ReplyFile};
use crate::data::{Epoch, counted};
use crate::error::Result;
use crate::store::files::fault::disk_full;
use crate::store::files::io_error::io_error;

impl Run {
    fn open_replies(&self) -> MutexGuard<'_, BTreeMap<(String, Epoch), Arc<ReplyFile>>> {
        self.replies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The replies that a microbatch already has from the servers of a model.
    ///
    /// # Errors
    /// The file exists and cannot be read, or is reached through a link.
    pub fn replies(&self, step: &str, epoch: Epoch, model: &str) -> Result<Replies> {
        let path = path_of(step, epoch);
        refuse_links_to(self.dir(), &path)?;
        let mut open = self.open_replies();
        let key = (step.to_owned(), epoch);
        let file = match open.get(&key) {
            Some(file) => Arc::clone(file),
            None => {
                let file = Arc::new(ReplyFile::open(self.dir().join(path))?);
                open.insert(key, Arc::clone(&file));
                file
            }
        };
        Ok(Replies { file, model: model.to_owned() })
    }

    /// Adds the cost of a committed microbatch's replies to the usage file, and removes the replies. Does nothing
    /// where there are none.
    ///
    /// # Errors
    /// The disk is full.
    pub(crate) fn close_replies(&self, step: &str, epoch: Epoch) -> Result<()> {
        let path = path_of(step, epoch);
        if let Some(file) = self.open_replies().remove(&(step.to_owned(), epoch)) {
            let unused = file.unused();
            if unused > 0 {
                let unused = counted(unused, "stored reply");
                tracing::warn!("`{path}`: {unused} answered no request of this microbatch and had no use");
            }
        }
        refuse_links_to(self.dir(), &path)?;
        let LinesRead { lines, damaged, .. } = read_lines::<ReplyLine>(&self.dir().join(&path))?;
        if lines.is_empty() && damaged == 0 {
            return Ok(());
        }
        let mut sums: BTreeMap<String, ReplyUsage> = BTreeMap::new();
        let mut requests = BTreeSet::new();
        for line in lines {
            if requests.insert((line.model.clone(), line.request)) {
                *sums.entry(line.model).or_default() += line.usage;
            }
        }
        refuse_links_to(self.dir(), &format!("{FOLDER}/{USAGE}"))?;
        let path = self.dir().join(FOLDER).join(USAGE);
        let mut text = Vec::new();
        for (model, usage) in sums {
            let Epoch { iteration, microbatch } = epoch;
            text.extend(encode(&UsageLine { model, step: step.to_owned(), iteration, microbatch, usage })?);
        }
        self.append_usage(&path, &text)?;
        remove(self.dir(), step, epoch)
    }

    /// Appends lines to the usage file, which several microbatches may do at once.
    fn append_usage(&self, path: &Path, text: &[u8]) -> Result<()> {
        let fail = |e: std::io::Error| io_error("writing", path, &e);
        let mut end = self.usage_end.lock().unwrap_or_else(PoisonError::into_inner);
        let whole = match *end {
            Some(whole) => whole,
            None => read_lines::<UsageLine>(path)?.whole,
        };
        // Read again after a failure, which may leave a part of a line.
        *end = None;
        let mut file = append_to(path, whole)?;
        disk_full().and_then(|()| file.write_all(text)).and_then(|()| file.sync_data()).map_err(fail)?;
        *end = Some(whole + text.len() as u64);
        Ok(())
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
        let path = self.dir().join(FOLDER).join(USAGE);
        let LinesRead { lines, damaged, .. } = read_lines::<UsageLine>(&path)?;
        if damaged > 0 {
            let lines = counted(damaged, "line");
            tracing::warn!("`{}`: {lines} were damaged: the run has cost more than is counted", path.display());
        }
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

    use super::super::reply_files::{damaged_files, drop_damaged, remove_all};
    use super::*;
    use crate::store::files::fault::{DISK_FULL, arm};

    /// The replies of the step `answers`, as another process of the run finds them.
    fn reopened(run: &Run, epoch: Epoch) -> Replies {
        run.open_replies().clear();
        run.replies("answers", epoch, "judge").unwrap()
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
            let again = reopened(&run, epoch);
            assert_eq!(again.find(&[1; 32]).is_some(), cut > first, "cut at {cut}");
            again.keep(&[3; 32], b"three", usage).unwrap();
            let third = reopened(&run, epoch);
            assert_eq!(third.find(&[3; 32]).as_deref(), Some(&b"three"[..]), "cut at {cut}");
            assert_eq!(third.find(&[1; 32]).as_deref(), (cut > first).then_some(&b"one"[..]));
            // A line that a crash has cut is no damage once the run has gone on.
            assert_eq!(read_lines::<ReplyLine>(&path).unwrap().damaged, 0, "cut at {cut}");
        }
        // Another model's replies are its own.
        assert!(run.replies("answers", epoch, "other").unwrap().find(&[1; 32]).is_none());
        // A line that is there twice is paid for once.
        let twice = [&whole[..], &whole[..]].concat();
        assert_eq!(run.reply_usage("judge").unwrap(), ReplyUsage::default());
        for _ in 0..2 {
            // As after a crash between the usage line and the removal.
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &twice).unwrap();
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
            run.open_replies().clear();
            assert!(run.replies("a", epoch, "judge").unwrap().find(&[1; 32]).is_none(), "byte {at}");
            assert_eq!(damaged_files(run.dir()), [(path_of("a", epoch), 1, 0)], "byte {at}");
        }
        fs::write(&path, [&b"{\"sum\":\"\n"[..], &whole[..]].concat()).unwrap();
        drop_damaged(run.dir(), &path_of("a", epoch)).unwrap();
        assert_eq!(fs::read(&path).unwrap(), whole);
    }

    #[test]
    fn a_line_without_end_is_not_read_into_memory() {
        let dir = tempfile::tempdir().unwrap();
        let (run, _) = Run::create_or_open(&dir.path().join("run"), "[pipeline]\nname = \"x\"\n", 1, false).unwrap();
        let epoch = Epoch::new(1, 0);
        reopened(&run, epoch).keep(&[1; 32], b"{}", ReplyUsage::default()).unwrap();
        let path = run.dir().join(path_of("answers", epoch));
        let whole = fs::metadata(&path).unwrap().len();
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
        let read = read_lines::<ReplyLine>(&path).unwrap();
        assert_eq!((read.lines.len(), read.damaged, read.whole), (1, 1, whole));
        let again = reopened(&run, epoch);
        assert!(again.find(&[1; 32]).is_some());
        again.keep(&[2; 32], b"{}", ReplyUsage::default()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 2 * whole);
    }

    #[test]
    fn a_reply_that_cannot_be_written_harms_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let (run, _) = Run::create_or_open(&dir.path().join("run"), "[pipeline]\nname = \"x\"\n", 1, false).unwrap();
        let epoch = Epoch::new(1, 0);
        let replies = reopened(&run, epoch);
        replies.keep(&[1; 32], b"{}", ReplyUsage::default()).unwrap();
        let path = run.dir().join(path_of("answers", epoch));
        let fault = arm(DISK_FULL, 1);
        assert!(replies.keep(&[2; 32], b"{}", ReplyUsage::default()).is_err());
        drop(fault);
        // As a full disk leaves it: the beginning of the line that could not be written.
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"sum\":\"01").unwrap();
        replies.keep(&[3; 32], b"{}", ReplyUsage::default()).unwrap();
        let read = read_lines::<ReplyLine>(&path).unwrap();
        assert_eq!((read.lines.len(), read.damaged), (2, 0));
    }
}
