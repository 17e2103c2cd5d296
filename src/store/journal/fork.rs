//! Taking files over from one run into a new one.
//!
//! Committed files never change, so a hard link is as good as a copy, and costs nothing; a copy is made where the file system
//! knows no links. The manifest comes last and all at once: without it the directory is no run, and is cleared the next time.

use std::collections::BTreeSet;
use std::path::Path;
use std::{fs, io};

use super::damage::{damaged, wrong};
use super::entry::{Entry, FORMAT, InputEntry, ModelEntry, Taken};
use super::gc::{clear, refuse_foreign};
use super::lock::{Lock, SharedLock};
use super::manifest;
use super::owned::refuse_links;
use super::paths::UNFINISHED_MANIFEST;
use super::pipeline_file::{self, pipeline_hash, steps_of};
use super::run::Run;
use crate::error::{Error, ErrorKind, Result};
use crate::store::files::atomic::{AtomicFile, create_dirs, sync_dir, write_bytes};
use crate::store::files::integrity::same_bytes;
use crate::store::files::io_error::io_error;

/// What a new run takes over from another.
pub struct RunFork<'a> {
    /// The run that has it.
    pub source: &'a Run,
    /// The steps from which on the new run makes its rows itself; for the manifest.
    pub from: &'a [String],
    /// Whether what a step, or a dataset beside one, has in an iteration is taken.
    pub takes: &'a dyn Fn(&str, u32) -> bool,
    /// Whether an external input that the source has recorded is still the same, and read by the new run too.
    pub keeps: &'a dyn Fn(&InputEntry) -> bool,
    /// The hash of the weights of the model in a directory.
    pub weights: &'a dyn Fn(&Path) -> Result<String>,
}

impl RunFork<'_> {
    /// The lines of the source's manifest that are taken, in its order.
    ///
    /// # Errors
    /// The manifest is damaged; the rows of a step that is needed were not kept.
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
                // Of several for one training the last counts.
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

    /// What the source recorded of external inputs that the new run reads too, and that are still the same.
    fn inputs(&self) -> Vec<Entry> {
        self.source.inputs().into_iter().filter(|input| (self.keeps)(input)).map(Entry::Input).collect()
    }

    fn not_kept(&self, step: &str) -> Error {
        let run = self.source.dir().display();
        Error::user(format!("the rows of `{step}` are needed, and the run `{run}` has not kept them"))
            .help(format!("`--from {step}` makes them again; without its `keep = false` they would be there"))
    }

    /// Begins the run in `dir`, under `pipeline_text` and `seed`, with what it takes over, each file checked against its hash.
    /// Returns false where that was done before: the run is there, of the same file and with the same files of the same run.
    ///
    /// # Errors
    /// There is another run, or something that is no run; another process writes one of the two runs; a file is damaged or gone;
    /// a full disk, which leaves no run behind.
    pub fn begin(&self, dir: &Path, pipeline_text: &str, seed: u64) -> Result<bool> {
        let source = self.source;
        // Nobody goes on with the source while its files are taken over.
        let _shared = SharedLock::take(source.dir())?;
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
            return if same && there.taken().is_some_and(|t| t.is_of_the_same(&taken)) {
                Ok(false)
            } else {
                Err(Error::user(format!("there is a run at `{}` already, and not this one", dir.display()))
                    .help("choose another name with --into"))
            };
        }
        if !dir.join(UNFINISHED_MANIFEST).exists() {
            refuse_foreign(dir)?;
        }
        let (_lock, _) = Lock::take(dir)?;
        clear(dir)?;
        // Until the run is whole, this is what to remove of it.
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
                    same_bytes(&path, m.bytes, &m.hash).map_err(|why| wrong(&path, &why))?;
                    link(&path, &dir.join(&m.path))?;
                }
                Entry::Model(m) => self.model(m, dir)?,
                _ => {}
            }
        }
        for part in ["data", "metrics", "models"] {
            sync_dirs(&dir.join(part))?;
        }
        sync_dir(dir)?;
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
            same_bytes(&path, file.bytes, &file.hash).map_err(|why| wrong(&path, &why))?;
            link(&path, &dir.join(&model.path).join(name))?;
        }
        if !model.files.is_empty() {
            return Ok(());
        }
        // A manifest of before models had their files listed.
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

/// Gives a file a second name, or where that cannot be, a copy. Files of a run are never changed in place, so both are as good.
///
/// # Errors
/// It cannot be read; the disk is full.
pub fn link(from: &Path, to: &Path) -> Result<()> {
    if let Some(dir) = to.parent() {
        create_dirs(dir)?;
    }
    // A second name of a symbolic link would be one more symbolic link, which may lead nowhere from its new place.
    let plain = fs::symlink_metadata(from).is_ok_and(|m| m.is_file());
    if plain && fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    let mut read = fs::File::open(from).map_err(|e| io_error("reading", from, &e))?;
    let mut file = AtomicFile::create(to)?;
    if let Err(e) = io::copy(&mut read, &mut file) {
        return Err(file.error(e));
    }
    file.publish()
}

/// Makes the names in a directory and below last; what they name is on the disk already.
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
