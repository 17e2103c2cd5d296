//! [`Run`], the directory of a run. Threads may share it; only one process at a time may write it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use serde_json::Value;

use super::entry::{Entry, FORMAT, FileEntry, InputEntry, MetricsEntry, ModelEntry, Taken};
use super::find::no_run;
use super::gc::{collect_garbage, refuse_foreign, remove_named, remove_run_files};
use super::index::{Index, RunHeader};
use super::input_files::CheckedInputs;
use super::lock::{Lock, Writer};
use super::manifest::{self, Appender};
use super::owned::{refuse_link, refuse_links};
use super::paths::{UNFINISHED_MANIFEST, check_name};
use super::pipeline_file::{self, identity, pipeline_hash, steps_of};
use super::reply_files::remove_empty_folders;
use super::scratch_files::collect_scratch;
use super::stored_replies::OpenReplies;
use super::{checkpoint_files, diff};
use crate::data::Epoch;
use crate::error::{Error, Result};
use crate::store::files::atomic::create_dirs;
use crate::store::files::io_error::io_error;

/// State of the directory before [`Run::create_or_open`] opened it for writing. Unlike [`RunState`], which a reader
/// asks for at any time, it knows runs that are new, and none that another process is writing: that is an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PriorState {
    /// The run is new.
    New,
    /// The run was interrupted; committed microbatches are not computed again.
    Unfinished,
    /// The run has finished.
    Finished,
}

/// State of a run that its mutex protects.
#[derive(Debug)]
pub(crate) struct JournalState {
    pub index: Index,
    /// `None` if the run is open for reading only.
    manifest: Option<Appender>,
}

/// A run directory.
#[derive(Debug)]
pub struct Run {
    dir: PathBuf,
    state: Mutex<JournalState>,
    /// External inputs that this process has compared with the manifest.
    inputs: Mutex<CheckedInputs>,
    /// Files that this process has written or compared with their hashes, as 64 bits of the hash of each
    /// path.
    verified: Mutex<BTreeSet<u64>>,
    /// The files of replies that microbatches use.
    pub(super) replies: OpenReplies,
    /// Bytes of the complete lines of the usage file; `None` if they are to be read.
    pub(super) usage_end: Mutex<Option<u64>>,
    /// The lock, if the run is open for writing.
    lock: Option<Lock>,
}

/// Progress of a run, for readers. [`PriorState`] is for the process that writes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RunState {
    /// The run has finished.
    Finished,
    /// A process is writing it.
    Running(Writer),
    /// It has not finished, and no process is writing it.
    Unfinished,
}

impl RunState {
    /// The state as one word.
    pub fn word(self) -> &'static str {
        match self {
            RunState::Finished => "finished",
            RunState::Running(_) => "running",
            RunState::Unfinished => "unfinished",
        }
    }
    /// The process that is writing the run.
    pub fn writer(self) -> Option<Writer> {
        match self {
            RunState::Running(writer) => Some(writer),
            RunState::Finished | RunState::Unfinished => None,
        }
    }
}

impl std::fmt::Display for RunState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RunState::Running(writer) => write!(f, "running, {writer}"),
            _ => f.write_str(self.word()),
        }
    }
}

impl Run {
    /// Opens the run in `dir` for writing, or creates it. `pipeline_text` is the resolved pipeline file; a
    /// run can only be resumed with the same text and seed, except for settings without influence on rows
    /// (`[health]`, `[engine]`, `pipeline.window`). Acquires the run's lock and removes what an earlier
    /// process left unfinished. `fresh` removes an existing run first.
    ///
    /// # Errors
    /// Another process is writing the run; the pipeline file has changed (the message shows the difference);
    /// the manifest is damaged; the directory cannot be written, or with `fresh` contains no run.
    pub fn create_or_open(dir: &Path, pipeline_text: &str, seed: u64, fresh: bool) -> Result<(Self, PriorState)> {
        Self::create_or_open_advised(dir, pipeline_text, seed, fresh, |_| None)
    }

    /// As [`Run::create_or_open`]. If the pipeline file has changed, `advise` gets the run's own resolved
    /// file, and the error suggests the command that it returns.
    ///
    /// # Errors
    /// As [`Run::create_or_open`].
    pub fn create_or_open_advised(
        dir: &Path,
        pipeline_text: &str,
        seed: u64,
        fresh: bool,
        advise: impl FnOnce(&str) -> Option<String>,
    ) -> Result<(Self, PriorState)> {
        create_dirs(dir)?;
        let mut steps = steps_of(pipeline_text);
        // Checked before anything is written, because a write through a link would leave the run.
        refuse_links(dir, &steps)?;
        let manifest_path = dir.join("manifest.jsonl");
        let unfinished = !manifest_path.exists() && dir.join(UNFINISHED_MANIFEST).exists();
        if !manifest_path.exists() && !unfinished {
            // Checked before the lock file is created, so that a refused directory stays unchanged.
            refuse_foreign(dir)?;
        }
        let (lock, dead_holder) = Lock::acquire(dir)?;
        if let Some(holder) = dead_holder {
            tracing::info!(?holder, "the process that wrote this run before ended without closing it");
        }
        // Without a manifest, the directory may contain what an interrupted removal or replay left.
        if fresh || unfinished {
            remove_run_files(dir)?;
        }
        let (mut manifest, entries) = Appender::open(&manifest_path)?;
        let mut index = Index::default();
        entries.into_iter().for_each(|e| index.add(e));
        let format = index.header.as_ref().map_or(FORMAT, |header| header.format);
        let hash = pipeline_hash(pipeline_text, format);
        let status = match &index.header {
            None => {
                pipeline_file::write(dir, pipeline_text)?;
                let reflux = env!("CARGO_PKG_VERSION").to_owned();
                let entry = Entry::Run { format: FORMAT, reflux, pipeline: hash, seed };
                manifest.append(&entry)?;
                index.add(entry);
                PriorState::New
            }
            Some(header) if header.pipeline != hash || header.seed != seed => {
                return Err(changed_pipeline(dir, header, pipeline_text, seed, advise));
            }
            Some(_) => {
                restore_pipeline_file(dir, pipeline_text, format, index.finished)?;
                if index.finished { PriorState::Finished } else { PriorState::Unfinished }
            }
        };
        steps.extend(index.order.iter().cloned());
        steps.extend(index.metrics.keys().map(|(step, _)| step.clone()));
        index.models.values().try_for_each(|m| refuse_link(&dir.join(&m.path)))?;
        collect_garbage(dir, &steps, &index.paths(dir), |model| index.models.contains_key(model))?;
        // A training commits one microbatch, and its checkpoints and its scratch folder are garbage from then on.
        let trained = |step: &str, iteration: u32| {
            // The folder of a server, which ends with its process.
            step.contains('.')
                || index.files.get(step).is_some_and(|files| files.contains_key(&Epoch::new(iteration, 0)))
        };
        checkpoint_files::collect_garbage(dir, trained)?;
        collect_scratch(dir, trained)?;
        let state = Mutex::new(JournalState { index, manifest: Some(manifest) });
        let run = Self { state, lock: Some(lock), ..Self::unread(dir) };
        run.close_committed_replies()?;
        Ok((run, status))
    }

    /// A run whose manifest is not read yet.
    fn unread(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            state: Mutex::new(JournalState { index: Index::default(), manifest: None }),
            inputs: Mutex::default(),
            verified: Mutex::default(),
            replies: Mutex::default(),
            usage_end: Mutex::default(),
            lock: None,
        }
    }

    /// Opens a run for reading. Another process may be writing it.
    ///
    /// # Errors
    /// No run found, or its manifest is damaged.
    pub fn open(dir: &Path) -> Result<Self> {
        let run = Self::unread(dir);
        run.refresh()?;
        if run.state().index.header.is_none() {
            return Err(no_run(dir));
        }
        Ok(run)
    }

    /// Reads the manifest again, to follow a run that another process writes. Does nothing in the writing
    /// process.
    ///
    /// # Errors
    /// The manifest is damaged.
    pub fn refresh(&self) -> Result<()> {
        let mut state = self.state();
        // The writing process has the current index already.
        if state.manifest.is_none() {
            let mut index = Index::default();
            manifest::read(&self.dir.join("manifest.jsonl"))?.entries.into_iter().for_each(|e| index.add(e));
            state.index = index;
        }
        Ok(())
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, JournalState> {
        // The index changes in single steps, each after its manifest line is durable, so a panic cannot leave
        // it inconsistent.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Checks that the directory is still the one whose lock this process holds. Every commit calls it first.
    pub(crate) fn check_place(&self) -> Result<()> {
        self.lock.as_ref().map_or(Ok(()), |lock| lock.check_place(&self.dir))
    }

    /// Appends an entry to the manifest and then adds it to the index.
    pub(crate) fn record(state: &mut JournalState, entry: Entry) -> Result<()> {
        let manifest = state.manifest.as_mut().ok_or_else(|| Error::bug("the run is open for reading only"))?;
        // The manifest comes first: an entry in the index alone would be lost in a crash.
        manifest.append(&entry)?;
        state.index.add(entry);
        Ok(())
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
    /// The last part of the directory's path.
    pub fn name(&self) -> String {
        self.dir.file_name().map_or_else(|| self.dir.display().to_string(), |n| n.to_string_lossy().into_owned())
    }
    /// The resolved pipeline file that the run began with.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn pipeline_text(&self) -> Result<String> {
        pipeline_file::read(&self.dir).map_err(|e| io_error("reading", &self.dir.join(pipeline_file::NAME), &e))
    }
    /// The seed that the run began with.
    pub fn seed(&self) -> u64 {
        self.state().index.header.as_ref().map_or(0, |header| header.seed)
    }
    /// The version of reflux that started the run.
    pub fn made_by(&self) -> String {
        self.state().index.header.as_ref().map_or_else(String::new, |header| header.reflux.clone())
    }
    /// In a replayed run, the origin of the files that it took over.
    pub fn taken(&self) -> Option<Taken> {
        self.state().index.taken.clone()
    }
    /// Hash of the resolved pipeline file, as recorded in the manifest.
    pub fn pipeline(&self) -> String {
        self.state().index.header.as_ref().map_or_else(String::new, |header| header.pipeline.clone())
    }
    /// Format version of the manifest.
    pub(crate) fn format(&self) -> u32 {
        self.state().index.header.as_ref().map_or(FORMAT, |header| header.format)
    }
    /// The recorded external inputs, by table and key of the pipeline file.
    pub fn inputs(&self) -> Vec<InputEntry> {
        self.state().index.inputs.values().cloned().collect()
    }
    /// The recorded external input that a key of a table names.
    pub fn input(&self, table: &str, key: &str) -> Option<InputEntry> {
        self.state().index.inputs.get(&(table.to_owned(), key.to_owned())).cloned()
    }
    pub(crate) fn checked_inputs(&self) -> MutexGuard<'_, CheckedInputs> {
        // Entries are inserted whole, so a panic cannot leave the table inconsistent.
        self.inputs.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
    /// Appends an entry to the manifest. Does nothing if the run is open for reading only.
    pub(crate) fn record_if_open(&self, entry: Entry) -> Result<()> {
        let mut state = self.state();
        if state.manifest.is_none() {
            return Ok(());
        }
        Self::record(&mut state, entry)
    }
    /// Whether the run has finished.
    pub fn finished(&self) -> bool {
        self.state().index.finished
    }

    /// The process that is writing the run now, if any.
    pub fn writer(&self) -> Option<Writer> {
        super::lock::writer(&self.dir)
    }
    /// Whether the run has finished, and which process writes it if not.
    pub fn run_state(&self) -> RunState {
        match (self.finished(), self.writer()) {
            (true, _) => RunState::Finished,
            (false, Some(writer)) => RunState::Running(writer),
            (false, None) => RunState::Unfinished,
        }
    }

    /// The committed file of a step's microbatch.
    pub fn committed(&self, step: &str, epoch: Epoch) -> Option<FileEntry> {
        self.state().index.file(step, epoch)
    }
    /// The committed files of a step, by epoch.
    pub fn files(&self, step: &str) -> Vec<FileEntry> {
        let state = self.state();
        if state.index.dropped.contains(step) { Vec::new() } else { state.index.files_of(step) }
    }
    /// Whether a step has committed rows, or had some that were not kept.
    pub fn has_rows(&self, step: &str) -> bool {
        let state = self.state();
        state.index.dropped.contains(step) || state.index.files.get(step).is_some_and(|files| !files.is_empty())
    }
    /// The epochs of a step's committed files, in order.
    pub(crate) fn epochs(&self, step: &str) -> Vec<Epoch> {
        let state = self.state();
        let files = state.index.files.get(step).filter(|_| !state.index.dropped.contains(step));
        files.into_iter().flat_map(|files| files.keys().copied()).collect()
    }
    /// Steps with committed files that were not dropped, by name.
    pub fn steps(&self) -> Vec<String> {
        let state = self.state();
        state.index.files.keys().filter(|step| !state.index.dropped.contains(*step)).cloned().collect()
    }

    /// Every committed file by step and epoch, including files of dropped steps.
    pub fn entries(&self) -> Vec<FileEntry> {
        self.state().index.every_file().collect()
    }
    /// Steps with committed files, in the order of their first commits. Every step comes after the steps that
    /// it reads.
    pub fn steps_in_order(&self) -> Vec<String> {
        self.state().index.order.clone()
    }
    /// Every committed file of one step, even if it was dropped.
    pub fn entries_of(&self, step: &str) -> Vec<FileEntry> {
        self.state().index.files_of(step)
    }
    /// Whether a step's rows were removed because of `keep = false`.
    pub fn dropped(&self, step: &str) -> bool {
        self.state().index.dropped.contains(step)
    }

    /// A committed model.
    pub fn model(&self, name: &str) -> Option<ModelEntry> {
        self.state().index.models.get(name).cloned()
    }
    /// Whether this process has written a file or compared it with its hash.
    pub(crate) fn is_verified(&self, path: &str) -> bool {
        self.verified.lock().unwrap_or_else(std::sync::PoisonError::into_inner).contains(&path_key(path))
    }
    /// Records that this process has written a file or compared it with its hash.
    pub(crate) fn note_verified(&self, path: &str) {
        self.verified.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(path_key(path));
    }

    /// The committed models, by name.
    pub fn models(&self) -> Vec<ModelEntry> {
        self.state().index.models.values().cloned().collect()
    }

    /// The committed metrics, by step and iteration.
    pub fn metrics(&self) -> Vec<MetricsEntry> {
        self.state().index.metrics.values().cloned().collect()
    }

    /// Writes `summary.json`, an object with keys.
    ///
    /// # Errors
    /// A full disk.
    pub fn write_summary(&self, summary: &Value) -> Result<()> {
        self.check_place()?;
        super::summary::write(&self.dir, summary)
    }
    /// Whether `summary.json` exists and is intact.
    pub fn has_summary(&self) -> bool {
        super::summary::check(&self.dir).is_ok()
    }
    /// Content of `summary.json`; none if the file does not exist.
    ///
    /// # Errors
    /// The file is damaged or cannot be read.
    pub fn summary(&self) -> Result<Option<Value>> {
        match super::summary::read(&self.dir) {
            Ok(summary) => Ok(Some(summary)),
            Err(None) => Ok(None),
            Err(Some(wrong)) => Err(Error::user(format!("`{}`: {wrong}", self.dir.join("summary.json").display()))),
        }
    }

    /// Records that the run has finished.
    ///
    /// # Errors
    /// A full disk.
    pub fn finish(&self) -> Result<()> {
        self.check_place()?;
        let mut state = self.state();
        if state.index.finished {
            return Ok(());
        }
        remove_empty_folders(&self.dir);
        // With the count, a reader can detect that lines are missing.
        let lines = Some(state.index.lines);
        Self::record(&mut state, Entry::Finished { lines, step: None, iteration: None })
    }

    /// Removes the rows of a step with `keep = false`. The manifest records the removal and keeps the hashes;
    /// failed rows stay. Only a finished run may do this, because an interrupted one needs the rows when it
    /// resumes. Calling it again removes files that a dead process left.
    ///
    /// # Errors
    /// The run has not finished (a bug); the files cannot be removed.
    pub fn drop_step(&self, step: &str) -> Result<()> {
        check_name("step", step)?;
        let mut state = self.state();
        if !state.index.finished {
            return Err(Error::bug(format!("step `{step}` is dropped before the run is done")));
        }
        if !state.index.dropped.contains(step) {
            // Recorded first, so that no reader expects rows that are being removed.
            Self::record(&mut state, Entry::Dropped { step: step.to_owned() })?;
        }
        let files = state.index.files_of(step);
        drop(state);
        files.iter().try_for_each(|f| remove_named(&self.dir, &f.path))
    }
}

/// The error for a run that began with another pipeline file or seed, with the difference.
fn changed_pipeline(
    dir: &Path,
    header: &RunHeader,
    pipeline_text: &str,
    seed: u64,
    advise: impl FnOnce(&str) -> Option<String>,
) -> Error {
    let before = pipeline_file::read(dir).unwrap_or_default();
    let mut what = diff::lines(&identity(&before, header.format), &identity(pipeline_text, header.format));
    if header.seed != seed {
        what = format!("-seed {}\n+seed {seed}\n{what}", header.seed);
    }
    let (dir, what) = (dir.display(), what.trim_end());
    let error = Error::user(format!("the pipeline file has changed since the run `{dir}` began:\n{what}"));
    error.help(match advise(&before) {
        Some(command) => format!(
            "make only what follows from the change, as another run:\n    {command}\n  or make everything, under \
             another name with --name, or over with --fresh"
        ),
        None => "run the changed file under another name with --name, or start over with --fresh".to_owned(),
    })
}

/// Rewrites the stored pipeline file if it is damaged, or if a setting without influence on rows has changed. The
/// settings of a finished run stay.
fn restore_pipeline_file(dir: &Path, pipeline_text: &str, format: u32, finished: bool) -> Result<()> {
    let before = pipeline_file::read(dir).unwrap_or_default();
    // The hash in the manifest, which the caller has compared, proves that the file had this text.
    let damaged =
        identity(&before, format) != identity(pipeline_text, format) || pipeline_file::is_to_be_replaced(dir, format);
    if damaged || (!finished && before != pipeline_text) {
        pipeline_file::write(dir, pipeline_text)?;
    }
    Ok(())
}

/// 64-bit hash of a path. A run has many files, and their paths would take as much memory as the manifest.
fn path_key(path: &str) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&blake3::hash(path.as_bytes()).as_bytes()[..8]);
    u64::from_le_bytes(bytes)
}
