//! [`Replies`]: the replies of servers to the requests of one microbatch, in memory and on disk.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::reply_files::{LinesRead, ReplyLine, ReplyUsage, append_to, encode, read_lines};
use crate::data::{Epoch, counted};
use crate::error::Result;
use crate::store::files::fault::disk_full;
use crate::store::files::io_error::io_error;

/// Longest time for which a reply is only in the memory of the operating system. A crash of the machine loses these
/// replies, and a crash of the process none.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// The replies of a microbatch to requests for one model.
pub struct Replies {
    pub(super) file: Arc<ReplyFile>,
    pub(super) model: String,
}

/// The files of replies that are in use.
pub(crate) type OpenReplies = Mutex<BTreeMap<(String, Epoch), Arc<ReplyFile>>>;

/// The replies of a microbatch, which may ask several models.
#[derive(Debug)]
pub(crate) struct ReplyFile {
    path: PathBuf,
    state: Mutex<ReplyState>,
}

#[derive(Debug)]
struct ReplyState {
    /// What an earlier process has left, by model and hash of the request.
    found: HashMap<(String, String), FoundReply>,
    /// Bytes of the complete lines.
    whole: u64,
    /// Open for appending; `None` before the first reply, and after one that could not be written.
    file: Option<File>,
    synced: Instant,
}

#[derive(Debug)]
struct FoundReply {
    body: Vec<u8>,
    used: bool,
}

impl ReplyFile {
    pub fn open(path: PathBuf) -> Result<Self> {
        let LinesRead { lines, damaged, whole } = read_lines::<ReplyLine>(&path)?;
        if damaged > 0 {
            let of = counted(lines.len() + damaged, "reply");
            tracing::warn!("`{}`: {damaged} of {of} cannot be used: {DAMAGED}", path.display());
        }
        let mut found = HashMap::new();
        for ReplyLine { request, model, reply, .. } in lines {
            let body = reply.into_bytes();
            // The first one counts, where a request has several.
            found.entry((model, request)).or_insert(FoundReply { body, used: false });
        }
        let state = ReplyState { found, whole, file: None, synced: Instant::now() };
        Ok(Self { path, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, ReplyState> {
        // A line counts once it is written whole, and what is found only repeats the file.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of replies that were found and that no request asked for.
    pub fn unused(&self) -> usize {
        self.state().found.values().filter(|reply| !reply.used).count()
    }

    fn append(&self, line: &[u8]) -> Result<()> {
        let fail = |e: std::io::Error| io_error("writing", &self.path, &e);
        let mut state = self.state();
        let mut file = match state.file.take() {
            Some(file) => file,
            None => append_to(&self.path, state.whole)?,
        };
        // After a failure the file is opened again, which removes the part of the line that was written.
        disk_full().and_then(|()| file.write_all(line)).map_err(fail)?;
        state.whole += line.len() as u64;
        if state.synced.elapsed() >= SYNC_INTERVAL {
            file.sync_data().map_err(fail)?;
            state.synced = Instant::now();
        }
        state.file = Some(file);
        Ok(())
    }
}

/// What a line means that does not match its checksum.
const DAMAGED: &str = "the file was damaged. Their requests are sent again";

impl Replies {
    /// The reply to a request, by the request's hash.
    pub fn find(&self, request: &[u8; 32]) -> Option<Vec<u8>> {
        let mut state = self.file.state();
        let key = (self.model.clone(), blake3::Hash::from_bytes(*request).to_hex().to_string());
        let reply = state.found.get_mut(&key)?;
        reply.used = true;
        Some(reply.body.clone())
    }

    /// Appends a reply.
    ///
    /// # Errors
    /// The disk is full, or the run's directory cannot be written.
    pub fn keep(&self, request: &[u8; 32], body: &[u8], usage: ReplyUsage) -> Result<()> {
        let request = blake3::Hash::from_bytes(*request).to_hex().to_string();
        let reply = String::from_utf8_lossy(body).into_owned();
        self.file.append(&encode(&ReplyLine { request, model: self.model.clone(), usage, reply })?)
    }
}
