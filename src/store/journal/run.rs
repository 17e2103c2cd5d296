//! [`Run`]: the directory of a run. Many threads may share it; one process at a time may write it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use serde_json::Value;

use super::entry::{Entry, FORMAT, FileEntry, InputEntry, MetricsEntry, ModelEntry, Taken};
use super::find::no_run;
use super::gc::{clear, refuse_foreign, remove_named, sweep};
use super::index::Index;
use super::input_files::Seen;
use super::lock::{Lock, Writer};
use super::manifest::{self, Appender};
use super::owned::{refuse_link, refuse_links};
use super::paths::{UNFINISHED_MANIFEST, check_name};
use super::pipeline_file::{self, identity, pipeline_hash, steps_of};
use super::{checkpoint_files, diff};
use crate::data::Epoch;
use crate::error::{Error, Result};
use crate::store::files::atomic::{create_dirs, write_bytes};
use crate::store::files::io_error::io_error;

/// How [`Run::create_or_open`] found the run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RunStatus {
    /// Nothing was there.
    New,
    /// It was begun and not ended; what is committed need not be done again.
    Unfinished,
    /// It is done.
    Finished,
}

/// The state behind the lock.
#[derive(Debug)]
pub(crate) struct State {
    pub index: Index,
    /// `None` where the run is only read.
    manifest: Option<Appender>,
}

/// A run directory.
#[derive(Debug)]
pub struct Run {
    dir: PathBuf,
    state: Mutex<State>,
    /// The external inputs that this process has compared with the manifest.
    inputs: Mutex<Seen>,
    /// The run's files that this process has written, or has compared with their hashes: 64 bits of the hash of each path.
    verified: Mutex<BTreeSet<u64>>,
    /// Held while the run may be written.
    lock: Option<Lock>,
}

/// How far a run is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RunState {
    /// It is done.
    Finished,
    /// A process writes it.
    Running(Writer),
    /// It is not done, and nobody writes it.
    Unfinished,
}

impl RunState {
    /// In a word.
    pub fn word(self) -> &'static str {
        match self {
            RunState::Finished => "finished",
            RunState::Running(_) => "running",
            RunState::Unfinished => "unfinished",
        }
    }
    /// Who writes it.
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
    /// Opens the run in `dir` for writing, or begins it. `pipeline_text` is the resolved pipeline file; a run is only
    /// gone on with under the same text and seed, but for settings that do not change rows (`[health]`, `[engine]`,
    /// `pipeline.window`). Takes the run's lock, and sweeps away what an earlier process
    /// left half-done. `fresh` removes a run that is there first.
    ///
    /// # Errors
    /// Another process writes the run; the pipeline file has changed (the difference is shown); the manifest is
    /// damaged; the directory cannot be written, or with `fresh` is not a run.
    pub fn create_or_open(dir: &Path, pipeline_text: &str, seed: u64, fresh: bool) -> Result<(Self, RunStatus)> {
        Self::create_or_open_advised(dir, pipeline_text, seed, fresh, |_| None)
    }

    /// As [`Run::create_or_open`]. Where the pipeline file has changed, `advise` is given the run's own resolved file, and the
    /// command it returns is told as a third way out.
    ///
    /// # Errors
    /// As [`Run::create_or_open`].
    pub fn create_or_open_advised(
        dir: &Path,
        pipeline_text: &str,
        seed: u64,
        fresh: bool,
        advise: impl FnOnce(&str) -> Option<String>,
    ) -> Result<(Self, RunStatus)> {
        create_dirs(dir)?;
        let mut steps = steps_of(pipeline_text);
        refuse_links(dir, &steps)?;
        let manifest_path = dir.join("manifest.jsonl");
        let unfinished = !manifest_path.exists() && dir.join(UNFINISHED_MANIFEST).exists();
        if !manifest_path.exists() && !unfinished {
            refuse_foreign(dir)?;
        }
        let (lock, died) = Lock::take(dir)?;
        if let Some(holder) = died {
            tracing::info!(?holder, "the process that wrote this run before ended without closing it");
        }
        // Without a manifest there may be what a removal, or a replay, that was cut off has left.
        if fresh || unfinished {
            clear(dir)?;
        }
        let (mut manifest, entries) = Appender::open(&manifest_path)?;
        let mut index = Index::default();
        entries.into_iter().for_each(|e| index.add(e));
        let format = index.begun.as_ref().map_or(FORMAT, |begun| begun.format);
        let hash = pipeline_hash(pipeline_text, format);
        let opened = match &index.begun {
            None => {
                pipeline_file::write(dir, pipeline_text)?;
                let reflux = env!("CARGO_PKG_VERSION").to_owned();
                let entry = Entry::Run { format: FORMAT, reflux, pipeline: hash, seed };
                manifest.append(&entry)?;
                index.add(entry);
                RunStatus::New
            }
            Some(begun) if begun.pipeline != hash || begun.seed != seed => {
                let before = pipeline_file::read(dir).unwrap_or_default();
                let mut what = diff::lines(&identity(&before, format), &identity(pipeline_text, format));
                if begun.seed != seed {
                    what = format!("-seed {}\n+seed {seed}\n{what}", begun.seed);
                }
                return Err(Error::user(format!(
                    "the pipeline file has changed since the run `{}` began:\n{}",
                    dir.display(),
                    what.trim_end()
                ))
                .help(match advise(&before) {
                    Some(command) => format!(
                        "make only what follows from the change, as another run:\n    {command}\n  or make everything, under \
                         another name with --name, or anew with --fresh"
                    ),
                    None => "run the changed file under another name with --name, or begin anew with --fresh".to_owned(),
                }));
            }
            Some(_) => {
                let before = pipeline_file::read(dir).unwrap_or_default();
                // Damaged, or gone: this is what it was.
                let damaged = identity(&before, format) != identity(pipeline_text, format)
                    || pipeline_file::is_to_be_replaced(dir, format);
                if damaged || (!index.finished && before != pipeline_text) {
                    pipeline_file::write(dir, pipeline_text)?;
                }
                if index.finished { RunStatus::Finished } else { RunStatus::Unfinished }
            }
        };
        steps.extend(index.order.iter().cloned());
        steps.extend(index.metrics.keys().map(|(step, _)| step.clone()));
        index.models.values().try_for_each(|m| refuse_link(&dir.join(&m.path)))?;
        sweep(dir, &steps, &index.paths(dir), |model| index.models.contains_key(model))?;
        checkpoint_files::sweep(dir, |step, iteration| {
            index.files.get(step).is_some_and(|files| files.contains_key(&Epoch::new(iteration, 0)))
        })?;
        let state = Mutex::new(State { index, manifest: Some(manifest) });
        Ok((
            Self { dir: dir.to_owned(), state, inputs: Mutex::default(), verified: Mutex::default(), lock: Some(lock) },
            opened,
        ))
    }

    /// Opens a run for reading; another process may be writing it.
    ///
    /// # Errors
    /// There is no run, or its manifest is damaged.
    pub fn open(dir: &Path) -> Result<Self> {
        let run = Self {
            dir: dir.to_owned(),
            state: Mutex::new(State { index: Index::default(), manifest: None }),
            inputs: Mutex::default(),
            verified: Mutex::default(),
            lock: None,
        };
        run.refresh()?;
        if run.state().index.begun.is_none() {
            return Err(no_run(dir));
        }
        Ok(run)
    }

    /// Reads the manifest again, for following a run that another process writes. Does nothing in the writing process.
    ///
    /// # Errors
    /// The manifest is damaged.
    pub fn refresh(&self) -> Result<()> {
        let mut state = self.state();
        if state.manifest.is_none() {
            let mut index = Index::default();
            manifest::read(&self.dir.join("manifest.jsonl"))?.entries.into_iter().for_each(|e| index.add(e));
            state.index = index;
        }
        Ok(())
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // What is behind the lock changes in single steps, after the manifest has it: a panic leaves it whole.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Checks that the directory is still the one whose lock this process holds. Whoever writes asks before each commit.
    pub(crate) fn check_place(&self) -> Result<()> {
        self.lock.as_ref().map_or(Ok(()), |lock| lock.check_place(&self.dir))
    }

    /// Adds a line to the manifest and then to the index.
    pub(crate) fn record(state: &mut State, entry: Entry) -> Result<()> {
        let manifest = state.manifest.as_mut().ok_or_else(|| Error::bug("the run is open for reading only"))?;
        manifest.append(&entry)?;
        state.index.add(entry);
        Ok(())
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
    /// The directory's last part.
    pub fn name(&self) -> String {
        self.dir.file_name().map_or_else(|| self.dir.display().to_string(), |n| n.to_string_lossy().into_owned())
    }
    /// The resolved pipeline file the run was begun with.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn pipeline_text(&self) -> Result<String> {
        pipeline_file::read(&self.dir).map_err(|e| io_error("reading", &self.dir.join(pipeline_file::NAME), &e))
    }
    /// The seed the run was begun with.
    pub fn seed(&self) -> u64 {
        self.state().index.begun.as_ref().map_or(0, |begun| begun.seed)
    }
    /// In a replayed run, where what it did not make itself comes from.
    pub fn taken(&self) -> Option<Taken> {
        self.state().index.taken.clone()
    }
    /// The hash of the resolved pipeline file that the manifest has.
    pub fn pipeline(&self) -> String {
        self.state().index.begun.as_ref().map_or_else(String::new, |begun| begun.pipeline.clone())
    }
    /// The format of the manifest's first line.
    pub(crate) fn format(&self) -> u32 {
        self.state().index.begun.as_ref().map_or(FORMAT, |begun| begun.format)
    }
    /// The external inputs that were read, by table and key of the pipeline file.
    pub fn inputs(&self) -> Vec<InputEntry> {
        self.state().index.inputs.values().cloned().collect()
    }
    /// What was recorded of the input that a key of a table names.
    pub fn input(&self, table: &str, key: &str) -> Option<InputEntry> {
        self.state().index.inputs.get(&(table.to_owned(), key.to_owned())).cloned()
    }
    pub(crate) fn seen_inputs(&self) -> MutexGuard<'_, Seen> {
        // An entry is put in as a whole: a panic leaves the table as it was.
        self.inputs.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
    /// Adds a line to the manifest; does nothing where the run is open for reading only.
    pub(crate) fn record_if_open(&self, entry: Entry) -> Result<()> {
        let mut state = self.state();
        if state.manifest.is_none() {
            return Ok(());
        }
        Self::record(&mut state, entry)
    }
    /// Whether the run is done.
    pub fn finished(&self) -> bool {
        self.state().index.finished
    }

    /// The process that writes the run now, if one does.
    pub fn writer(&self) -> Option<Writer> {
        super::lock::writer(&self.dir)
    }
    /// Whether the run is done, and who writes it if not.
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
    /// The steps that have committed something and not dropped it, by name.
    pub fn steps(&self) -> Vec<String> {
        let state = self.state();
        state.index.files.keys().filter(|step| !state.index.dropped.contains(*step)).cloned().collect()
    }

    /// Every committed file, by step and epoch, those of dropped steps too.
    pub fn entries(&self) -> Vec<FileEntry> {
        self.state().index.every_file().collect()
    }
    /// The steps that have committed something, in the order in which they began to: none comes before what it reads.
    pub fn steps_in_order(&self) -> Vec<String> {
        self.state().index.order.clone()
    }
    /// The same of one step.
    pub fn entries_of(&self, step: &str) -> Vec<FileEntry> {
        self.state().index.files_of(step)
    }
    /// Whether the rows of a step were removed, as its `keep = false` asks for.
    pub fn dropped(&self, step: &str) -> bool {
        self.state().index.dropped.contains(step)
    }

    /// A committed model.
    pub fn model(&self, name: &str) -> Option<ModelEntry> {
        self.state().index.models.get(name).cloned()
    }
    /// Whether this process has written the file, or compared it with its hash.
    pub(crate) fn is_verified(&self, path: &str) -> bool {
        self.verified.lock().unwrap_or_else(std::sync::PoisonError::into_inner).contains(&short(path))
    }
    /// Notes that this process has written a file, or compared it with its hash.
    pub(crate) fn note_verified(&self, path: &str) {
        self.verified.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(short(path));
    }

    /// The committed models, by name.
    pub fn models(&self) -> Vec<ModelEntry> {
        self.state().index.models.values().cloned().collect()
    }

    /// The metrics there are, by step and iteration.
    pub fn metrics(&self) -> Vec<MetricsEntry> {
        self.state().index.metrics.values().cloned().collect()
    }

    /// Writes a JSON file into the run's directory, such as `summary.json`; not named in the manifest.
    ///
    /// # Errors
    /// A full disk.
    pub fn write_json(&self, name: &str, value: &Value) -> Result<()> {
        check_name("file", name)?;
        self.check_place()?;
        let mut text = serde_json::to_string_pretty(value).map_err(|e| Error::bug(format!("{name}: {e}")))?;
        text.push('\n');
        write_bytes(&self.dir.join(name), text.as_bytes()).map(drop)
    }

    /// Writes `summary.json`, an object with keys.
    ///
    /// # Errors
    /// A full disk.
    pub fn write_summary(&self, summary: &Value) -> Result<()> {
        self.check_place()?;
        super::summary::write(&self.dir, summary)
    }
    /// Whether `summary.json` is there and as it was written.
    pub fn has_summary(&self) -> bool {
        super::summary::check(&self.dir).is_ok()
    }
    /// What `summary.json` says; none where it is not there.
    ///
    /// # Errors
    /// It is not as it was written, or cannot be read.
    pub fn summary(&self) -> Result<Option<Value>> {
        match super::summary::read(&self.dir) {
            Ok(summary) => Ok(Some(summary)),
            Err(None) => Ok(None),
            Err(Some(wrong)) => Err(Error::user(format!("`{}`: {wrong}", self.dir.join("summary.json").display()))),
        }
    }

    /// Notes that all microbatches of a step's iteration are committed.
    ///
    /// # Errors
    /// A full disk.
    pub fn finish_step(&self, step: &str, iteration: u32) -> Result<()> {
        let mut state = self.state();
        if state.index.finished_steps.contains(&(step.to_owned(), iteration)) {
            return Ok(());
        }
        Self::record(
            &mut state,
            Entry::Finished { lines: None, step: Some(step.to_owned()), iteration: Some(iteration) },
        )
    }
    /// Whether [`Run::finish_step`] was called.
    pub fn step_finished(&self, step: &str, iteration: u32) -> bool {
        self.state().index.finished_steps.contains(&(step.to_owned(), iteration))
    }

    /// Notes that the run is done.
    ///
    /// # Errors
    /// A full disk.
    pub fn finish(&self) -> Result<()> {
        self.check_place()?;
        let mut state = self.state();
        if state.index.finished {
            return Ok(());
        }
        let lines = Some(state.index.lines);
        Self::record(&mut state, Entry::Finished { lines, step: None, iteration: None })
    }

    /// Removes the rows of a step that is not to be kept; the manifest says so, and keeps their hashes. The rows that
    /// failed stay. Only for a run that is done: until then a resumed run needs them. Done again it removes what is left, for a
    /// process that died in between.
    ///
    /// # Errors
    /// The run is not done (a bug); the files cannot be removed.
    pub fn drop_step(&self, step: &str) -> Result<()> {
        check_name("step", step)?;
        let mut state = self.state();
        if !state.index.finished {
            return Err(Error::bug(format!("step `{step}` is dropped before the run is done")));
        }
        if !state.index.dropped.contains(step) {
            Self::record(&mut state, Entry::Dropped { step: step.to_owned() })?;
        }
        let files = state.index.files_of(step);
        drop(state);
        files.iter().try_for_each(|f| remove_named(&self.dir, &f.path))
    }
}

/// 64 bits that stand for a path: a run has many files, and their paths would take as much memory as the manifest.
fn short(path: &str) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&blake3::hash(path.as_bytes()).as_bytes()[..8]);
    u64::from_le_bytes(bytes)
}
