//! Forks of a run: a new run that takes over files of an existing one.
//!
//! Committed files never change, so a hard link replaces a copy at no cost; files are copied if the file
//! system has no links. The manifest is renamed into place last: without it the directory is not a run, and
//! the next start clears it.

use std::collections::BTreeSet;
use std::path::Path;
use std::{fs, io};

use super::damage::{damaged, problem_error};
use super::entry::{Entry, FORMAT, InputEntry, ModelEntry, Taken};
use super::gc::{refuse_foreign, remove_run_files};
use super::lock::{Lock, SharedLock};
use super::manifest;
use super::owned::refuse_links;
use super::paths::UNFINISHED_MANIFEST;
use super::pipeline_file::{self, pipeline_hash, steps_of};
use super::run::Run;
use crate::error::{Error, ErrorKind, Result};
use crate::store::files::atomic::{AtomicFile, create_dirs, sync_dir, write_bytes};
use crate::store::files::integrity::check_file;
use crate::store::files::io_error::io_error;

/// What a new run takes over from an existing one.
pub struct RunFork<'a> {
    /// The existing run.
    pub source: &'a Run,
    /// The first steps that the new run computes itself, for the manifest.
    pub from: &'a [String],
    /// Whether to take over the rows of a step, or of its side table, in an iteration.
    pub takes: &'a dyn Fn(&str, u32) -> bool,
    /// Whether an external input recorded by the source is unchanged and also an input of the new run.
    pub keeps: &'a dyn Fn(&InputEntry) -> bool,
    /// Computes the hash of the weights of the model in a directory.
    pub weights: &'a dyn Fn(&Path) -> Result<String>,
}

impl RunFork<'_> {
    /// The lines of the source's manifest that are taken over, in order.
    ///
    /// # Errors
    /// The manifest is damaged; the rows of a needed step were dropped.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let all = manifest::read(&self.source.dir().join("manifest.jsonl"))?.entries;
        let metrics = self.source.metrics();
        let mut entries = Vec::new();
        let mut seen = BTreeSet::new();
        for entry in all {
            let taken = match &entry {
                Entry::File(f) if (self.takes)(&f.step, f.iteration) => {
                    if self.source.dropped(&f.step) {
                        return Err(self.not_kept(&f.step));
                    }
                    true
                }
                Entry::Model(m) => (self.takes)(&m.step, m.iteration),
                // Only a training's last metrics are valid.
                Entry::Metrics(m) => {
                    let last = (self.takes)(&m.step, m.iteration) && metrics.contains(m);
                    last && seen.insert((m.step.clone(), m.iteration))
                }
                _ => false,
            };
            if taken {
                entries.push(entry);
            }
        }
        Ok(entries)
    }

    /// The source's recorded inputs that are unchanged and also inputs of the new run.
    fn inputs(&self) -> Vec<Entry> {
        self.source.inputs().into_iter().filter(|input| (self.keeps)(input)).map(Entry::Input).collect()
    }

    fn not_kept(&self, step: &str) -> Error {
        let run = self.source.dir().display();
        Error::user(format!("the rows of `{step}` are needed, and the run `{run}` has not kept them"))
            .help(format!("`--from {step}` makes them again; without its `keep = false` they would be there"))
    }

    /// Creates the run in `dir` with `pipeline_text`, `seed` and the files that it takes over, each checked
    /// against its hash. Returns false if the same fork exists already.
    ///
    /// # Errors
    /// `dir` contains another run or a user's files; another process is writing one of the two runs; a file
    /// is damaged or gone; the disk is full, and no run is left behind.
    pub fn begin(&self, dir: &Path, pipeline_text: &str, seed: u64) -> Result<bool> {
        let source = self.source;
        // No process can resume the source while its files are taken over.
        let _shared = SharedLock::acquire(source.dir())?;
        source.refresh()?;
        let entries = self.entries()?;
        let taken = Taken {
            run: source.dir().display().to_string(),
            pipeline: source.pipeline(),
            from: self.from.to_vec(),
            entries: entries.len() as u64,
        };
        create_dirs(dir)?;
        refuse_links(dir, &steps_of(pipeline_text))?;
        if dir.join("manifest.jsonl").exists() {
            let there = Run::open(dir)?;
            let same = there.pipeline() == pipeline_hash(pipeline_text, there.format()) && there.seed() == seed;
            return if same && there.taken().is_some_and(|t| t.is_same_fork(&taken)) {
                Ok(false)
            } else {
                Err(Error::user(format!("there is a run at `{}` already, and not this one", dir.display()))
                    .help("choose another name with --into"))
            };
        }
        if !dir.join(UNFINISHED_MANIFEST).exists() {
            refuse_foreign(dir)?;
        }
        let (_lock, _) = Lock::acquire(dir)?;
        remove_run_files(dir)?;
        // Until the run is complete, this list says what to remove after a crash.
        let unfinished = dir.join(UNFINISHED_MANIFEST);
        write_bytes(&unfinished, &self.lines(&taken, &entries, pipeline_text, seed)?)?;
        for entry in &entries {
            match entry {
                Entry::File(f) => {
                    source.verify(f)?;
                    for path in std::iter::once(&f.path).chain(f.errors.iter().map(|e| &e.path)) {
                        link(&source.dir().join(path), &dir.join(path))?;
                    }
                }
                Entry::Metrics(m) => {
                    let path = source.dir().join(&m.path);
                    check_file(&path, m.bytes, &m.hash).map_err(|why| problem_error(&path, &why))?;
                    link(&path, &dir.join(&m.path))?;
                }
                Entry::Model(m) => self.model(m, dir)?,
                _ => {}
            }
        }
        // Names must be durable before the manifest lists them.
        for part in ["data", "metrics", "models"] {
            sync_dirs(&dir.join(part))?;
        }
        sync_dir(dir)?;
        // Written before the manifest, because a run cannot be resumed without it.
        pipeline_file::write(dir, pipeline_text)?;
        let manifest = dir.join("manifest.jsonl");
        fs::rename(&unfinished, &manifest).map_err(|e| io_error("renaming to", &manifest, &e))?;
        sync_dir(dir)?;
        Ok(true)
    }

    /// The new run's manifest.
    fn lines(&self, taken: &Taken, entries: &[Entry], pipeline_text: &str, seed: u64) -> Result<Vec<u8>> {
        let (reflux, pipeline) = (env!("CARGO_PKG_VERSION").to_owned(), pipeline_hash(pipeline_text, FORMAT));
        let mut lines = Entry::Run { format: FORMAT, reflux, pipeline, seed }.to_line()?;
        for entry in std::iter::once(&Entry::Taken(taken.clone())).chain(entries).chain(&self.inputs()) {
            lines.extend(entry.to_line()?);
        }
        Ok(lines)
    }

    fn model(&self, model: &ModelEntry, dir: &Path) -> Result<()> {
        let from = self.source.dir().join(&model.path);
        for (name, file) in &model.files {
            let path = from.join(name);
            check_file(&path, file.bytes, &file.hash).map_err(|why| problem_error(&path, &why))?;
            link(&path, &dir.join(&model.path).join(name))?;
        }
        if !model.files.is_empty() {
            return Ok(());
        }
        // Early manifests do not list the files of models.
        let hash =
            (self.weights)(&from).map_err(|e| if e.kind() == ErrorKind::System { e } else { damaged(&from, e) })?;
        if hash != model.hash {
            return Err(damaged(&from, "the weights are not those that were committed"));
        }
        link_tree(&from, &dir.join(&model.path))
    }
}

fn link_tree(from: &Path, to: &Path) -> Result<()> {
    let fail = |e: io::Error| io_error("listing", from, &e);
    create_dirs(to)?;
    for entry in fs::read_dir(from).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let kind = entry.file_type().map_err(fail)?;
        let target = to.join(entry.file_name());
        if kind.is_dir() {
            link_tree(&entry.path(), &target)?;
        } else if kind.is_file() {
            link(&entry.path(), &target)?;
        } else {
            return Err(damaged(&entry.path(), "it is neither a file nor a directory"));
        }
    }
    Ok(())
}

/// Hard-links a file, or copies it if that fails. Files of a run never change in place, so both are
/// equivalent.
///
/// # Errors
/// It cannot be read; the disk is full.
pub fn link(from: &Path, to: &Path) -> Result<()> {
    if let Some(dir) = to.parent() {
        create_dirs(dir)?;
    }
    // A hard link to a symbolic link would be another symbolic link, which may be broken at its new place.
    let plain = fs::symlink_metadata(from).is_ok_and(|m| m.is_file());
    if plain && fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    copy(from, to)
}

/// Makes `to` a file of its own with the content of `from`.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    let mut read = fs::File::open(from).map_err(|e| io_error("reading", from, &e))?;
    let mut file = AtomicFile::create(to)?;
    if let Err(e) = io::copy(&mut read, &mut file) {
        return Err(file.error(e));
    }
    file.publish()
}

/// Syncs a directory and all below it. The files in them are durable already.
pub(crate) fn sync_dirs(dir: &Path) -> Result<()> {
    if !dir.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(dir).map_err(|e| io_error("listing", dir, &e))? {
        let path = entry.map_err(|e| io_error("listing", dir, &e))?.path();
        sync_dirs(&path)?;
    }
    sync_dir(dir)
}
